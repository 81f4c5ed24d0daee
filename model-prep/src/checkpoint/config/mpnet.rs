//! `text_config` of MPNet.

use super::encoder::{EncoderConfig, EncoderDefaults};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// MPNet.
#[derive(Debug, Clone, PartialEq)]
pub struct MpnetConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Number of rows of the word embedding table.
    pub vocab_size: usize,
    /// Number of rows of the position embedding table.
    pub max_position_embeddings: usize,
    /// Number of rows of the relative attention bias table.
    pub buckets: usize,
}

impl MpnetConfig {
    /// Id of the padding token, after which positions start. Fixed in the reference; the configuration's value is
    /// ignored.
    pub const PAD_TOKEN_ID: usize = 1;

    /// Number of buckets for distances between tokens. Fixed in the reference; the configuration's value is ignored.
    pub const BUCKETS_USED: usize = 32;

    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let positions = object.or("max_position_embeddings", 512, "a whole number above 4", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > Self::PAD_TOKEN_ID + 3)
        })?;
        let few = format!("at least {}, the number of buckets in use", Self::BUCKETS_USED);
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
