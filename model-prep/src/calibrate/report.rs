//! The report of a calibration, in Markdown and as a plot.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use spotter_engine::bundle::{LayerKind, LayerStorage, Manifest, Weights};
use spotter_engine::printable::xml;

/// Number of layers in the Markdown report's table; the plot and the manifest have all of them.
const LISTED: usize = 12;

/// Writes `NAME.quantization.md` and `NAME.quantization.svg` next to the bundle `out` and returns their paths; writes
/// nothing if the bundle was not calibrated. A board has no use for them, so they are not part of the bundle.
pub(crate) fn write(out: &Path, manifest: &Manifest) -> io::Result<Vec<PathBuf>> {
    let Some(words) = words(manifest) else { return Ok(Vec::new()) };
    let stem = if out.extension().is_some_and(|e| e == "tar") { out.file_stem() } else { out.file_name() };
    let path = |suffix: &str| {
        let stem = stem.unwrap_or_default().to_string_lossy();
        out.with_file_name(format!("{stem}.quantization.{suffix}"))
    };
    let paths = vec![path("md"), path("svg")];
    std::fs::write(&paths[0], words)?;
    std::fs::write(&paths[1], svg(&manifest.quantization.layers))?;
    Ok(paths)
}

/// The report in Markdown; `None` if the bundle was not calibrated.
pub fn words(manifest: &Manifest) -> Option<String> {
    let quantization = &manifest.quantization;
    let (found, layers) = (quantization.calibration.as_ref()?, &quantization.layers);
    let floats: Vec<&LayerStorage> =
        layers.iter().filter(|layer| matches!(layer.stored, Weights::F16 | Weights::F32)).collect();
    let saved: u64 = layers.iter().map(|layer| layer.bytes_saved).sum();
    let mut words = format!(
        "# How {} is stored\n\n{}.\n\nMeasured on {} images ({} of them for each layer) and {} prompts: the top-1 \
         label differs from that of float weights for {:.1}% of the images; with all layers quantised it would for \
         {:.1}%, and the limit was {}%. The smallest cosines to the float embeddings of the built-in probes are {} for \
         images and {} for prompts.\n\n{} of {} layers stay in float. Integers save {:.1} MB.\n",
        manifest.name,
        quantization.recipe,
        found.pictures,
        found.pictures_per_layer,
        found.prompts,
        found.drop,
        found.drop_without_floats,
        found.max_drop,
        quantization.image_cosine_min,
        quantization.text_cosine_min,
        floats.len(),
        layers.len(),
        saved as f64 / 1e6,
    );
    let mut worst: Vec<&LayerStorage> = layers.iter().collect();
    worst.sort_by(|a, b| b.cosine_loss.total_cmp(&a.cosine_loss));
    words.push_str(
        "\nThe most sensitive layers, each measured with no other layer quantised (query, key and value run as one and \
         are measured together):\n\n| layer | kind | stored as | cosine loss | top-1 change, % | MB saved |\n\
         |---|---|---|---|---|---|\n",
    );
    for layer in worst.into_iter().take(LISTED) {
        let LayerStorage { name, kind, stored, cosine_loss, drop, bytes_saved } = layer;
        let (kind, stored, saved) = (kind_words(*kind), storage_words(*stored), *bytes_saved as f64 / 1e6);
        // Writing to a string cannot fail.
        let _ = writeln!(words, "| {name} | {kind} | {stored} | {cosine_loss:.1e} | {drop:.1} | {saved:.2} |");
    }
    Some(words)
}

fn kind_words(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Linear => "linear",
        LayerKind::PatchEmbedding => "patch embedding",
        LayerKind::Embedding => "embedding",
    }
}

fn storage_words(weights: Weights) -> &'static str {
    match weights {
        Weights::Int8 => "int8",
        Weights::Int4 => "int4",
        Weights::F16 => "16-bit float",
        Weights::F32 => "float",
    }
}

/// Layout of the plot in SVG units: height of a line, width of the names' column and of the bars' column.
const LINE: usize = 14;
const NAMES: usize = 420;
const BARS: usize = 400;

/// Left end of the logarithmic axis.
const LOSS_MIN: f32 = 1e-7;

/// Plots one bar per layer: its cosine loss, on a logarithmic scale.
pub fn svg(layers: &[LayerStorage]) -> String {
    let height = (layers.len() + 4) * LINE;
    let width = NAMES + BARS + 20;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"10\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"4\" y=\"{LINE}\" \
         font-size=\"12\">cosine loss with only this layer quantised (blue: int8, green: int4, red: kept in \
         float)</text>\n"
    );
    let place = |loss: f32| (loss / LOSS_MIN).log10().clamp(0.0, 7.0) / 7.0 * BARS as f32;
    for power in 0..=7 {
        let x = NAMES as f32 + place(LOSS_MIN * 10f32.powi(power));
        let (top, bottom) = (2 * LINE + 4, height - LINE);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#ddd\"/><text x=\"{x:.0}\" \
             y=\"{}\" text-anchor=\"middle\" fill=\"#666\">1e{}</text>",
            2 * LINE,
            power - 7
        );
    }
    for (index, layer) in layers.iter().enumerate() {
        let y = (index + 2) * LINE + 5;
        let colour = match layer.stored {
            Weights::Int8 => "#36c",
            Weights::Int4 => "#393",
            Weights::F16 | Weights::F32 => "#c33",
        };
        let (text_y, text_x) = (y + LINE - 5, NAMES - 6);
        let name = xml(&layer.name);
        let _ = writeln!(
            svg,
            "<text x=\"{text_x}\" y=\"{text_y}\" text-anchor=\"end\">{name}</text><rect x=\"{NAMES}\" y=\"{y}\" \
             width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>",
            place(layer.cosine_loss).max(1.0),
            LINE - 4
        );
    }
    svg.push_str("</svg>\n");
    svg
}
