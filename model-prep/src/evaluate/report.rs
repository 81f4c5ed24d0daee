//! The report of an evaluation. Serialised, it is the output of `--json`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use spotter_engine::bundle::{Manifest, Weights};
use spotter_engine::printable::serialize_path;

use super::classification::Classification;
use super::comparison::Comparison;
use super::retrieval::Retrieval;
use super::set::LeftOut;

/// The report of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The folder of images.
    #[serde(serialize_with = "serialize_path")]
    pub folder: PathBuf,
    /// Number of images that were read.
    pub pictures: usize,
    /// Images that could not be read. They are not counted below.
    pub unreadable: Vec<Unreadable>,
    /// Files in the folder that are not part of the set.
    pub left_out: Vec<LeftOut>,
    /// Number of images that were processed in parallel.
    pub threads: usize,
    /// Seconds for reading, decoding, preprocessing and embedding all images, with all bundles.
    pub seconds: f64,
    /// Number of images divided by that time.
    pub pictures_per_second: f64,
    /// The results of the bundle, and of the one it was compared with, if any.
    pub bundles: Vec<BundleReport>,
    /// Comparison of the two.
    pub comparison: Option<Comparison>,
}

/// An image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its file, relative to the folder.
    #[serde(serialize_with = "serialize_path")]
    pub file: PathBuf,
    /// Why it could not be read.
    pub why: String,
}

/// The results of one bundle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BundleReport {
    /// The bundle.
    #[serde(serialize_with = "serialize_path")]
    pub bundle: PathBuf,
    /// Name of the model.
    pub name: String,
    /// Storage of the image tower's weights.
    pub image_weights: Weights,
    /// Storage of the text tower's weights.
    pub text_weights: Weights,
    /// Prompt templates of the class names; empty for captions.
    pub templates: Vec<String>,
    /// The metrics.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The metrics of one bundle.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// For a folder per class.
    Classification(Classification),
    /// For captions.
    Retrieval(Retrieval),
}

impl BundleReport {
    pub(super) fn new(bundle: &Path, manifest: &Manifest, templates: &[String], outcome: Outcome) -> Self {
        Self {
            bundle: bundle.to_owned(),
            name: manifest.name.clone(),
            image_weights: manifest.vision.weights,
            text_weights: manifest.text.weights,
            templates: templates.to_vec(),
            outcome,
        }
    }
}
