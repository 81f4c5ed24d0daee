//! Verifies a bundle against its checkpoint: compares their embeddings of the same inputs, and both with goldens from
//! the reference, if given.

use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use spotter_engine::bundle::{Bundle, Manifest, Weights};
use spotter_engine::files;
use spotter_engine::tokenize::{Encoding, Tokenizer};
use spotter_engine::tower::{ImageTower, TextTower, TowerError};

use crate::assemble::assemble;
use crate::checkpoint::Checkpoint;
use crate::compare::{Agreement, threads, top1, verification_images, verification_texts};
use crate::error::Error;
use crate::plan::Plans;
use crate::probes;
use crate::progress::Tick;

/// Smallest cosine at which a tower passes, unless the caller gives another.
pub fn cosine_min(weights: Weights) -> f32 {
    match weights {
        Weights::F32 | Weights::F16 | Weights::Int8 => 0.995,
        // An export aims at 0.9955 on the same inputs, with layers in 8 bits where 4 cost too much.
        Weights::Int4 => 0.99,
    }
}

/// Size limit in bytes of a file of goldens: 1000 images of 300 x 300 pixels.
const GOLDENS_BYTES_MAX: u64 = 1 << 30;

/// One comparison of two sets of embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which two sets were compared.
    pub what: &'static str,
    /// Agreement of the image embeddings.
    pub image: Agreement,
    /// Agreement of the text embeddings.
    pub text: Agreement,
}

/// Comparison of the bundle's tokens with those of the goldens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Number of prompts.
    pub prompts: usize,
    /// Prompts whose tokens differ from the goldens'.
    pub wrong: Vec<WrongTokens>,
}

/// A prompt whose tokens differ from the goldens'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongTokens {
    /// The prompt.
    pub prompt: String,
    /// The first of ids, mask and type ids that differs.
    pub what: &'static str,
    /// The values in the goldens.
    pub expected: Vec<i64>,
    /// The values of the bundle's tokenizer.
    pub found: Vec<i64>,
}

/// How often bundle and float give an image the same label, with the built-in prompts as labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Top1 {
    /// Number of images with the same top-1 label.
    pub same: usize,
    /// Number of images.
    pub images: usize,
    /// Number of labels.
    pub labels: usize,
}

impl Top1 {
    fn of(ours: [&[Vec<f32>]; 2], theirs: [&[Vec<f32>]; 2]) -> Self {
        let labels = probes::prompts().len();
        let of = |[images, texts]: [&[Vec<f32>]; 2]| top1(images, &texts[..labels.min(texts.len())]);
        let (ours, theirs) = (of(ours), of(theirs));
        let same = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours == theirs).count();
        Self { same, images: theirs.len(), labels }
    }
}

/// All comparisons.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The comparisons, in the order of printing.
    pub rows: Vec<Row>,
    /// Of the bundle and float.
    pub top1: Top1,
    /// `None` without goldens, or if their metadata has no prompts.
    pub tokens: Option<Tokens>,
    /// Smallest cosines at which the image and the text tower pass.
    pub floors: [f32; 2],
}

impl Report {
    /// Why the bundle fails; `None` if it passes.
    pub fn fault(&self) -> Option<String> {
        let wrong = self.tokens.as_ref().map_or(0, |tokens| tokens.wrong.len());
        if wrong > 0 {
            return Some(format!("the tokens of {wrong} prompts differ from the goldens"));
        }
        let lowest = |of: fn(&Row) -> Agreement| self.rows.iter().map(|row| of(row).cosine_min).fold(1.0, f32::min);
        let towers = [("images", lowest(|row| row.image)), ("texts", lowest(|row| row.text))];
        let low = towers.into_iter().zip(self.floors).find(|((_, found), floor)| found < floor);
        low.map(|((what, found), floor)| format!("{what}: a cosine is {found:.4}, below {floor}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["cosine min", "5 % below", "mean", "worst |diff|"];
        writeln!(f, "{:34} {:>12} {:>9} {:>9} {:>13}", "", header[0], header[1], header[2], header[3])?;
        for row in &self.rows {
            for (kind, agreement) in [("images", row.image), ("texts", row.text)] {
                let Agreement { cosine_min, cosine_p5, cosine_mean, worst_difference } = agreement;
                let what = format!("{}, {kind}", row.what);
                writeln!(
                    f,
                    "{what:34} {cosine_min:>12.6} {cosine_p5:>9.6} {cosine_mean:>9.6} {worst_difference:>13.2e}"
                )?;
            }
        }
        let Top1 { same, images, labels } = self.top1;
        writeln!(f, "bundle and float, top-1 of {labels} labels: the same for {same} of {images} images")?;
        if let Some(Tokens { prompts, wrong }) = &self.tokens {
            writeln!(f, "bundle and goldens, tokens: the same for {} of {prompts} prompts", prompts - wrong.len())?;
            for WrongTokens { prompt, what, expected, found } in wrong {
                writeln!(f, "  {prompt:?}: {what}: expected {expected:?}, found {found:?}")?;
            }
        }
        Ok(())
    }
}

/// Approximate number of times that [`verify`] calls `tick`; goldens are few.
pub fn steps(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors.count() + 2 * probes::verification_count()
}

/// Compares the bundle at `bundle` with the float towers of `checkpoint`, on generated scenes, on texts of all lengths
/// and on `goldens`. With `floor`, both towers must reach that cosine instead of [`cosine_min`].
///
/// # Errors
/// A file cannot be read or is not usable, or the bundle was not exported from the checkpoint.
pub fn verify(
    bundle: &Path,
    checkpoint: &Checkpoint,
    goldens: Option<&Path>,
    floor: Option<f32>,
    tick: Tick<'_>,
) -> Result<Report, Error> {
    let opened = Bundle::open(bundle)?;
    let float = assemble(checkpoint, "float", &Plans::from(Weights::F32), &std::env::temp_dir(), tick)?;
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
    let goldens = goldens.map(|path| Goldens::read(path, ours)).transpose()?;
    let threads = threads()?;
    // One kind of tower at a time, so that memory holds two of the four towers.
    let (images, image_embeds) = {
        let (ours, theirs) = (ImageTower::open(&opened, &threads)?, float.image_tower(&threads)?);
        let probes = |tower: &ImageTower| verification_images(tower, &float.manifest, tick);
        let embeds = [probes(&ours)?, probes(&theirs)?];
        let mut agreements = vec![Agreement::of(&embeds[0], &embeds[1])];
        for (goldens, tower) in goldens.iter().flat_map(|goldens| [(goldens, &ours), (goldens, &theirs)]) {
            agreements.push(goldens.compare_images(tower, tick)?);
        }
        (agreements, embeds)
    };
    let (mut ours, mut theirs) = (TextTower::open(&opened, &threads)?, float.text_tower(&threads)?);
    let probes = |tower: &mut TextTower| verification_texts(tower, &float.manifest, tick);
    let text_embeds = [probes(&mut ours)?, probes(&mut theirs)?];
    let mut texts = vec![Agreement::of(&text_embeds[0], &text_embeds[1])];
    let [our_embeds, their_embeds] = [0, 1].map(|of: usize| [&image_embeds[of][..], &text_embeds[of][..]]);
    let top1 = Top1::of(our_embeds, their_embeds);
    let mut tokens = None;
    if let Some(goldens) = &goldens {
        tokens = goldens.compare_tokens(ours.tokenizer())?;
        texts.push(goldens.compare_texts(&mut ours, tick)?);
        texts.push(goldens.compare_texts(&mut theirs, tick)?);
    }
    let names = ["bundle and float, probes", "bundle and goldens", "float and goldens"];
    let rows = names.into_iter().zip(images).zip(texts).map(|((what, image), text)| Row { what, image, text });
    let manifest = opened.manifest();
    let floors = [&manifest.vision, &manifest.text].map(|tower| floor.unwrap_or(cosine_min(tower.weights)));
    Ok(Report { rows: rows.collect(), top1, tokens, floors })
}

/// Key in the safetensors metadata: a JSON list with the prompt of each row of `input_ids`.
const PROMPTS: &str = "prompts";

/// Inputs and embeddings from the reference. Position ids are computed by the tokenizer.
struct Goldens {
    /// The prompt of each encoding, if the metadata has prompts.
    prompts: Option<Vec<String>>,
    pixels: Vec<Vec<f32>>,
    encodings: Vec<Encoding>,
    image_embeds: Vec<Vec<f32>>,
    text_embeds: Vec<Vec<f32>>,
}

impl Goldens {
    fn read(path: &Path, manifest: &Manifest) -> Result<Self, Error> {
        let bytes = files::read(path, GOLDENS_BYTES_MAX);
        let bytes = bytes.map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let unusable = |e: SafeTensorError| Error::Goldens {
            path: path.to_owned(),
            what: "file".into(),
            expected: "safetensors".into(),
            found: e.to_string(),
        };
        let file = SafeTensors::deserialize(&bytes).map_err(unusable)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(unusable)?;
        let file = GoldenFile { path: path.to_owned(), file };
        let [height, width] = manifest.image_size();
        let dim = manifest.projection_dim;
        let pixels = file.floats("pixel_values", &[3, height, width])?;
        let image_embeds = file.floats("image_embeds", &[dim])?;
        let text_embeds = file.floats("text_embeds", &[dim])?;
        let ids = file.integers("input_ids")?;
        let (mask, types) = (file.integers("attention_mask")?, file.integers("token_type_ids")?);
        let encodings: Vec<_> = ids
            .into_iter()
            .zip(mask)
            .zip(types)
            .map(|((ids, mask), type_ids)| Encoding { ids, mask, type_ids, position_ids: Vec::new() })
            .collect();
        for (what, inputs, outputs) in
            [("image_embeds", pixels.len(), image_embeds.len()), ("text_embeds", encodings.len(), text_embeds.len())]
        {
            if inputs != outputs || inputs == 0 {
                return Err(file.wrong(
                    what,
                    format!("one row for each of {inputs} inputs"),
                    format!("{outputs} rows"),
                ));
            }
        }
        let prompts = header.metadata().as_ref().and_then(|entries| entries.get(PROMPTS));
        let prompts = prompts.map(|text| file.prompts(text, encodings.len())).transpose()?;
        Ok(Self { prompts, pixels, encodings, image_embeds, text_embeds })
    }

    /// Compares the bundle's tokens with the goldens'. Padding is compared only if both have the same length.
    fn compare_tokens(&self, tokenizer: &Tokenizer) -> Result<Option<Tokens>, Error> {
        let Some(prompts) = &self.prompts else { return Ok(None) };
        let mut wrong = Vec::new();
        for (prompt, expected) in prompts.iter().zip(&self.encodings) {
            let found = tokenizer.encode(prompt).map_err(TowerError::from)?;
            let (expected, found) = if expected.ids.len() == found.ids.len() {
                (expected.clone(), found)
            } else {
                (without_padding(expected), without_padding(&found))
            };
            let parts = [
                ("input_ids", expected.ids, found.ids),
                ("attention_mask", expected.mask, found.mask),
                ("token_type_ids", expected.type_ids, found.type_ids),
            ];
            let other = parts.into_iter().find(|(_, expected, found)| expected != found);
            wrong.extend(other.map(|(what, expected, found)| {
                let prompt = prompt.clone();
                WrongTokens { prompt, what, expected, found }
            }));
        }
        Ok(Some(Tokens { prompts: prompts.len(), wrong }))
    }

    fn compare_images(&self, tower: &ImageTower, tick: Tick<'_>) -> Result<Agreement, Error> {
        let embed = |pixels: &Vec<f32>| {
            tick();
            Ok(tower.embed(pixels)?)
        };
        let images = self.pixels.iter().map(embed).collect::<Result<Vec<_>, Error>>()?;
        Ok(Agreement::of(&images, &self.image_embeds))
    }

    fn compare_texts(&self, tower: &mut TextTower, tick: Tick<'_>) -> Result<Agreement, Error> {
        let embed = |encoding: &Encoding| {
            tick();
            let position_ids = tower.tokenizer().position_ids(&encoding.ids);
            Ok(tower.embed_encoding(&Encoding { position_ids, ..encoding.clone() })?)
        };
        let texts = self.encodings.iter().map(embed).collect::<Result<Vec<_>, Error>>()?;
        Ok(Agreement::of(&texts, &self.text_embeds))
    }
}

/// Drops the tokens that the mask marks as padding.
fn without_padding(encoding: &Encoding) -> Encoding {
    let counted = |values: &[i64]| {
        let pairs = values.iter().zip(&encoding.mask);
        pairs.filter(|(_, mask)| **mask != 0).map(|(value, _)| *value).collect()
    };
    Encoding {
        ids: counted(&encoding.ids),
        mask: counted(&encoding.mask),
        type_ids: counted(&encoding.type_ids),
        position_ids: Vec::new(),
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

    /// Parses the prompts in the metadata.
    fn prompts(&self, text: &str, expected: usize) -> Result<Vec<String>, Error> {
        let wrong = |found| self.wrong(PROMPTS, format!("a JSON list of {expected} strings, one per row"), found);
        let prompts: Vec<String> = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        if prompts.len() == expected { Ok(prompts) } else { Err(wrong(format!("{} strings", prompts.len()))) }
    }

    /// The rows of a float tensor [n, then `shape`].
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<Vec<f32>>, Error> {
        let tensor = self.file.tensor(name).map_err(|e| self.wrong(name, "a tensor".into(), e.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape().get(1..) != Some(shape) {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(self.wrong(name, format!("F32 [n, then {shape:?}]"), found));
        }
        let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(values.chunks(shape.iter().product::<usize>().max(1)).map(<[f32]>::to_vec).collect())
    }

    /// The rows of an integer tensor [n, length].
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
