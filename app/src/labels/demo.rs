//! The labels of the demo model: inside the program, or in the package's folder where it was built without the feature
//! `demo`.

use super::label_file::{self, LabelFile, ParsedLabels};
use crate::config::{Config, Problem};

/// Reads the labels that the configuration names, else those of the demo model.
pub fn parse_configured(config: &Config) -> Result<ParsedLabels, Vec<Problem>> {
    match &config.labels {
        Some(path) => label_file::parse_file(path),
        None => parse_demo(),
    }
}

/// Reads the same labels; `templates` are the bundle's, for labels without their own.
pub fn configured(config: &Config, templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    parse_configured(config)?.resolve(templates)
}

#[cfg(feature = "demo")]
fn parse_demo() -> Result<ParsedLabels, Vec<Problem>> {
    label_file::parse_text("demo labels inside the program", include_str!("../../../config/demo/labels.toml"))
}

#[cfg(not(feature = "demo"))]
fn parse_demo() -> Result<ParsedLabels, Vec<Problem>> {
    let mut labels = label_file::parse_file(std::path::Path::new("/usr/share/spotter/demo/labels.toml"));
    if let Err(problems) = &mut labels
        && let Some(first) = problems.first_mut()
    {
        first.message.push_str("; name a label file in the configuration (`labels`), or with --labels");
    }
    labels
}
