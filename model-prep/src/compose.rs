//! Two single-tower checkpoints become one dual encoder, as `VisionTextDualEncoderModel.from_vision_text_pretrained` and
//! `save_pretrained` make it: the towers as they are, new projections, which know nothing before they are tuned.

mod draw;
mod families;
mod processor;
mod tower;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use spotter_engine::aside::Aside;
use spotter_engine::printable::printable_path;

use crate::error::Error;
use crate::progress::Tick;
use draw::Distribution;
use families::Side;
use tower::Tower;
use weights::{Planned, Values};

/// What to compose, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Checkpoint of the image tower.
    pub vision: PathBuf,
    /// Checkpoint of the text tower.
    pub text: PathBuf,
    /// Width of the shared embedding space.
    pub projection_dim: usize,
    /// Natural logarithm of the factor on cosines.
    pub logit_scale_init: f32,
    /// Chooses what is drawn at random.
    pub seed: u64,
    /// The new checkpoint: a folder that is not there yet, or is empty.
    pub out: PathBuf,
}

/// What was composed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where it lies.
    pub out: PathBuf,
    /// `model_type` of both towers, image tower first.
    pub towers: [String; 2],
    /// How many tensors there are.
    pub tensors: usize,
    /// Size of the weights file.
    pub bytes: u64,
    /// Names of the tensors that came from no checkpoint.
    pub drawn: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [vision, text] = &self.towers;
        let (out, tensors, megabytes) = (printable_path(&self.out), self.tensors, self.bytes as f64 / 1e6);
        writeln!(f, "{out}: image tower {vision}, text tower {text}, {tensors} tensors, {megabytes:.1} MB")?;
        writeln!(f, "new, from no checkpoint: {}", self.drawn.join(", "))?;
        writeln!(f)?;
        writeln!(
            f,
            "*** THIS MODEL DOES NOT WORK YET. Its projections are random: pictures and texts mean nothing to"
        )?;
        writeln!(f, "*** each other. Tune it on pictures with captions before you export it.")
    }
}

/// How often [`compose`] calls `tick`, about: that many tensors a usual pair of towers has.
pub const STEPS: u64 = 400;

/// Composes two towers and writes the new checkpoint; `tick` is called once for each tensor.
pub fn compose(options: &Options, tick: Tick<'_>) -> Result<Report, Error> {
    let out = &options.out;
    let io = |source| Error::Io { path: out.clone(), source };
    let empty = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.exists() && !empty() {
        return Err(Error::InTheWay { path: out.clone() });
    }
    let vision = Tower::open(&options.vision, Side::Vision)?;
    let text = Tower::open(&options.text, Side::Text)?;
    let planned = plan(&vision, &text, options)?;
    let aside = Aside::new(out, |_| Ok(())).map_err(io)?;
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

/// Every tensor of the new checkpoint.
fn plan<'a>(vision: &'a Tower, text: &'a Tower, options: &Options) -> Result<Vec<Planned<'a>>, Error> {
    let mut planned = Vec::new();
    for (tower, prefix) in [(vision, "vision_model"), (text, "text_model")] {
        let drawn = tower.missing_pooler()?;
        if !drawn.is_empty() {
            log::warn!(
                "{}: the tower was saved without its pooler: a new one is drawn at random, as transformers does; what \
                 the tower has learned passes through it only after tuning",
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
    // Written as it was given, not as the nearest 32-bit number looks with 64 bits.
    let scale = options.logit_scale_init.to_string().parse::<f64>().unwrap_or(options.logit_scale_init.into());
    config.insert("logit_scale_init_value".into(), scale.into());
    config.insert("model_type".into(), "vision-text-dual-encoder".into());
    config.insert("projection_dim".into(), options.projection_dim.into());
    config.insert("text_config".into(), text.nested_config().into());
    config.insert("vision_config".into(), vision.nested_config().into());
    config
}

fn model_card(vision: &Tower, text: &Tower, options: &Options) -> String {
    let name = |path: &Path| {
        let absolute = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        absolute.file_name().map_or_else(|| "a checkpoint".into(), |name| name.to_string_lossy().into_owned())
    };
    format!(
        "# A dual encoder that was not trained yet\n\nComposed of the {} image tower in `{}` and the {} text tower in \
         `{}`.\n\nThe projections were drawn at random (seed {}): before it is tuned on pictures with captions, the \
         model cannot tell what is in a picture. The cards and licences of both towers hold for it too.\n",
        vision.family.model_type,
        name(&options.vision),
        text.family.model_type,
        name(&options.text),
        options.seed
    )
}

fn write_json(path: &Path, object: &Map<String, Value>) -> Result<(), Error> {
    write(path, format!("{:#}\n", Value::from(object.clone())).as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|source| Error::Io { path: path.to_owned(), source })
}
