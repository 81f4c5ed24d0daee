//! How good the model is on a set, in the middle of training.

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use spotter_engine::bundle::TowerKind;
use spotter_engine::embedding::normalize;
use spotter_engine::printable::printable;

use super::error::TuneError;
use super::inputs::Inputs;
use super::model::Model;
use crate::checkpoint::name_of;
use crate::evaluate::Question;
use crate::evaluate::ranking::Answer;
use crate::evaluate::retrieval::{Recall, Retrieval};

/// Images and sentences that are embedded at a time.
const BLOCK: usize = 256;

/// The result on one set. Shares are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Result {
    /// Name of the set's folder.
    pub set: String,
    /// Number of images.
    pub images: usize,
    /// Share of images whose class has the highest score; `None` if the set has captions.
    pub top_1: Option<f64>,
    /// Recall of images by their captions at 1, 5 and 10; `None` if the set has classes.
    pub text_to_image: Option<[f64; 3]>,
    /// Recall of captions by their images at 1, 5 and 10; `None` if the set has classes.
    pub image_to_text: Option<[f64; 3]>,
}

impl Result {
    /// One number to compare by: top-1, or the mean of all recalls.
    pub(super) fn score(&self) -> f64 {
        let recalls = [self.text_to_image, self.image_to_text].into_iter().flatten().flatten();
        self.top_1.unwrap_or_else(|| recalls.sum::<f64>() / 6.0)
    }
}

impl std::fmt::Display for Result {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (set, images) = (printable(&self.set), self.images);
        if let Some(top_1) = self.top_1 {
            return write!(f, "{set} ({images} images): top-1 {:.1}%", 100.0 * top_1);
        }
        let recall = |values: Option<[f64; 3]>| {
            let [one, five, ten] = values.unwrap_or_default().map(|value| 100.0 * value);
            format!("{one:.1} / {five:.1} / {ten:.1}%")
        };
        let (images_found, texts_found) = (recall(self.text_to_image), recall(self.image_to_text));
        write!(f, "{set} ({images} images): recall at 1 / 5 / 10: images {images_found}, captions {texts_found}")
    }
}

/// Evaluates `model` on each of the sets of `inputs`.
pub(super) fn evaluate(model: &Model<'_>, inputs: &Inputs<'_>) -> std::result::Result<Vec<Result>, TuneError> {
    (0..inputs.pairs.sets.len()).map(|set| evaluate_set(model, inputs, set)).collect()
}

fn evaluate_set(model: &Model<'_>, inputs: &Inputs<'_>, set: usize) -> std::result::Result<Result, TuneError> {
    let pairs = inputs.pairs;
    let items: Vec<usize> = (0..pairs.items.len()).filter(|item| pairs.items[*item].set == set).collect();
    let (mut read, mut images) = (Vec::new(), Vec::new());
    for block in items.chunks(BLOCK) {
        let (kept, samples) = inputs.images(block, None)?;
        let Some(samples) = samples else { continue };
        images.extend(model.embeddings(TowerKind::Image, &samples)?);
        read.extend(kept.into_iter().map(|index| block[index]));
    }
    let mut result = Result {
        set: name_of(pairs.sets[set].folder()).unwrap_or_default(),
        images: read.len(),
        top_1: None,
        text_to_image: None,
        image_to_text: None,
    };
    if read.is_empty() {
        return Ok(result);
    }
    let images = rows(images, read.len());
    if matches!(pairs.sets[set].question(), Question::Classes { .. }) {
        let range = pairs.groups[set].clone();
        let labels = class_embeddings(model, inputs, range.clone())?;
        let cosines = images.dot(&labels.t());
        let right = cosines.axis_iter(Axis(0)).zip(&read).filter(|(cosines, item)| {
            let truth = pairs.items[**item].group - range.start;
            Answer::of(*cosines, |class| class == truth).is_some_and(|answer| answer.is_right())
        });
        result.top_1 = Some(right.count() as f64 / read.len() as f64);
        return Ok(result);
    }
    let captions = read
        .iter()
        .enumerate()
        .flat_map(|(row, item)| pairs.fitting[pairs.items[*item].group].iter().map(move |sentence| (*sentence, row)));
    let (sentences, image_of): (Vec<usize>, Vec<usize>) = captions.unzip();
    let texts = rows(text_embeddings(model, inputs, &sentences)?, sentences.len());
    let (retrieval, _) = Retrieval::of(images.view(), texts.view(), &image_of);
    let recalls = |recall: &Recall| Some([recall.at_1, recall.at_5, recall.at_10]);
    result.text_to_image = recalls(&retrieval.text_to_image);
    result.image_to_text = recalls(&retrieval.image_to_text);
    Ok(result)
}

/// The normalised mean of the embeddings of each class's sentences [classes, projection_dim].
fn class_embeddings(
    model: &Model<'_>,
    inputs: &Inputs<'_>,
    groups: std::ops::Range<usize>,
) -> std::result::Result<Array2<f32>, TuneError> {
    let fitting = &inputs.pairs.fitting[groups];
    let sentences: Vec<usize> = fitting.iter().flatten().copied().collect();
    let texts = rows(text_embeddings(model, inputs, &sentences)?, sentences.len());
    let mut labels = Array2::zeros((fitting.len(), texts.ncols()));
    let mut next = texts.outer_iter();
    for (fitting, mut label) in fitting.iter().zip(labels.outer_iter_mut()) {
        next.by_ref().take(fitting.len()).for_each(|text| label += &text);
        // A mean without a direction stays zero, and matches nothing.
        label.as_slice_mut().map(normalize);
    }
    Ok(labels)
}

fn text_embeddings(
    model: &Model<'_>,
    inputs: &Inputs<'_>,
    sentences: &[usize],
) -> std::result::Result<Vec<f32>, TuneError> {
    let mut texts = Vec::new();
    for block in sentences.chunks(BLOCK) {
        texts.extend(model.embeddings(TowerKind::Text, &inputs.texts(block)?)?);
    }
    Ok(texts)
}

/// A matrix of `count` rows.
fn rows(values: Vec<f32>, count: usize) -> Array2<f32> {
    let width = values.len() / count.max(1);
    Array2::from_shape_vec((count, width), values).unwrap_or_default()
}
