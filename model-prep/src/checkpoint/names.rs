//! Maps tensor names of all transformers versions to those of transformers 4, which this crate uses.

/// Pairs of module names: in transformers 5, and in transformers 4, which is also what both save.
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

/// Suffixes in checkpoints converted from TensorFlow, and what transformers 4 renames them to on loading.
const OLD_SUFFIXES: [(&str, &str); 2] = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];

/// Name parts that wrappers around a model or its modules leave in a state dict, and the wrapper.
const WRAPPERS: [(&str, &str); 4] = [
    ("_orig_mod.", "torch.compile"),
    ("module.", "DataParallel or DistributedDataParallel"),
    ("_fsdp_wrapped_module.", "FullyShardedDataParallel"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
];

/// Removes all wrappers' parts from a name. Also returns the last such part, with the wrapper that adds it.
pub(crate) fn unwrapped(name: &str) -> (String, Option<(&'static str, &'static str)>) {
    let mut found = None;
    let kept = name.split_inclusive('.').filter(|part| {
        let wrapper = WRAPPERS.iter().find(|(wrapper, _)| wrapper == part);
        found = wrapper.copied().or(found);
        wrapper.is_none()
    });
    (kept.collect(), found)
}

/// The name in transformers 4.56.2 of the tensor that any version calls `name`. Towers of CLIP and SigLIP inside a dual
/// encoder have the prefix `vision_model.` or `text_model.` twice; it is kept once.
pub(crate) fn canonical(name: &str) -> String {
    let mut name = name.to_owned();
    for tower in ["vision_model.", "text_model."] {
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
    without_old_suffixes(&name)
}

/// Replaces a TensorFlow-era suffix by the current one.
pub(crate) fn without_old_suffixes(name: &str) -> String {
    for (old, new) in OLD_SUFFIXES {
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
    fn names_without_wrappers() {
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
    fn names_of_all_versions() {
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
