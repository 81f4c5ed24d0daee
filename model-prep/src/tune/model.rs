//! A dual encoder in training: the loss of a batch and the gradients of all parameters.

use candle_core::{Device, Tensor};
use spotter_engine::bundle::TowerKind;

use super::error::TuneError;
use super::lock::Locking;
use super::loss::{Embedded, Loss};
use super::ops::{floats, tensor};
use super::parameters::{Gradients, Parameters};
use super::pass::{Noise, Pass, normalized};
use super::random::key;
use super::towers::{Input, Tower, image_tower, text_tower};
use crate::checkpoint::{DualEncoderConfig, Family, Tensors};

/// Bytes that training should take at most, and what of it a part of a batch may take in any case.
const STEP_BYTES: usize = 3700 << 20;
const PART_BYTES_MIN: usize = 512 << 20;

/// Batches whose inputs are in memory: the one that is trained on, and the next.
const BATCHES: usize = 2;

/// Bytes for each pair of an image and a text of a batch: logits and their gradients, each as values and as a tensor.
const LOGIT_BYTES: usize = 16;

/// Bytes for each trained value: weight, both moments, gradient, and the gradient of one part.
const TRAINED_BYTES: usize = 20;

/// One tower's input for some samples.
#[derive(Debug, Clone)]
pub(super) enum Samples {
    /// The tower's own input.
    Whole(Input),
    /// The output of the layers that are not trained [batch, tokens, hidden], with the input for what later layers need of
    /// it.
    Hidden(Tensor, Input),
    /// The pooler output of a locked tower [batch, width].
    Pooled(Tensor),
}

impl Samples {
    /// Number of samples.
    pub(super) fn len(&self) -> Result<usize, TuneError> {
        Ok(match self {
            Self::Whole(Input::Patches(tensor)) | Self::Hidden(tensor, _) | Self::Pooled(tensor) => tensor.dim(0)?,
            Self::Whole(Input::Tokens(tokens)) => tokens.batch,
            Self::Whole(Input::Computed) => 0,
        })
    }

    /// Bytes of what their tower takes.
    fn bytes(&self) -> usize {
        match self {
            Self::Whole(Input::Patches(tensor)) | Self::Hidden(tensor, _) | Self::Pooled(tensor) => {
                tensor.elem_count() * size_of::<f32>()
            }
            Self::Whole(Input::Tokens(_) | Input::Computed) => 0,
        }
    }

    /// Some of the samples.
    fn rows(&self, first: usize, count: usize) -> Result<Self, TuneError> {
        let part = |tensor: &Tensor| tensor.narrow(0, first, count);
        let input = |input: &Input| -> Result<Input, TuneError> {
            Ok(match input {
                Input::Patches(tensor) => Input::Patches(part(tensor)?),
                Input::Tokens(tokens) => Input::Tokens(tokens.rows(first, count)),
                Input::Computed => Input::Computed,
            })
        };
        Ok(match self {
            Self::Whole(whole) => Self::Whole(input(whole)?),
            Self::Hidden(hidden, rest) => Self::Hidden(part(hidden)?, input(rest)?),
            Self::Pooled(pooled) => Self::Pooled(part(pooled)?),
        })
    }

    /// Number of tokens of a sample.
    fn tokens(&self) -> Result<usize, TuneError> {
        Ok(match self {
            Self::Whole(Input::Patches(tensor)) | Self::Hidden(tensor, _) => tensor.dim(1)?,
            Self::Whole(Input::Tokens(tokens)) => tokens.length(),
            Self::Whole(Input::Computed) | Self::Pooled(_) => 1,
        })
    }
}

/// Pairs of images and texts.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// The images.
    pub(super) images: Samples,
    /// The texts; text `i` belongs to image `i`.
    pub(super) texts: Samples,
    /// What each pair is about; see [`Embedded`].
    pub(super) groups: Vec<u64>,
}

/// The loss of a batch, with the gradients of all trained parameters.
#[derive(Debug)]
pub(super) struct Step {
    /// The loss.
    pub(super) loss: f64,
    /// The gradients.
    pub(super) gradients: Gradients,
}

/// One tower of the model, with its projection.
#[derive(Debug)]
struct Side {
    kind: TowerKind,
    /// `None` for a tower that is locked.
    tower: Option<Box<dyn Tower>>,
    /// The first layer that is trained.
    first_layer: usize,
    /// Width of the pooler output.
    width: usize,
}

/// A dual encoder in training.
#[derive(Debug)]
pub(super) struct Model<'a> {
    pub(super) parameters: Parameters<'a>,
    family: Family,
    projection_dim: usize,
    sides: [Side; 2],
}

impl<'a> Model<'a> {
    /// Reads the weights `tensors` of the dual encoder `config`.
    ///
    /// # Errors
    /// A tower that is not locked cannot be trained, or its weights do not fit.
    pub(super) fn new(config: &DualEncoderConfig, tensors: &'a Tensors, locking: &Locking) -> Result<Self, TuneError> {
        let free = |kind| !locking.lock.holds(kind);
        let image = if free(TowerKind::Image) { Some(image_tower(&config.vision)?) } else { None };
        let text = if free(TowerKind::Text) { Some(text_tower(&config.text)?) } else { None };
        let towers = [image.as_deref(), text.as_deref()];
        let is_needed = |name: &str| {
            (name.starts_with("vision_model.") && image.is_some())
                || (name.starts_with("text_model.") && text.is_some())
        };
        let parameters = Parameters::read(tensors, |name| locking.trains(name, towers), is_needed)?;
        let first = |tower: &Option<Box<dyn Tower>>| tower.as_deref().map_or(0, |tower| locking.first_layer(tower));
        let first_layers = [first(&image), first(&text)];
        let side = |kind, tower, first_layer, width| Side { kind, tower, first_layer, width };
        let sides = [
            side(TowerKind::Image, image, first_layers[0], config.vision.pooled_width()),
            side(TowerKind::Text, text, first_layers[1], config.text.pooled_width()),
        ];
        Ok(Self { parameters, family: config.family, projection_dim: config.projection_dim, sides })
    }

    fn side(&self, kind: TowerKind) -> &Side {
        &self.sides[usize::from(kind == TowerKind::Text)]
    }

    /// Whether a tower's first layers are not trained, so that their output can be computed once.
    pub(super) fn has_layers_below(&self, kind: TowerKind) -> bool {
        self.side(kind).first_layer > 0
    }

    /// The output of the layers that are not trained [batch, tokens, hidden].
    pub(super) fn below(&self, kind: TowerKind, input: &Input) -> Result<Tensor, TuneError> {
        let side = self.side(kind);
        let tower = side.tower()?;
        let pass = Pass::new(self.parameters.weights(false), None);
        let mut x = tower.embed(&pass, input)?;
        for index in 0..side.first_layer {
            x = tower.layer(&pass, index, &x, input)?;
        }
        Ok(x)
    }

    /// Normalised embeddings [batch, projection_dim] in a pass.
    fn embed(&self, kind: TowerKind, pass: &Pass<'_>, samples: &Samples) -> Result<Tensor, TuneError> {
        let side = self.side(kind);
        let pooled = match samples {
            Samples::Pooled(pooled) => pooled.clone(),
            Samples::Whole(input) => {
                let x = side.tower()?.embed(pass, input)?;
                side.rest(pass, 0, x, input)?
            }
            Samples::Hidden(hidden, input) => side.rest(pass, side.first_layer, hidden.clone(), input)?,
        };
        let features = match self.family.projects() {
            true => {
                let name = match kind {
                    TowerKind::Image => "visual_projection",
                    TowerKind::Text => "text_projection",
                };
                pass.linear(name, &pooled, [side.width, self.projection_dim], false)?
            }
            false => pooled,
        };
        normalized(&features)
    }

    /// Normalised embeddings [batch, projection_dim], without dropout, computed in parts that fit in memory.
    pub(super) fn embeddings(&self, kind: TowerKind, samples: &Samples) -> Result<Vec<f32>, TuneError> {
        self.untracked(kind, samples, self.part(kind, samples, samples.bytes())?, None)
    }

    /// Numbers of images and of texts of a part of a batch, such that a step fits in memory.
    pub(super) fn parts(&self, batch: &Batch) -> Result<[usize; 2], TuneError> {
        let Batch { images, texts, groups } = batch;
        let held = BATCHES * (images.bytes() + texts.bytes()) + LOGIT_BYTES * groups.len() * groups.len();
        Ok([self.part(TowerKind::Image, images, held)?, self.part(TowerKind::Text, texts, held)?])
    }

    /// Number of samples of a part, if `held` bytes are taken beside weights and their gradients.
    fn part(&self, kind: TowerKind, samples: &Samples, held: usize) -> Result<usize, TuneError> {
        let values = match (&self.side(kind).tower, samples) {
            (Some(tower), Samples::Whole(_) | Samples::Hidden(..)) => tower.kept_values(samples.tokens()?),
            _ => self.side(kind).width + self.projection_dim,
        };
        let trained: usize = self.parameters.trained().map(|(_, var)| var.elem_count()).sum();
        Ok(samples_of_part(values, trained, held))
    }

    fn untracked(
        &self,
        kind: TowerKind,
        samples: &Samples,
        part: usize,
        noise: Option<u64>,
    ) -> Result<Vec<f32>, TuneError> {
        let mut embeddings = Vec::new();
        for (first, count) in parts(samples.len()?, part) {
            let noise = noise.map(|key| Noise { key, first });
            let pass = Pass::new(self.parameters.weights(false), noise);
            let x = self.embed(kind, &pass, &samples.rows(first, count)?)?;
            floats(&x, |values| {
                embeddings.extend_from_slice(values);
                Ok(())
            })?;
        }
        Ok(embeddings)
    }

    /// The loss of a batch and the gradients of all parameters. `noise` is the key of the step's random numbers, and of
    /// images and texts at most so many are embedded at a time.
    pub(super) fn step(&self, batch: &Batch, noise: u64, part: [usize; 2]) -> Result<Step, TuneError> {
        let kinds = [(TowerKind::Image, &batch.images, part[0]), (TowerKind::Text, &batch.texts, part[1])];
        let mut tracked = [None, None];
        let mut embedded = [Vec::new(), Vec::new()];
        for (index, (kind, samples, part)) in kinds.into_iter().enumerate() {
            let noise = key(&[noise, index as u64]);
            if samples.len()? > part {
                embedded[index] = self.untracked(kind, samples, part, Some(noise))?;
                continue;
            }
            let pass = Pass::new(self.parameters.weights(true), Some(Noise { key: noise, first: 0 }));
            let x = self.embed(kind, &pass, samples)?;
            embedded[index] = floats(&x, |values| Ok(values.to_vec()))?;
            tracked[index] = Some(x);
        }
        let loss = self.loss(&embedded, &batch.groups)?;
        let mut gradients = Gradients::new();
        if !loss.value.is_finite() {
            return Ok(Step { loss: loss.value, gradients });
        }
        let grads = [&loss.images, &loss.texts];
        for (index, (kind, samples, part)) in kinds.into_iter().enumerate() {
            let width = grads[index].len() / batch.groups.len().max(1);
            let mut back = |x: Tensor, first: usize| -> Result<(), TuneError> {
                let count = x.dim(0)?;
                let grad = tensor(grads[index][first * width..(first + count) * width].to_vec(), &[count, width])?;
                // The gradient of this sum is that of the loss.
                let sum = (x * grad)?.sum_all()?;
                self.parameters.add_gradients(&sum.backward()?, &mut gradients)
            };
            if let Some(x) = tracked[index].take() {
                back(x, 0)?;
                continue;
            }
            for (first, count) in parts(samples.len()?, part) {
                let noise = Noise { key: key(&[noise, index as u64]), first };
                let pass = Pass::new(self.parameters.weights(true), Some(noise));
                back(self.embed(kind, &pass, &samples.rows(first, count)?)?, first)?;
            }
        }
        for (name, value) in [("logit_scale", Some(loss.scale)), ("logit_bias", loss.bias)] {
            if let (Some(value), true) = (value, self.parameters.var(name).is_some()) {
                gradients.insert(name.to_owned(), vec![value]);
            }
        }
        Ok(Step { loss: loss.value, gradients })
    }

    fn loss(&self, [images, texts]: &[Vec<f32>; 2], groups: &[u64]) -> Result<Loss, TuneError> {
        let embedded = Embedded { images, texts, groups };
        let scale = self.parameters.scalar("logit_scale")?;
        match self.family {
            Family::Siglip => embedded.sigmoid(scale, self.parameters.scalar("logit_bias")?),
            Family::VisionTextDualEncoder | Family::Clip => embedded.contrastive(scale),
        }
    }
}

impl Side {
    fn tower(&self) -> Result<&dyn Tower, TuneError> {
        let locked = || candle_core::Error::Msg(format!("the {:?} tower is locked", self.kind));
        Ok(self.tower.as_deref().ok_or_else(locked)?)
    }

    /// The pooler output, from the input `x` of layer `from`.
    fn rest(&self, pass: &Pass<'_>, from: usize, mut x: Tensor, input: &Input) -> Result<Tensor, TuneError> {
        let tower = self.tower()?;
        for index in from..tower.layers() {
            x = tower.layer(pass, index, &x, input)?;
        }
        tower.pool(pass, &x, input)
    }
}

/// Number of samples of a part, if each keeps `values` values for the backward pass, `trained` values are trained, and `held`
/// bytes are taken besides.
fn samples_of_part(values: usize, trained: usize, held: usize) -> usize {
    let part_bytes = STEP_BYTES.saturating_sub(trained * TRAINED_BYTES + held).max(PART_BYTES_MIN);
    (part_bytes / (values * size_of::<f32>()).max(1)).max(1)
}

/// First number and count of each part of `count` samples.
fn parts(count: usize, part: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(part.max(1)).map(move |first| (first, part.max(1).min(count - first)))
}

/// A tensor of rows of the same width.
pub(super) fn matrix(rows: &[&[f32]]) -> Result<Tensor, TuneError> {
    let width = rows.first().map_or(0, |row| row.len());
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?)
}

#[cfg(test)]
impl Model<'_> {
    /// The pooler output of a tower, without dropout.
    pub(super) fn pooled(&self, kind: TowerKind, input: &Input) -> Result<Tensor, TuneError> {
        let pass = Pass::new(self.parameters.weights(false), None);
        let side = self.side(kind);
        side.rest(&pass, 0, side.tower()?.embed(&pass, input)?, input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_1024_fits_in_4_gb() {
        struct Case {
            what: &'static str,
            /// Values that a sample keeps, values that are trained, bytes of inputs and logits.
            sizes: [usize; 3],
            /// Samples of a part at least, and bytes of all at most.
            limits: [usize; 2],
        }
        const GB: usize = 1_000_000_000;
        let logits = LOGIT_BYTES << 20;
        let bert = |tokens: usize| tokens * 13 * (10 * 768 + 3072);
        let images = BATCHES * 1024 * 3 * 224 * 224 * size_of::<f32>();
        let base = 110_000_000;
        for Case { what, sizes: [values, trained, held], limits: [least, most] } in [
            Case { what: "LiT of BERT-base", sizes: [bert(32), base, logits], limits: [64, 4 * GB] },
            Case { what: "sentences of 512 tokens", sizes: [bert(512), base, logits], limits: [4, 4 * GB] },
            Case {
                what: "ViT-B/32 at 224 pixels",
                sizes: [bert(50), 88_000_000, images + logits],
                limits: [16, 4 * GB],
            },
            Case { what: "both", sizes: [bert(50), base + 88_000_000, images + logits], limits: [16, 6 * GB] },
            Case { what: "projections only", sizes: [1280, 800_000, logits], limits: [1024, 4 * GB] },
        ] {
            let part = samples_of_part(values, trained, held);
            let bytes = part.min(1024) * values * size_of::<f32>() + trained * TRAINED_BYTES + held;
            assert!(part >= least && bytes <= most, "{what}: {part} samples, {bytes} bytes");
        }
    }
}
