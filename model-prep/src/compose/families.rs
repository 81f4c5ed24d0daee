//! The parts of each architecture's bare model, as in transformers 4.56.2.

use spotter_engine::bundle::TowerKind;

/// One architecture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// Its `model_type` in `config.json`.
    pub(super) model_type: &'static str,
    /// Prefix of the tower's tensor names in checkpoints of models with a head, with a dot.
    pub(super) prefix: &'static str,
    /// Prefix of all tensor names of the bare model, with a dot, or empty.
    pub(super) own: &'static str,
    /// A tensor whose last axis has the width of the tower's output.
    pub(super) width_of: &'static str,
    /// Other tensors, which distinguish this architecture from others.
    pub(super) required: &'static [&'static str],
    /// Prefix of the layer number in tensor names; empty if layers have different tensors.
    pub(super) layers: &'static str,
    /// Its pooler, between the last layer and the projection.
    pub(super) pooler: Pooler,
    /// Default of `use_mask_token`: whether the model has a mask token. `None` if the architecture has neither.
    pub(super) mask_token: Option<bool>,
    /// Its image processor or tokenizer class.
    pub(super) processor: &'static str,
}

/// The pooler between the last layer and the projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooler {
    /// None, or one that every checkpoint has.
    Always,
    /// A dense layer; its initial weights are normally distributed.
    Dense,
    /// A dense layer; its initial weights are normally distributed, truncated to -2 to 2.
    DenseTruncated,
    /// A layer norm, if `use_mean_pooling` is set.
    MeanNorm,
}

const VIT: Family = Family {
    model_type: "vit",
    prefix: "vit.",
    own: "",
    width_of: "layernorm.weight",
    required: &["embeddings.cls_token", "embeddings.position_embeddings"],
    layers: "encoder.layer.",
    pooler: Pooler::DenseTruncated,
    mask_token: None,
    processor: "ViTImageProcessor",
};

const CLIP_VISION: Family = Family {
    model_type: "clip_vision_model",
    prefix: "clip.",
    own: "vision_model.",
    width_of: "vision_model.post_layernorm.weight",
    required: &["vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight"],
    layers: "vision_model.encoder.layers.",
    pooler: Pooler::Always,
    mask_token: None,
    processor: "CLIPImageProcessor",
};

const DINOV2: Family = Family {
    model_type: "dinov2",
    prefix: "dinov2.",
    pooler: Pooler::Always,
    mask_token: Some(true),
    processor: "BitImageProcessor",
    ..VIT
};

const VISION: [Family; 8] = [
    VIT,
    Family {
        model_type: "deit",
        prefix: "deit.",
        required: &["embeddings.distillation_token", "embeddings.position_embeddings"],
        processor: "DeiTImageProcessor",
        ..VIT
    },
    Family {
        model_type: "beit",
        prefix: "beit.",
        width_of: "embeddings.cls_token",
        required: &["embeddings.patch_embeddings.projection.weight"],
        pooler: Pooler::MeanNorm,
        mask_token: Some(false),
        processor: "BeitImageProcessor",
        ..VIT
    },
    DINOV2,
    Family {
        model_type: "dinov2_with_registers",
        prefix: "dinov2_with_registers.",
        required: &["embeddings.register_tokens", "embeddings.position_embeddings"],
        ..DINOV2
    },
    Family {
        model_type: "swin",
        prefix: "swin.",
        required: &["embeddings.norm.weight"],
        layers: "",
        pooler: Pooler::Always,
        ..VIT
    },
    CLIP_VISION,
    Family {
        model_type: "siglip_vision_model",
        prefix: "siglip.",
        required: &["vision_model.head.probe"],
        processor: "SiglipImageProcessor",
        ..CLIP_VISION
    },
];

const BERT: Family = Family {
    model_type: "bert",
    prefix: "bert.",
    own: "",
    width_of: "embeddings.LayerNorm.weight",
    required: &["embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"],
    layers: "encoder.layer.",
    pooler: Pooler::Dense,
    mask_token: None,
    processor: "BertTokenizer",
};

const TEXT: [Family; 6] = [
    BERT,
    Family { model_type: "roberta", prefix: "roberta.", processor: "RobertaTokenizer", ..BERT },
    Family { model_type: "xlm-roberta", prefix: "roberta.", processor: "XLMRobertaTokenizer", ..BERT },
    Family { model_type: "camembert", prefix: "roberta.", processor: "CamembertTokenizer", ..BERT },
    Family {
        model_type: "mpnet",
        prefix: "mpnet.",
        required: &["embeddings.word_embeddings.weight", "encoder.relative_attention_bias.weight"],
        processor: "MPNetTokenizer",
        ..BERT
    },
    Family {
        model_type: "clip_text_model",
        prefix: "clip.",
        own: "text_model.",
        width_of: "text_model.final_layer_norm.weight",
        required: &["text_model.embeddings.token_embedding.weight"],
        layers: "text_model.encoder.layers.",
        pooler: Pooler::Always,
        processor: "CLIPTokenizer",
        ..BERT
    },
];

/// Dual encoders, and the `model_type` of the image tower in their `vision_config`.
pub(super) const NESTED: [(&str, &str); 2] = [("clip", "clip_vision_model"), ("siglip", "siglip_vision_model")];

fn families(tower: TowerKind) -> &'static [Family] {
    match tower {
        TowerKind::Image => &VISION,
        TowerKind::Text => &TEXT,
    }
}

/// The architecture that `config.json` calls `model_type`.
pub(super) fn family(tower: TowerKind, model_type: &str) -> Option<&'static Family> {
    families(tower).iter().find(|family| family.model_type == model_type)
}

/// Describes the accepted architectures.
pub(super) fn accepted(tower: TowerKind) -> String {
    let names = families(tower).iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
    match tower {
        TowerKind::Image => format!("image towers: {names}, and those inside of clip and siglip"),
        TowerKind::Text => format!("text towers with a pooler: {names}"),
    }
}
