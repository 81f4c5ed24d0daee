//! Towers inside the configuration of a CLIP or SigLIP model.

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// The configuration of a tower of CLIP or SigLIP under `key`. Old files also have a `{key}_dict`, which takes
/// precedence in the reference. If both are missing, the class's defaults apply.
pub(super) fn tower(object: &Object, key: &str, model_type: &str) -> Result<Object, CheckpointError> {
    let old = format!("{key}_dict");
    let key = if object.get(&old).is_some() { &old } else { key };
    Ok(object.object_or_empty(key)?.with_default("model_type", model_type))
}
