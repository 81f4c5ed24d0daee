//! Names of tensors across generations of transformers; transformers 4 is what this crate speaks.

/// What the modules of transformers 5 are called, and what transformers 4 calls them and saves.
const RENAMED: [(&str, &str); 6] = [
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
];

/// Ends of names in checkpoints converted from TensorFlow, which transformers 4 renames when it loads them.
const OLD_ENDS: [(&str, &str); 2] = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];

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
        name = format!("vision_model.encoder.layer.{rest}");
        for (new, old) in RENAMED {
            name = name.replacen(new, old, 1);
        }
    }
    for (old, new) in OLD_ENDS {
        if let Some(start) = name.strip_suffix(old) {
            name = format!("{start}{new}");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::canonical;

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
        let name = "embeddings.position_embedding.weight";
        check(&format!("vision_model.vision_model.{name}"), &format!("vision_model.{name}"));
        check(&format!("text_model.text_model.{name}"), &format!("text_model.{name}"));
        check("text_model.embeddings.LayerNorm.gamma", "text_model.embeddings.LayerNorm.weight");
        check("text_model.embeddings.LayerNorm.beta", "text_model.embeddings.LayerNorm.bias");
    }
}
