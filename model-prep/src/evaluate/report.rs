//! Everything that an evaluation found. Serialised, it is what `--json` prints.

use std::path::{Path, PathBuf};

use serde::Serialize;
use spotter_engine::bundle::{Manifest, Weights};
use spotter_engine::printable::serialize_path;

use super::classification::Classification;
use super::comparison::Comparison;
use super::retrieval::Retrieval;
use super::set::LeftOut;

/// An evaluation's findings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The folder of pictures.
    #[serde(serialize_with = "serialize_path")]
    pub folder: PathBuf,
    /// How many pictures were read.
    pub pictures: usize,
    /// Pictures that could not be read, which count for nothing below.
    pub unreadable: Vec<Unreadable>,
    /// What else is in the folder.
    pub left_out: Vec<LeftOut>,
    /// Pictures that were worked on at the same time.
    pub threads: usize,
    /// How long reading, decoding, preprocessing and embedding all pictures took, by all bundles.
    pub seconds: f64,
    /// Pictures by that time.
    pub pictures_per_second: f64,
    /// The bundle, and the one that it was compared with, if any.
    pub bundles: Vec<BundleReport>,
    /// How the two differ.
    pub comparison: Option<Comparison>,
}

/// A picture that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its file, relative to the folder.
    #[serde(serialize_with = "serialize_path")]
    pub file: PathBuf,
    /// Why.
    pub why: String,
}

/// One bundle's findings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BundleReport {
    /// The bundle.
    #[serde(serialize_with = "serialize_path")]
    pub bundle: PathBuf,
    /// Name of the model.
    pub name: String,
    /// Weights of the image tower.
    pub image_weights: Weights,
    /// Weights of the text tower.
    pub text_weights: Weights,
    /// What the names of classes were put into; nothing for captions.
    pub templates: Vec<String>,
    /// What was measured.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of a folder per class.
    Classification(Classification),
    /// Of captions.
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
