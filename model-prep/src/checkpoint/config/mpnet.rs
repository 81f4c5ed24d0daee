//! `text_config` of an MPNet encoder.

use super::{EncoderConfig, EncoderDefaults};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;

/// An MPNet encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct MpnetConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Rows of the table of word embeddings.
    pub vocab_size: usize,
    /// Rows of the table of position embeddings.
    pub max_position_embeddings: usize,
    /// Rows of the table of biases for distances between tokens.
    pub buckets: usize,
}

impl MpnetConfig {
    /// Id of the padding token, behind which positions start; whatever the configuration says.
    pub const PAD_TOKEN_ID: usize = 1;

    /// Buckets that distances are sorted into; whatever the configuration says.
    pub const BUCKETS_USED: usize = 32;

    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let positions = object.or("max_position_embeddings", 512, "a whole number above 4", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > Self::PAD_TOKEN_ID + 3)
        })?;
        let few = format!("at least {}, which distances are sorted into", Self::BUCKETS_USED);
        let buckets = object.or("relative_attention_num_buckets", Self::BUCKETS_USED, &few, |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n >= Self::BUCKETS_USED)
        })?;
        Ok(Self {
            encoder: EncoderConfig::read(object, &EncoderDefaults::BERT)?,
            vocab_size: object.count("vocab_size", 30527)?,
            max_position_embeddings: positions,
            buckets,
        })
    }
}
