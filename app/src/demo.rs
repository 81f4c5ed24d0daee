//! What is inside the program: the demo bundle and its labels, so that one file on a board is enough to begin.

use spotter_engine::bundle::{Bundle, BundleError};
use spotter_engine::labels::Label;

use crate::config::{Config, Problem};
use crate::label_file;

/// Stands for the path of the bundle inside the program.
pub const BUNDLE_NAME: &str = "demo bundle inside the program";

/// Stands for the path of the label file inside the program.
pub const LABELS_NAME: &str = "demo labels inside the program";

const LABELS: &str = include_str!("../../config/demo/labels.toml");

const FILES: [(&str, &[u8]); 5] = [
    ("bundle.json", include_bytes!("../../config/demo/bundle.json")),
    ("vision.onnx", include_bytes!("../../config/demo/vision.onnx")),
    ("text.onnx", include_bytes!("../../config/demo/text.onnx")),
    ("tokenizer.json", include_bytes!("../../config/demo/tokenizer.json")),
    ("MODEL_CARD.md", include_bytes!("../../config/demo/MODEL_CARD.md")),
];

/// The bundle inside the program.
pub fn bundle() -> Result<Bundle, BundleError> {
    Bundle::from_memory(BUNDLE_NAME, FILES)
}

/// The labels that the configuration names, else those inside the program; `templates` are the bundle's.
pub fn labels(config: &Config, templates: &[String]) -> Result<Vec<Label>, Vec<Problem>> {
    match &config.labels {
        Some(path) => label_file::load(path, templates),
        None => label_file::parse(LABELS_NAME, LABELS, templates),
    }
}
