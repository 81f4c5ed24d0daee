//! `model-prep models`.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::console::print_lines;

/// The models that are listed. Frames a second follow from the prediction in cross/evidence.md by the number of products of
/// the image tower, for four threads.
const MODELS: &str = include_str!("../models.json");

/// What stands below the list.
const NOTES: &str = "\
Pi 5, Pi 4: frames a second that are predicted for int8 image towers on four cores, cautious to expected; none was measured on
a board. Sizes are those of the downloads; a bundle in int8 has about a quarter. Read a model's licence on its page.

Any other VisionTextDualEncoder, CLIP or SigLIP in transformers' format works too if its towers are among those that
model-prep/README.md lists. Others need more: OpenCLIP's own files must be converted (convert_open_clip_to_hf of
transformers); MobileCLIP and CLIP's ResNets have convolutional image towers, which must be exported to ONNX and passed with
--vision-onnx and --text-onnx; models with code of their own (trust_remote_code) are not run.";

/// Arguments of `model-prep models`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

/// A model that is known to work.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    /// Name on the hub.
    name: String,
    towers: String,
    /// Megabytes (10^6 bytes) that are downloaded, about.
    download_mb: u32,
    /// Side of the image tower's input in pixels.
    image_size: u32,
    languages: String,
    licence: String,
    frames_per_s: FramesPerS,
    advice: String,
}

/// Predicted frames a second: cautious, and expected.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FramesPerS {
    pi5: [f32; 2],
    pi4: [f32; 2],
}

/// Prints the models.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.json {
        print_lines(MODELS)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_lines(&table(&listed()?))?;
    Ok(ExitCode::SUCCESS)
}

fn listed() -> anyhow::Result<Vec<Listed>> {
    serde_json::from_str(MODELS).context("the list of models")
}

/// The models, one paragraph each, and the notes.
fn table(models: &[Listed]) -> String {
    let mut text = String::new();
    for model in models {
        let Listed { name, towers, download_mb, image_size, languages, licence, frames_per_s, advice } = model;
        let range = |[cautious, expected]: [f32; 2]| format!("{cautious} to {expected}");
        let (pi5, pi4) = (range(frames_per_s.pi5), range(frames_per_s.pi4));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}");
        let _ = writeln!(text, "    {advice}");
        let _ = writeln!(text, "    {towers}, {image_size} pixels, {download_mb} MB, {languages}, {licence}");
        let _ = writeln!(text, "    frames/s: Pi 5 {pi5}, Pi 4 {pi4} (predicted)");
    }
    let first = models.first().map_or("OWNER/NAME", |model| model.name.as_str());
    let _ = writeln!(text, "\nmodel-prep export {first} --out model.tar\n\n{NOTES}");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_is_valid() {
        let models = listed().expect("the list");
        let names: BTreeSet<&str> = models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names.len(), models.len(), "each once");
        for model in &models {
            let name = &model.name;
            assert_eq!(name.split('/').count(), 2, "{name}");
            assert!((10..10_000).contains(&model.download_mb) && model.image_size >= 64, "{name}");
            for [cautious, expected] in [model.frames_per_s.pi5, model.frames_per_s.pi4] {
                assert!(cautious > 0.0 && cautious < expected && expected < 2.5 * cautious, "{name}");
            }
            assert!(model.frames_per_s.pi5[0] > model.frames_per_s.pi4[1], "{name}");
            for text in [&model.towers, &model.languages, &model.licence, &model.advice] {
                assert!(!text.trim().is_empty() && !text.contains('\n'), "{name}");
            }
        }
        let table = table(&models);
        assert!(names.iter().all(|name| table.contains(name)) && table.lines().all(|line| line.chars().count() <= 130));
    }
}
