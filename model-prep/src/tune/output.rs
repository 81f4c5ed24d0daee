//! The result: a directory that `from_pretrained` opens.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::error::TuneError;
use super::lock::Lock;
use super::ops::to_vec;
use super::parameters::Parameters;
use super::replace::{replace, replace_by};
use super::state::{Epoch, Run};
use crate::checkpoint::{Checkpoint, Object, name_of, read_optional};
use crate::tensor_file::{self, Entry};

/// The file of a checkpoint's weights.
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";

/// Files of tokenizer and image processor, which are copied unchanged.
const COPIED: [&str; 11] = [
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
];

/// Writes all files but the weights into the folder `out`.
pub(super) fn write_files(out: &Path, checkpoint: &Checkpoint, card: &str) -> Result<(), TuneError> {
    std::fs::create_dir_all(out).map_err(|source| TuneError::Io { path: out.to_owned(), source })?;
    for name in COPIED {
        if let Some(bytes) = read_optional(&checkpoint.path.join(name))? {
            replace(&out.join(name), &bytes)?;
        }
    }
    let mut config = Object::read(&checkpoint.path.join("config.json"))?.map().clone();
    set_dtype(&mut config);
    for key in ["vision_config", "text_config"] {
        if let Some(Value::Object(nested)) = config.get_mut(key) {
            set_dtype(nested);
        }
    }
    let json = serde_json::to_vec_pretty(&config).map_err(|error| {
        let (path, source) = (out.join("config.json"), error.into());
        TuneError::Io { path, source }
    })?;
    replace(&out.join("config.json"), &json)?;
    replace(&out.join("MODEL_CARD.md"), card.as_bytes())
}

/// The weights are written with 32 bits, whatever they were read as.
fn set_dtype(config: &mut Map<String, Value>) {
    config.remove("torch_dtype");
    config.insert("dtype".into(), "float32".into());
}

/// Writes the file of weights into the folder `out`: the trained weights, and the others as they are.
pub(super) fn write_weights(out: &Path, checkpoint: &Checkpoint, parameters: &Parameters<'_>) -> Result<(), TuneError> {
    let mut trained = HashMap::new();
    for (name, var) in parameters.trained() {
        trained.insert(name.as_str(), to_vec(var)?);
    }
    let stored = checkpoint.tensors.stored();
    // Integers are buffers that the model creates itself, but for Swin's.
    let stored = stored.filter(|(name, stored)| stored.is_float() || name.ends_with("relative_position_index"));
    replace_by(&out.join(WEIGHTS_FILE), |aside| {
        let entries = stored.map(|(name, stored)| {
            let saved = checkpoint.tensors.saved_name(name).unwrap_or_else(|| name.clone());
            if let Some(values) = trained.get(name.as_str()) {
                return Entry::floats(saved, stored.shape.clone(), values, aside);
            }
            let dtype = if stored.is_float() { Dtype::F32 } else { stored.dtype };
            let tensors = &checkpoint.tensors;
            let write = Box::new(move |out: &mut dyn io::Write| tensors.write_to(name, out, aside));
            Entry { name: saved, dtype, shape: stored.shape.clone(), write }
        });
        // The reference writes this metadata, and its loader requires it.
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        tensor_file::write(aside, format, entries.collect(), &|| ())?;
        Ok(())
    })
}

/// The model card: where the weights come from, and what was measured.
pub(super) fn model_card(checkpoint: &Checkpoint, run: &Run, data: &[PathBuf], epochs: &[Epoch]) -> String {
    let name = checkpoint.name();
    let locked = match run.locking.lock {
        Lock::Image => "the image tower locked (LiT)",
        Lock::Text => "the text tower locked",
        Lock::Both => "both towers locked, so that only projections were trained",
        Lock::None => "both towers trained",
    };
    let layers = run.locking.train_layers.map_or(String::new(), |count| format!(", last {count} layers only"));
    let sets: Vec<String> = data.iter().filter_map(|path| Some(format!("`{}`", name_of(path)?))).collect();
    let steps = epochs.last().map_or(0, |epoch| epoch.step);
    let mut card = format!(
        "# {name}, tuned\n\n`model-prep tune` trained the checkpoint `{name}` on {}, with {locked}{layers}: {steps} steps \
         of {} pairs, learning rate {}, seed {}. Its licence and the terms of the images apply to the result too.\n",
        sets.join(", "),
        run.batch,
        run.optimizer.rate,
        run.seed
    );
    if !epochs.is_empty() {
        card.push_str("\n| epochs | loss | results |\n|---|---|---|\n");
    }
    for Epoch { epoch, loss, results, .. } in epochs {
        let loss = loss.map_or("before training".to_owned(), |loss| format!("{loss:.4}"));
        let results: Vec<String> = results.iter().map(ToString::to_string).collect();
        let _ = writeln!(card, "| {epoch} | {loss} | {} |", results.join("; "));
    }
    if let Some(own) = &checkpoint.model_card {
        card.push_str("\nThe card of the checkpoint that was tuned:\n\n---\n\n");
        card.push_str(&String::from_utf8_lossy(own));
    }
    card
}
