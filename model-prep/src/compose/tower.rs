//! One tower of a checkpoint: the bare model, without the head it was saved with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::draw::Distribution;
use super::families::{Family, NESTED, Pooler, accepted, family};
use super::weights::{Planned, Values};
use crate::checkpoint::{CheckpointError, Object, Tensors, locate, without_old_suffixes};
use spotter_engine::bundle::TowerKind;

/// A tower whose tensors were checked against its architecture.
#[derive(Debug)]
pub(super) struct Tower {
    /// Folder of its checkpoint.
    pub(super) path: PathBuf,
    pub(super) family: &'static Family,
    /// Its configuration.
    config: Object,
    tensors: Tensors,
    /// Tensor names in the checkpoint, by their names in the bare model.
    names: BTreeMap<String, String>,
    /// Width of its output.
    pub(super) width: usize,
}

impl Tower {
    /// Opens the checkpoint in the directory `path`.
    pub(super) fn open(path: &Path, kind: TowerKind) -> Result<Self, CheckpointError> {
        let path = &locate(path)?;
        let (config, family) = read_config(&path.join("config.json"), kind)?;
        let tensors = Tensors::open_renamed(path, without_old_suffixes)?;
        let mask_token = match family.mask_token {
            Some(default) => config.flag("use_mask_token", default)?,
            None => false,
        };
        let mut names = bare_names(&tensors, family);
        names.retain(|name, _| mask_token || name != "embeddings.mask_token");
        let mut tower = Self { path: path.to_owned(), family, config, tensors, names, width: 0 };
        tower.width = tower.read_width()?;
        tower.check_layers()?;
        Ok(tower)
    }

    /// Width of the output by the tensors; an error if the configuration differs.
    fn read_width(&self) -> Result<usize, CheckpointError> {
        let name = self.family.width_of;
        const OTHER: &str = "; the checkpoint holds another model than its config.json describes";
        if let Some(missing) = self.family.required.iter().find(|name| !self.names.contains_key(**name)) {
            return Err(self.missing(missing, OTHER));
        }
        let Some(&width) = self.shape(name).and_then(<[usize]>::last) else {
            return Err(self.missing(name, OTHER));
        };
        if self.config.count("hidden_size", width)? != width {
            let expected = format!("{width}, the width of {name}");
            return Err(self.config.wrong("hidden_size", &expected, self.config.get("hidden_size")));
        }
        Ok(width)
    }

    /// Checks that all layers are there, each with the same tensors.
    fn check_layers(&self) -> Result<(), CheckpointError> {
        let prefix = self.family.layers;
        if prefix.is_empty() {
            return Ok(());
        }
        let mut layers = BTreeMap::<&str, BTreeSet<&str>>::new();
        for name in self.names.keys() {
            if let Some((number, rest)) = name.strip_prefix(prefix).and_then(|rest| rest.split_once('.')) {
                layers.entry(number).or_default().insert(rest);
            }
        }
        let all: BTreeSet<&str> = layers.values().flatten().copied().collect();
        for number in 0..self.config.count("num_hidden_layers", 12)? {
            let found = layers.get(number.to_string().as_str());
            if let Some(rest) = all.iter().find(|rest| !found.is_some_and(|found| found.contains(*rest))) {
                return Err(self.missing(&format!("{prefix}{number}.{rest}"), "; other layers have it"));
            }
            if all.is_empty() {
                return Err(self.missing(&format!("{prefix}{number}.*"), ""));
            }
        }
        Ok(())
    }

    /// The tensors that are copied from the checkpoint.
    pub(super) fn copied(&self) -> Vec<Planned<'_>> {
        let planned = self.names.iter().filter_map(|(bare, name)| {
            let stored = self.tensors.get(name)?;
            let dtype = if stored.is_float() { Dtype::F32 } else { stored.dtype };
            let values = Values::Copied { tensors: &self.tensors, name: name.clone() };
            Some(Planned { name: bare.clone(), dtype, shape: stored.shape.clone(), values })
        });
        planned.collect()
    }

    /// The tensors of a new pooler, if the model has one and the checkpoint does not; initialised as in the reference.
    pub(super) fn missing_pooler(&self) -> Result<Vec<Planned<'static>>, CheckpointError> {
        let deviation = self.config.number("initializer_range", 0.02)?;
        let square = vec![self.width; 2];
        let dense = |truncated| ("dense", square.clone(), Distribution::Normal { deviation, truncated });
        let (layer, shape, weight) = match self.family.pooler {
            Pooler::Dense => dense(false),
            Pooler::DenseTruncated => dense(true),
            Pooler::MeanNorm if self.config.flag("use_mean_pooling", true)? => {
                ("layernorm", vec![self.width], Distribution::Constant(1.0))
            }
            Pooler::MeanNorm | Pooler::Always => return Ok(Vec::new()),
        };
        let parts = [("weight", shape, weight), ("bias", vec![self.width], Distribution::Constant(0.0))];
        let missing = parts.into_iter().filter_map(|(part, shape, distribution)| {
            let name = format!("pooler.{layer}.{part}");
            let values = Values::Drawn(distribution);
            (!self.names.contains_key(&name)).then_some(Planned { name, dtype: Dtype::F32, shape, values })
        });
        Ok(missing.collect())
    }

    /// The `relative_position_index` buffers of Swin, if missing: transformers 4 saves them, transformers 5 does not.
    pub(super) fn position_indices(&self) -> Vec<Planned<'static>> {
        const TABLE: &str = "relative_position_bias_table";
        if self.family.model_type != "swin" {
            return Vec::new();
        }
        let planned = self.names.keys().filter_map(|name| {
            let index = format!("{}relative_position_index", name.strip_suffix(TABLE)?);
            // The table has (2 side - 1)^2 rows.
            let side = self.shape(name)?.first()?.isqrt().div_ceil(2);
            let positions = side * side;
            let values = Values::Integers(window_indices(side));
            let planned = Planned { name: index, dtype: Dtype::I64, shape: vec![positions; 2], values };
            (!self.names.contains_key(&planned.name)).then_some(planned)
        });
        planned.collect()
    }

    /// Its configuration inside the new `config.json`.
    pub(super) fn nested_config(&self) -> Map<String, Value> {
        let mut map = self.config.map().clone();
        for key in ["transformers_version", "_name_or_path", "torch_dtype"] {
            map.remove(key);
        }
        map.insert("model_type".into(), self.family.model_type.into());
        map.insert("dtype".into(), "float32".into());
        map
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.shape(self.names.get(name)?)
    }

    fn missing(&self, name: &str, hint: &'static str) -> CheckpointError {
        let (path, tensor) = (self.path.clone(), name.to_owned());
        CheckpointError::MissingTensor { path, tensor, expected: Vec::new(), hint }
    }
}

/// `relative_position_index` of a square window, in row-major order.
fn window_indices(side: usize) -> Vec<i64> {
    let axis = |a: usize, b: usize| (a + side - 1 - b) as i64;
    let places = || (0..side).flat_map(|y| (0..side).map(move |x| (y, x)));
    let row = |(y, x): (usize, usize)| {
        places().map(move |(other_y, other_x)| axis(y, other_y) * (2 * side as i64 - 1) + axis(x, other_x))
    };
    places().flat_map(row).collect()
}

/// Reads the tower's configuration, from inside a dual encoder's if it is one.
fn read_config(path: &Path, tower: TowerKind) -> Result<(Object, &'static Family), CheckpointError> {
    let mut config = Object::read(path)?;
    let mut model_type = config.text("model_type", "")?;
    let nested = NESTED.iter().find(|(outer, _)| *outer == model_type);
    if let (Some((_, inner)), TowerKind::Image) = (nested, tower) {
        config = config.object("vision_config")?;
        model_type = (*inner).to_owned();
    }
    match family(tower, &model_type) {
        Some(family) => Ok((config, family)),
        None => Err(config.unsupported("model_type", format!("{model_type:?}"), accepted(tower))),
    }
}

/// Maps the bare model's tensor names to those in the checkpoint, without the head's tensors and its prefix.
fn bare_names(tensors: &Tensors, family: &Family) -> BTreeMap<String, String> {
    // Integer tensors are buffers that the model creates itself; only Swin's is kept.
    let kept = tensors.stored().filter(|(name, s)| s.is_float() || name.ends_with("relative_position_index"));
    let all: Vec<&String> = kept.map(|(name, _)| name).collect();
    // As in the reference: if any name has the prefix, names without it belong to a head.
    let has = |prefix: &str| !prefix.is_empty() && all.iter().any(|name| name.starts_with(prefix));
    let (prefix, own) = (has(family.prefix), has(family.own));
    let named = all.iter().filter_map(|&name| {
        let bare = if prefix { name.strip_prefix(family.prefix)? } else { name.as_str() };
        match (family.own, own) {
            ("", _) => Some((bare.to_owned(), name.clone())),
            (inner, true) => bare.starts_with(inner).then(|| (bare.to_owned(), name.clone())),
            // Transformers 5 saves these towers without their own prefix.
            (inner, false) => Some((format!("{inner}{bare}"), name.clone())),
        }
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::window_indices;

    #[test]
    fn indices_of_a_window_of_two() {
        let expected = [4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4];
        assert_eq!(window_indices(2), expected);
    }
}
