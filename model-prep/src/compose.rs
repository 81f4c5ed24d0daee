//! Composes two single-tower checkpoints into one dual encoder, as
//! `VisionTextDualEncoderModel.from_vision_text_pretrained` and `save_pretrained` do: both towers unchanged, with new
//! random projections that must be trained.

mod draw;
mod families;
mod files;
mod processor;
mod tower;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use spotter_engine::printable::printable_path;
use spotter_engine::staging::StagingDir;

use self::draw::Distribution;
use self::files::{write, write_json};
use self::tower::Tower;
use self::weights::{Planned, Values};
use crate::checkpoint::name_of;
use crate::error::Error;
use crate::progress::Tick;
use spotter_engine::bundle::TowerKind;

/// Input and settings of a composition.
#[derive(Debug, Clone)]
pub struct Options {
    /// Checkpoint of the image tower.
    pub vision: PathBuf,
    /// Checkpoint of the text tower.
    pub text: PathBuf,
    /// Width of the shared embedding space.
    pub projection_dim: usize,
    /// Initial logit scale, a natural logarithm.
    pub logit_scale_init: f32,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Folder of the new checkpoint, which must not exist or be empty.
    pub out: PathBuf,
}

/// Result of a composition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Folder of the new checkpoint.
    pub out: PathBuf,
    /// `model_type` of both towers, image tower first.
    pub towers: [String; 2],
    /// Number of tensors.
    pub tensors: usize,
    /// Size of the weights file in bytes.
    pub bytes: u64,
    /// Names of the tensors that are new.
    pub drawn: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [vision, text] = &self.towers;
        let (out, tensors, megabytes) = (printable_path(&self.out), self.tensors, self.bytes as f64 / 1e6);
        writeln!(f, "{out}: image tower {vision}, text tower {text}, {tensors} tensors, {megabytes:.1} MB")?;
        writeln!(f, "newly initialised: {}", self.drawn.join(", "))?;
        writeln!(f)?;
        writeln!(f, "*** THIS MODEL DOES NOT WORK YET. Its projections are random, so images and texts do not match.")?;
        writeln!(f, "*** Train it (model-prep tune) on images with captions before you export it.")
    }
}

/// Approximate number of times that [`compose`] calls `tick`: the number of tensors of a typical pair of towers.
pub const STEPS: u64 = 400;

/// Composes two towers and writes the new checkpoint. Calls `tick` once per tensor.
pub fn compose(options: &Options, tick: Tick<'_>) -> Result<Report, Error> {
    let out = &options.out;
    let io = |source| Error::Io { path: out.clone(), source };
    let empty = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.exists() && !empty() {
        return Err(Error::InTheWay { path: out.clone() });
    }
    let vision = Tower::open(&options.vision, TowerKind::Image)?;
    let text = Tower::open(&options.text, TowerKind::Text)?;
    let planned = plan(&vision, &text, options)?;
    let aside = StagingDir::new(out, |_| Ok(())).map_err(io)?;
    let new = aside.path().join("new");
    let build = || -> Result<u64, Error> {
        std::fs::create_dir(&new).map_err(io)?;
        let bytes = weights::write(&new.join("model.safetensors"), &planned, options.seed, tick)?;
        write_json(&new.join("config.json"), &config(&vision, &text, options))?;
        processor::write(&vision, &text, &new)?;
        write(&new.join("MODEL_CARD.md"), model_card(&vision, &text, options).as_bytes())?;
        if out.exists() {
            std::fs::remove_dir(out).map_err(io)?;
        }
        std::fs::rename(&new, out).map_err(io)?;
        Ok(bytes)
    };
    let bytes = build()?;
    let drawn = planned.iter().filter(|tensor| !matches!(tensor.values, Values::Copied { .. }));
    Ok(Report {
        out: out.clone(),
        towers: [vision.family.model_type.to_owned(), text.family.model_type.to_owned()],
        tensors: planned.len(),
        bytes,
        drawn: drawn.map(|tensor| tensor.name.clone()).collect(),
    })
}

/// Lists all tensors of the new checkpoint.
fn plan<'a>(vision: &'a Tower, text: &'a Tower, options: &Options) -> Result<Vec<Planned<'a>>, Error> {
    let mut planned = Vec::new();
    for (tower, prefix) in [(vision, "vision_model"), (text, "text_model")] {
        let drawn = tower.missing_pooler()?;
        if !drawn.is_empty() {
            log::warn!(
                "{}: the tower was saved without its pooler; a new one is initialised at random, as in transformers, \
                 and must be trained",
                tower.path.display()
            );
        }
        for mut tensor in tower.copied().into_iter().chain(drawn).chain(tower.position_indices()) {
            tensor.name = format!("{prefix}.{}", tensor.name);
            planned.push(tensor);
        }
    }
    for (tower, name) in [(vision, "visual_projection.weight"), (text, "text_projection.weight")] {
        planned.push(Planned {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: vec![options.projection_dim, tower.width],
            values: Values::Drawn(Distribution::linear(tower.width)),
        });
    }
    planned.push(Planned {
        name: "logit_scale".to_owned(),
        dtype: Dtype::F32,
        shape: Vec::new(),
        values: Values::Drawn(Distribution::Constant(options.logit_scale_init)),
    });
    Ok(planned)
}

fn config(vision: &Tower, text: &Tower, options: &Options) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("architectures".into(), json!(["VisionTextDualEncoderModel"]));
    config.insert("dtype".into(), "float32".into());
    // Written as given, not as the 64-bit expansion of the 32-bit float.
    let scale = options.logit_scale_init.to_string().parse::<f64>().unwrap_or(options.logit_scale_init.into());
    config.insert("logit_scale_init_value".into(), scale.into());
    config.insert("model_type".into(), "vision-text-dual-encoder".into());
    config.insert("projection_dim".into(), options.projection_dim.into());
    config.insert("text_config".into(), text.nested_config().into());
    config.insert("vision_config".into(), vision.nested_config().into());
    config
}

fn model_card(vision: &Tower, text: &Tower, options: &Options) -> String {
    let name = |path: &Path| name_of(path).unwrap_or_else(|| "a checkpoint".into());
    format!(
        "# A dual encoder that is not trained yet\n\nComposed of the {} image tower in `{}` and the {} text tower in \
         `{}`.\n\nThe projections are random (seed {}): before it is trained on images with captions, the model \
         cannot tell what is in an image. The cards and licences of both towers apply to it too.\n",
        vision.family.model_type,
        name(&options.vision),
        text.family.model_type,
        name(&options.text),
        options.seed
    )
}
