//! The plot of a run: loss and logit scale by step, and results by epoch.

use std::fmt::Write as _;

use spotter_engine::printable::xml;

use super::state::{Epoch, Progress};

/// Size of one panel, and the space around it, in pixels.
const PANEL: [f64; 2] = [640.0, 180.0];
const MARGIN: f64 = 60.0;

/// Points of a curve; more would not be seen.
const POINTS_MAX: usize = 640;

/// A curve: its name, colour and points.
struct Curve {
    name: String,
    color: &'static str,
    points: Vec<[f64; 2]>,
}

/// Draws the plot as an SVG image.
pub(super) fn svg(progress: &Progress, title: &str) -> String {
    let curve = |name: &str, color, index: usize| {
        let values: Vec<f64> = progress.losses.iter().map(|values| f64::from(values[index])).collect();
        Curve { name: name.to_owned(), color, points: averaged(&values) }
    };
    let results = |name: &str, color, value: &dyn Fn(&Epoch) -> Option<f64>| {
        let points = progress.epochs.iter().filter_map(|epoch| Some([epoch.step as f64, 100.0 * value(epoch)?]));
        Curve { name: name.to_owned(), color, points: points.collect() }
    };
    let mean = |epoch: &Epoch, of: &dyn Fn(&super::evaluation::Result) -> Option<f64>| {
        let values: Vec<f64> = epoch.results.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let panels = [
        ("loss", vec![curve("loss", "#1f77b4", 0)]),
        ("logit scale", vec![curve("logit scale", "#7f7f7f", 1)]),
        (
            "percent",
            vec![
                results("top-1", "#d62728", &|epoch| mean(epoch, &|result| result.top_1)),
                results("recall of images at 5", "#2ca02c", &|epoch| mean(epoch, &|r| r.text_to_image.map(|v| v[1]))),
                results("recall of captions at 5", "#9467bd", &|epoch| mean(epoch, &|r| r.image_to_text.map(|v| v[1]))),
            ],
        ),
    ];
    let (width, height) = (PANEL[0] + 2.0 * MARGIN, (PANEL[1] + MARGIN) * panels.len() as f64 + MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"24\" \
         font-size=\"15\">{}</text>\n",
        xml(title)
    );
    let steps = progress.losses.len().max(1) as f64;
    for (index, (name, curves)) in panels.iter().enumerate() {
        panel(&mut out, MARGIN + index as f64 * (PANEL[1] + MARGIN), name, curves, steps);
    }
    out.push_str("</svg>\n");
    out
}

/// Means of neighbouring values, so that there are few enough points.
fn averaged(values: &[f64]) -> Vec<[f64; 2]> {
    let size = values.len().div_ceil(POINTS_MAX).max(1);
    let chunks = values.chunks(size).enumerate();
    let point = |(index, chunk): (usize, &[f64])| {
        let mean = chunk.iter().sum::<f64>() / chunk.len() as f64;
        [(index * size) as f64 + chunk.len() as f64 / 2.0, mean]
    };
    chunks.map(point).collect()
}

fn panel(out: &mut String, top: f64, name: &str, curves: &[Curve], steps: f64) {
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|point| point[1]).filter(|v| v.is_finite());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low < high { (low, high) } else { (low.clamp(-1e9, 0.0), low.clamp(1.0, 1e9)) };
    let [width, height] = PANEL;
    let place = |[x, y]: [f64; 2]| [MARGIN + x / steps * width, top + height - (y - low) / (high - low) * height];
    let _ = writeln!(
        out,
        "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.1}\">{}</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{high:.3}</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{low:.3}</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{steps} steps</text>",
        top - 6.0,
        xml(name),
        MARGIN - 4.0,
        top + 10.0,
        MARGIN - 4.0,
        top + height,
        MARGIN + width,
        top + height + 14.0
    );
    let shown = curves.iter().filter(|curve| !curve.points.is_empty());
    for (index, Curve { name, color, points }) in shown.enumerate() {
        let points = points.iter().filter(|point| point[1].is_finite()).map(|point| place(*point));
        let points: Vec<String> = points.map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\" text-anchor=\"end\">{}</text>",
            points.join(" "),
            MARGIN + width - 6.0,
            top + 16.0 + 16.0 * index as f64,
            xml(name)
        );
    }
}
