//! Bundle against checkpoint: the same inputs through both, and the checkpoint's own goldens where there are any.

use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use spotter_engine::bundle::{Bundle, Weights};
use spotter_engine::tokenize::Encoding;

use crate::checkpoint::Checkpoint;
use crate::compare::{Agreement, Towers};
use crate::export::assemble;
use crate::{Error, Tick, probes};

/// Below this cosine a bundle does not stand for its checkpoint any more.
pub const COSINE_MIN: f32 = 0.995;

/// One comparison of two sets of embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was compared with what.
    pub what: &'static str,
    /// Over pictures.
    pub image: Agreement,
    /// Over prompts.
    pub text: Agreement,
}

/// All comparisons.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// In the order of printing.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether every cosine is at least [`COSINE_MIN`].
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.image.cosine_min >= COSINE_MIN && row.text.cosine_min >= COSINE_MIN)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["cosine min", "mean", "worst |diff|"];
        writeln!(f, "{:34} {:>12} {:>9} {:>13}", "", header[0], header[1], header[2])?;
        for row in &self.rows {
            for (kind, agreement) in [("images", row.image), ("texts", row.text)] {
                let Agreement { cosine_min, cosine_mean, worst_difference } = agreement;
                let what = format!("{}, {kind}", row.what);
                writeln!(f, "{what:34} {cosine_min:>12.6} {cosine_mean:>9.6} {worst_difference:>13.2e}")?;
            }
        }
        Ok(())
    }
}

/// How often [`verify`] calls `tick`, about: goldens are few.
pub fn steps(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors.count() + 2 * probes::count()
}

/// Compares the bundle at `bundle` with the float graphs of `checkpoint`, on probes and on `goldens`.
pub fn verify(bundle: &Path, checkpoint: &Checkpoint, goldens: Option<&Path>, tick: Tick<'_>) -> Result<Report, Error> {
    let opened = Bundle::open(bundle)?;
    let float = assemble(checkpoint, "float", Weights::F32, tick)?;
    let other = |what, expected: String, found: String| {
        Err(Error::OtherModel { bundle: bundle.to_owned(), what, expected, found })
    };
    let (ours, theirs) = (opened.manifest(), &float.manifest);
    if ours.source.sha256 != theirs.source.sha256 {
        return other("source.sha256", theirs.source.sha256.clone(), ours.source.sha256.clone());
    }
    if ours.projection_dim != theirs.projection_dim {
        return other("projection_dim", theirs.projection_dim.to_string(), ours.projection_dim.to_string());
    }
    if ours.preprocess != theirs.preprocess {
        return other("preprocess", format!("{:?}", theirs.preprocess), format!("{:?}", ours.preprocess));
    }
    let (mut ours, mut theirs) = (Towers::open(&opened)?, Towers::load(&float)?);
    let mut rows = vec![Row {
        what: "bundle and float, probes",
        image: Agreement::of(&ours.image_probes(tick)?, &theirs.image_probes(tick)?),
        text: Agreement::of(&ours.text_probes(tick)?, &theirs.text_probes(tick)?),
    }];
    if let Some(path) = goldens {
        let goldens = Goldens::read(path, &theirs)?;
        rows.push(goldens.compare("bundle and goldens", &mut ours, tick)?);
        rows.push(goldens.compare("float and goldens", &mut theirs, tick)?);
    }
    Ok(Report { rows })
}

/// Inputs and embeddings that the reference gave.
struct Goldens {
    pixels: Vec<Vec<f32>>,
    encodings: Vec<Encoding>,
    image_embeds: Vec<Vec<f32>>,
    text_embeds: Vec<Vec<f32>>,
}

impl Goldens {
    fn read(path: &Path, towers: &Towers) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| Error::Goldens {
            path: path.to_owned(),
            what: "file".into(),
            expected: "safetensors".into(),
            found: e.to_string(),
        })?;
        let file = GoldenFile { path: path.to_owned(), file };
        let [height, width] = towers.manifest.image_size();
        let dim = towers.manifest.projection_dim;
        let pixels = file.floats("pixel_values", &[3, height, width])?;
        let image_embeds = file.floats("image_embeds", &[dim])?;
        let text_embeds = file.floats("text_embeds", &[dim])?;
        let ids = file.integers("input_ids")?;
        let (mask, types) = (file.integers("attention_mask")?, file.integers("token_type_ids")?);
        let encodings: Vec<_> = ids
            .into_iter()
            .zip(mask)
            .zip(types)
            .map(|((ids, mask), type_ids)| Encoding {
                position_ids: towers.text.tokenizer().position_ids(&ids),
                ids,
                mask,
                type_ids,
            })
            .collect();
        for (what, inputs, outputs) in
            [("image_embeds", pixels.len(), image_embeds.len()), ("text_embeds", encodings.len(), text_embeds.len())]
        {
            if inputs != outputs || inputs == 0 {
                return Err(file.wrong(what, format!("a row for each of {inputs} inputs"), format!("{outputs} rows")));
            }
        }
        Ok(Self { pixels, encodings, image_embeds, text_embeds })
    }

    fn compare(&self, what: &'static str, towers: &mut Towers, tick: Tick<'_>) -> Result<Row, Error> {
        let images = self.pixels.iter().map(|pixels| {
            tick();
            Ok(towers.image.embed(pixels)?)
        });
        let images = images.collect::<Result<Vec<_>, Error>>()?;
        let texts = self.encodings.iter().map(|encoding| {
            tick();
            Ok(towers.text.embed_encoding(encoding)?)
        });
        let texts = texts.collect::<Result<Vec<_>, Error>>()?;
        Ok(Row {
            what,
            image: Agreement::of(&images, &self.image_embeds),
            text: Agreement::of(&texts, &self.text_embeds),
        })
    }
}

struct GoldenFile<'a> {
    path: PathBuf,
    file: SafeTensors<'a>,
}

impl GoldenFile<'_> {
    fn wrong(&self, what: &str, expected: String, found: String) -> Error {
        Error::Goldens { path: self.path.clone(), what: what.to_owned(), expected, found }
    }

    /// Rows of a tensor whose further axes are `shape`.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<Vec<f32>>, Error> {
        let tensor = self.file.tensor(name).map_err(|e| self.wrong(name, "a tensor".into(), e.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape().get(1..) != Some(shape) {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(self.wrong(name, format!("F32 [n, then {shape:?}]"), found));
        }
        let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(values.chunks(shape.iter().product::<usize>().max(1)).map(<[f32]>::to_vec).collect())
    }

    fn integers(&self, name: &str) -> Result<Vec<Vec<i64>>, Error> {
        let tensor = self.file.tensor(name).map_err(|e| self.wrong(name, "a tensor".into(), e.to_string()))?;
        let Some(length) = tensor.shape().get(1).copied().filter(|n| *n > 0) else {
            return Err(self.wrong(name, "I64 [n, length]".into(), format!("{:?}", tensor.shape())));
        };
        if tensor.dtype() != Dtype::I64 {
            return Err(self.wrong(name, "I64 [n, length]".into(), format!("{:?}", tensor.dtype())));
        }
        let values: Vec<i64> = tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        Ok(values.chunks(length).map(<[i64]>::to_vec).collect())
    }
}
