//! The state of a run, from which it continues as if it had not been stopped.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::TuneError;
use super::evaluation;
use super::lock::Locking;
use super::ops::{tensor, to_vec};
use super::optimizer::{AdamW, Optimizer, Schedule};
use super::parameters::Parameters;
use super::replace::replace_by;
use crate::checkpoint::WeightsFile;
use crate::tensor_file::{self, Entry};

/// What determines a run. A state is used only by the same one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    /// SHA-256 of the checkpoint's weights.
    pub(super) checkpoint: String,
    /// SHA-256 of images and sentences that are trained on.
    pub(super) data: String,
    /// SHA-256 of those that are evaluated.
    pub(super) eval: String,
    pub(super) locking: Locking,
    pub(super) optimizer: AdamW,
    pub(super) warmup: u64,
    pub(super) batch: usize,
    pub(super) epochs: Option<u64>,
    pub(super) minutes: Option<f64>,
    pub(super) seed: u64,
}

/// The results after an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Number of epochs done; 0 before training.
    pub epoch: u64,
    /// Number of steps done.
    pub step: u64,
    /// Seconds spent on training.
    pub seconds: f64,
    /// Mean loss of the epoch's steps; `None` before training.
    pub loss: Option<f64>,
    /// One result for each set.
    pub results: Vec<evaluation::Result>,
}

impl Epoch {
    /// One number to compare by: the mean over all sets.
    pub(super) fn score(&self) -> f64 {
        self.results.iter().map(evaluation::Result::score).sum::<f64>() / self.results.len().max(1) as f64
    }
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) run: Run,
    /// Known from the start, or with a limit of time, after warm-up.
    pub(super) schedule: Schedule,
    /// Number of steps done.
    pub(super) step: u64,
    /// Seconds spent on training.
    pub(super) seconds: f64,
    /// Loss and logit scale of each step.
    pub(super) losses: Vec<[f32; 2]>,
    /// Results after each epoch.
    pub(super) epochs: Vec<Epoch>,
}

/// Start of the names of the tensors of each kind.
const KINDS: [&str; 3] = ["weight/", "mean/", "square/"];

/// The tensor that holds [`Progress`] as JSON.
const PROGRESS: &str = "progress";

/// Replaces the state at `path`.
pub(super) fn save(
    path: &Path,
    parameters: &Parameters<'_>,
    optimizer: &Optimizer,
    progress: &Progress,
) -> Result<(), TuneError> {
    replace_by(path, |aside| {
        let io = |source: std::io::Error| TuneError::Io { path: aside.to_owned(), source };
        let json = serde_json::to_vec(progress).map_err(|error| io(error.into()))?;
        let mut weights = Vec::new();
        for (name, var) in parameters.trained() {
            weights.push((format!("{}{name}", KINDS[0]), var.dims().to_vec(), to_vec(var)?));
        }
        let mut entries = vec![Entry {
            name: PROGRESS.to_owned(),
            dtype: Dtype::U8,
            shape: vec![json.len()],
            write: Box::new(|out: &mut dyn Write| {
                out.write_all(&json).map_err(|source| crate::Error::Io { path: aside.to_owned(), source })
            }),
        }];
        for (name, shape, values) in &weights {
            entries.push(Entry::floats(name.clone(), shape.clone(), values, aside));
        }
        for (name, moments) in &optimizer.moments {
            for (kind, values) in KINDS[1..].iter().zip(moments) {
                entries.push(Entry::floats(format!("{kind}{name}"), vec![values.len()], values, aside));
            }
        }
        tensor_file::write(aside, HashMap::new(), entries, &|| ())?;
        Ok(())
    })
}

/// Reads the state at `path` into `parameters` and an optimizer.
///
/// # Errors
/// The file is damaged, or of a run with other data or options than `run`.
pub(super) fn load(path: &Path, parameters: &Parameters<'_>, run: &Run) -> Result<(Optimizer, Progress), TuneError> {
    let wrong = |what: &str, expected: String, found: String, advice| {
        Err(TuneError::State { path: path.to_owned(), what: what.to_owned(), expected, found, advice })
    };
    const START_AGAIN: &str = "start again without --resume and with another --out";
    let file = WeightsFile::open(path)?;
    let mut json = Vec::new();
    file.bytes(PROGRESS, &mut |bytes| {
        json.extend_from_slice(bytes);
        Ok(())
    })?;
    let progress: Progress = match serde_json::from_slice(&json) {
        Ok(progress) => progress,
        Err(error) => return wrong(PROGRESS, "the state of a run".into(), error.to_string(), START_AGAIN),
    };
    if let Some((what, expected, found)) = differing(run, &progress.run) {
        let advice = "give the options and the data that the run was started with, or start again with another --out";
        return wrong(&what, expected, found, advice);
    }
    let read = |kind: &str, name: &str, count: usize| -> Result<Vec<f32>, TuneError> {
        let mut values = Vec::with_capacity(count);
        file.floats(&format!("{kind}{name}"), &mut |piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        if values.len() == count {
            return Ok(values);
        }
        wrong(name, format!("{count} values"), values.len().to_string(), START_AGAIN)?;
        Ok(values)
    };
    let mut optimizer = Optimizer { updates: progress.step, ..Optimizer::default() };
    for (name, var) in parameters.trained() {
        let count = var.elem_count();
        var.set(&tensor(read(KINDS[0], name, count)?, var.dims())?)?;
        if file.get(&format!("{}{name}", KINDS[1])).is_some() {
            let moments = [read(KINDS[1], name, count)?, read(KINDS[2], name, count)?];
            optimizer.moments.insert(name.clone(), moments);
        }
    }
    Ok((optimizer, progress))
}

/// The first field in which two runs differ, with both values.
fn differing(run: &Run, other: &Run) -> Option<(String, String, String)> {
    let fields = |run: &Run| match serde_json::to_value(run) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (ours, theirs) = (fields(run), fields(other));
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    let field = ours.keys().find(|key| ours.get(*key) != theirs.get(*key))?;
    Some((field.clone(), shown(ours.get(field)), shown(theirs.get(field))))
}
