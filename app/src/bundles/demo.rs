//! The demo bundle and its labels: inside the program, so that one file on a board is enough to begin. A program that was
//! built small, without the feature `demo`, looks for them in a folder instead.

use spotter_engine::bundle::{Bundle, BundleError};

use crate::config::{Config, Problem};
use crate::label_file::{self, LabelFile};

#[cfg(feature = "demo")]
use inside as place;
#[cfg(not(feature = "demo"))]
use outside as place;

pub use place::{BUNDLE_NAME, LABELS_NAME};

/// The demo bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{BUNDLE_NAME}: cannot be used; name a bundle in the configuration (`bundle`), or activate another one")]
pub struct DemoError(#[from] BundleError);

/// The demo bundle.
pub fn bundle() -> Result<Bundle, DemoError> {
    Ok(place::bundle()?)
}

/// The labels that the configuration names, else those of the demo; `templates` are the bundle's.
pub fn labels(config: &Config, templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    match &config.labels {
        Some(path) => label_file::load(path, templates),
        None => place::labels(templates),
    }
}

#[cfg(feature = "demo")]
mod inside {
    use super::{Bundle, BundleError, LabelFile, Problem, label_file};

    /// Stands for the path of the bundle.
    pub const BUNDLE_NAME: &str = "demo bundle inside the program";

    /// Stands for the path of the label file.
    pub const LABELS_NAME: &str = "demo labels inside the program";

    const LABELS: &str = include_str!("../../config/demo/labels.toml");

    const FILES: [(&str, &[u8]); 5] = [
        ("bundle.json", include_bytes!("../../config/demo/bundle.json")),
        ("vision.onnx", include_bytes!("../../config/demo/vision.onnx")),
        ("text.onnx", include_bytes!("../../config/demo/text.onnx")),
        ("tokenizer.json", include_bytes!("../../config/demo/tokenizer.json")),
        ("MODEL_CARD.md", include_bytes!("../../config/demo/MODEL_CARD.md")),
    ];

    pub(super) fn bundle() -> Result<Bundle, BundleError> {
        Bundle::from_memory(BUNDLE_NAME, FILES)
    }

    pub(super) fn labels(templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
        label_file::parse(LABELS_NAME, LABELS, templates)
    }
}

#[cfg(not(feature = "demo"))]
mod outside {
    use std::path::Path;

    use super::{Bundle, BundleError, LabelFile, Problem, label_file};

    /// Where the package puts the bundle.
    pub const BUNDLE_NAME: &str = "/usr/share/spotter/demo";

    /// Where the package puts its labels.
    pub const LABELS_NAME: &str = "/usr/share/spotter/demo/labels.toml";

    pub(super) fn bundle() -> Result<Bundle, BundleError> {
        Bundle::open(Path::new(BUNDLE_NAME))
    }

    pub(super) fn labels(templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
        let mut labels = label_file::load(Path::new(LABELS_NAME), templates);
        if let Err(problems) = &mut labels
            && let Some(first) = problems.first_mut()
        {
            first.message.push_str("; name a label file in the configuration (`labels`), or with --labels");
        }
        labels
    }
}
