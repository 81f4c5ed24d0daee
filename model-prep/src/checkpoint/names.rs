//! Names of tensors across generations of transformers; transformers 4 is what this crate speaks.

/// What the modules of transformers 5 are called, and what transformers 4 calls them and saves.
type Renamed<const N: usize> = [(&'static str, &'static str); N];

/// In layers of ViT, DeiT, BEiT and DINOv2.
const ATTENTION: Renamed<4> = [
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
];

/// In layers of ViT, DeiT and BEiT.
const LAYER: Renamed<3> = [
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    (".relative_position_bias.", ".attention.attention.relative_position_bias."),
];

/// In layers of Swin Transformers.
const BLOCK: Renamed<7> = [
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.relative_position_bias.relative_position_bias_table", ".attention.self.relative_position_bias_table"),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
];

/// Ends of names in checkpoints converted from TensorFlow, which transformers 4 renames when it loads them.
const OLD_ENDS: [(&str, &str); 2] = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];

/// Parts of names that wrappers around a model or its modules leave in a state dict, and what they come from.
const WRAPPERS: [(&str, &str); 4] = [
    ("_orig_mod.", "torch.compile"),
    ("module.", "DataParallel or DistributedDataParallel"),
    ("_fsdp_wrapped_module.", "FullyShardedDataParallel"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
];

/// The name without what wrappers put into it, wherever and in whatever order they do, and the last wrapper that was
/// found, with its origin.
pub(crate) fn unwrapped(name: &str) -> (String, Option<(&'static str, &'static str)>) {
    let mut found = None;
    let kept = name.split_inclusive('.').filter(|part| {
        let wrapper = WRAPPERS.iter().find(|(wrapper, _)| wrapper == part);
        found = wrapper.copied().or(found);
        wrapper.is_none()
    });
    (kept.collect(), found)
}

/// The name that transformers 4.56.2 gives the tensor called `name` in a file of any generation, with one
/// `vision_model.` or `text_model.` in front where a tower of CLIP or SigLIP inside a dual encoder has two.
pub(crate) fn canonical(name: &str) -> String {
    let mut name = name.to_owned();
    for tower in ["vision_model.", "text_model."] {
        // Towers of CLIP and SigLIP keep their modules under a name that is the dual encoder's name of the tower too.
        if let Some(rest) = name.strip_prefix(tower)
            && rest.starts_with(tower)
        {
            name = rest.to_owned();
        }
    }
    if let Some(rest) = name.strip_prefix("vision_model.layers.") {
        name = replaced(&format!("vision_model.encoder.layer.{rest}"), &LAYER);
    } else if let Some(rest) = name.strip_prefix("vision_model.shared_position_bias.") {
        name = format!("vision_model.encoder.relative_position_bias.{rest}");
    } else if name.starts_with("vision_model.encoder.layers.") && name.contains(".blocks.") {
        name = replaced(&name, &BLOCK);
    }
    if name.starts_with("vision_model.encoder.layer.") {
        name = replaced(&name, &ATTENTION).replacen(".mlp.down_proj.", ".mlp.weights_out.", 1);
    }
    without_old_ends(&name)
}

/// The same name with the ends of today.
pub(crate) fn without_old_ends(name: &str) -> String {
    for (old, new) in OLD_ENDS {
        if let Some(start) = name.strip_suffix(old) {
            return format!("{start}{new}");
        }
    }
    name.to_owned()
}

fn replaced<const N: usize>(name: &str, renamed: &Renamed<N>) -> String {
    renamed.iter().fold(name.to_owned(), |name, (new, old)| name.replacen(new, old, 1))
}

#[cfg(test)]
mod tests {
    use super::{canonical, unwrapped};

    #[test]
    fn wrappers_leave_no_trace() {
        let check = |name: &str, expected: &str, wrapper: Option<&str>| {
            let (found, by) = unwrapped(name);
            assert_eq!((found.as_str(), by.map(|(part, _)| part)), (expected, wrapper), "{name}");
        };
        let name = "vision_model.encoder.layer.0.output.dense.bias";
        check(name, name, None);
        check("logit_scale", "logit_scale", None);
        check(&format!("_orig_mod.{name}"), name, Some("_orig_mod."));
        check(&format!("module.{name}"), name, Some("module."));
        check(&format!("_orig_mod.module.{name}"), name, Some("module."));
        check(&format!("module._orig_mod.{name}"), name, Some("_orig_mod."));
        check(&format!("module.module.{name}"), name, Some("module."));
        check("vision_model._orig_mod.layernorm.weight", "vision_model.layernorm.weight", Some("_orig_mod."));
        check("_fsdp_wrapped_module.text_model._fsdp_wrapped_module.x", "text_model.x", Some("_fsdp_wrapped_module."));
        check("a._checkpoint_wrapped_module.weight", "a.weight", Some("_checkpoint_wrapped_module."));
        check("submodule.weight", "submodule.weight", None);
        check("module", "module", None);
    }

    #[test]
    fn names_of_all_generations() {
        let check = |input: &str, expected: &str| assert_eq!(canonical(input), expected, "{input}");
        let kept = ["logit_scale", "text_model.encoder.layer.1.output.dense.bias", "vision_model.layernorm.weight"];
        for name in kept {
            check(name, name);
        }
        let layer = "vision_model.encoder.layer.11";
        for (new, old) in [
            ("attention.q_proj.weight", "attention.attention.query.weight"),
            ("attention.k_proj.bias", "attention.attention.key.bias"),
            ("attention.v_proj.weight", "attention.attention.value.weight"),
            ("attention.o_proj.weight", "attention.output.dense.weight"),
            ("mlp.fc1.weight", "intermediate.dense.weight"),
            ("mlp.fc2.bias", "output.dense.bias"),
            ("layernorm_before.weight", "layernorm_before.weight"),
        ] {
            check(&format!("vision_model.layers.11.{new}"), &format!("{layer}.{old}"));
            check(&format!("{layer}.{old}"), &format!("{layer}.{old}"));
        }
        let table = "relative_position_bias.relative_position_bias_table";
        check(
            &format!("vision_model.layers.1.{table}"),
            &format!("vision_model.encoder.layer.1.attention.attention.{table}"),
        );
        check("vision_model.layers.1.lambda_1", "vision_model.encoder.layer.1.lambda_1");
        check(&format!("vision_model.shared_position_bias.{}", &table[23..]), &format!("vision_model.encoder.{table}"));
        for (new, old) in [
            ("attention.q_proj.bias", "attention.attention.query.bias"),
            ("attention.o_proj.bias", "attention.output.dense.bias"),
            ("mlp.fc1.weight", "mlp.fc1.weight"),
            ("mlp.down_proj.weight", "mlp.weights_out.weight"),
            ("mlp.gate_proj.weight", "mlp.gate_proj.weight"),
            ("layer_scale1.lambda1", "layer_scale1.lambda1"),
        ] {
            check(&format!("{layer}.{new}"), &format!("{layer}.{old}"));
        }
        let block = "vision_model.encoder.layers.0.blocks.3";
        for (new, old) in [
            ("attention.k_proj.bias", "attention.self.key.bias"),
            ("attention.o_proj.weight", "attention.output.dense.weight"),
            (&format!("attention.{table}"), "attention.self.relative_position_bias_table"),
            ("mlp.fc2.weight", "output.dense.weight"),
            ("attention.self.relative_position_bias_table", "attention.self.relative_position_bias_table"),
        ] {
            check(&format!("{block}.{new}"), &format!("{block}.{old}"));
        }
        let layer = "vision_model.encoder.layers.0";
        for name in ["self_attn.q_proj.weight", "mlp.fc1.weight"] {
            check(&format!("{layer}.{name}"), &format!("{layer}.{name}"));
        }
        let name = "embeddings.position_embedding.weight";
        check(&format!("vision_model.vision_model.{name}"), &format!("vision_model.{name}"));
        check(&format!("text_model.text_model.{name}"), &format!("text_model.{name}"));
        check("text_model.embeddings.LayerNorm.gamma", "text_model.embeddings.LayerNorm.weight");
        check("text_model.embeddings.LayerNorm.beta", "text_model.embeddings.LayerNorm.bias");
    }
}
