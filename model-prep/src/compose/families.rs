//! What the bare model of each architecture consists of, as transformers 4.56.2 has it.

/// Which of the two towers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The image tower.
    Vision,
    /// The text tower.
    Text,
}

/// One architecture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// As `config.json` calls it.
    pub(super) model_type: &'static str,
    /// Before the tower's names in checkpoints of models with a head, with a dot.
    pub(super) prefix: &'static str,
    /// Before all names of the bare model itself, with a dot, or nothing.
    pub(super) own: &'static str,
    /// A tensor whose last axis is the width of the tower's output.
    pub(super) width_of: &'static str,
    /// Others that every such model has, and not every other.
    pub(super) required: &'static [&'static str],
    /// What comes before the number of a layer; nothing where layers differ from each other.
    pub(super) layers: &'static str,
    /// What stands between the last layer and the projection.
    pub(super) pooler: Pooler,
    /// Whether a mask token is part of the model, if `use_mask_token` is absent; `None` where that key means nothing
    /// and there is none.
    pub(super) mask_token: Option<bool>,
    /// Its class of image processors or tokenizers.
    pub(super) processor: &'static str,
}

/// What stands between the last layer and the projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooler {
    /// Nothing, or what every checkpoint has.
    Always,
    /// A dense layer, drawn from a normal distribution.
    Dense,
    /// A dense layer, drawn from a normal distribution cut at -2 and 2.
    DenseCut,
    /// A layer norm, where `use_mean_pooling` says so.
    MeanNorm,
}

const VIT: Family = Family {
    model_type: "vit",
    prefix: "vit.",
    own: "",
    width_of: "layernorm.weight",
    required: &["embeddings.cls_token", "embeddings.position_embeddings"],
    layers: "encoder.layer.",
    pooler: Pooler::DenseCut,
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

/// Dual encoders, and the `vision_config` and image tower inside.
pub(super) const NESTED: [(&str, &str); 2] = [("clip", "clip_vision_model"), ("siglip", "siglip_vision_model")];

impl Side {
    fn families(self) -> &'static [Family] {
        match self {
            Self::Vision => &VISION,
            Self::Text => &TEXT,
        }
    }

    /// The architecture that `config.json` calls `model_type`.
    pub(super) fn family(self, model_type: &str) -> Option<&'static Family> {
        self.families().iter().find(|family| family.model_type == model_type)
    }

    /// What is accepted, in words.
    pub(super) fn accepted(self) -> String {
        let names = self.families().iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
        match self {
            Self::Vision => format!("image towers: {names}, and those inside of clip and siglip"),
            Self::Text => format!("text towers with a pooler: {names}"),
        }
    }
}
