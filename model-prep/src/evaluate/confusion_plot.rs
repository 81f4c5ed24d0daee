//! The confusion matrix as an SVG image, with a tooltip for each cell.

use std::fmt::Write as _;

use spotter_engine::printable::xml;

use super::classification::Classification;

/// Largest number of classes at which cells are large enough to show their counts.
const COUNTED_CLASSES_MAX: usize = 30;

/// Longest name on an axis, in characters.
const NAME_CHARS_MAX: usize = 28;

/// Draws the matrix: rows are true classes, columns predicted classes, ordered so that classes with similar names are
/// adjacent. The opacity of a cell is its share of the row, its colour blue for right and red for wrong predictions.
pub fn svg(found: &Classification) -> String {
    let count = found.order.len();
    let cell = if count <= COUNTED_CLASSES_MAX { 34 } else { 14 };
    let font = if count <= COUNTED_CLASSES_MAX { 13 } else { 10 };
    let longest = found.classes.iter().map(|class| class.name.chars().count().min(NAME_CHARS_MAX)).max().unwrap_or(0);
    // An average letter is about 0.6 times as wide as high.
    let names = longest * font * 6 / 10 + 10;
    let (left, top) = (names + 10, names + 60);
    let side = count * cell;
    let (width, height) = ((left + side + 20).max(720), top + side + 20);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"{font}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"16\">{} images of {count} classes, top-1 {:.2} %</text>\n\
         <text x=\"10\" y=\"42\" font-size=\"13\">Rows: true classes. Columns: predicted classes. \
         Colour: share of the row, blue right, red wrong.</text>",
        found.pictures,
        100.0 * found.top_1
    );
    let _ = writeln!(
        out,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{side}\" height=\"{side}\" fill=\"#f7f7f7\" stroke=\"#999\"/>"
    );
    for (place, class) in found.order.iter().enumerate() {
        let name = xml(&shortened(&found.classes[*class].name));
        let middle = place * cell + cell / 2;
        let baseline = middle + font / 3;
        let (x, y) = (left + baseline, top - 5);
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", left - 5, top + baseline);
        let _ = writeln!(out, "<text transform=\"translate({x} {y}) rotate(-90)\">{name}</text>");
    }
    for (row, truth) in found.order.iter().enumerate() {
        for (column, answer) in found.order.iter().enumerate() {
            draw_cell(&mut out, found, [*truth, *answer], [left + column * cell, top + row * cell], cell);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn draw_cell(out: &mut String, found: &Classification, [truth, answer]: [usize; 2], [x, y]: [usize; 2], cell: usize) {
    let (count, of) = (found.confusion[truth][answer], found.classes[truth].pictures);
    if count == 0 {
        return;
    }
    let share = count as f64 / of as f64;
    let colour = if truth == answer { "#0b5cad" } else { "#c22d1d" };
    // Keeps a single image of many visible.
    let opacity = 0.08 + 0.92 * share;
    let (truth, predicted) = (xml(&found.classes[truth].name), xml(&found.classes[answer].name));
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{cell}\" height=\"{cell}\" fill=\"{colour}\" fill-opacity=\"{opacity:.3}\">\
         <title>{truth} predicted as {predicted}: {count} of {of} ({:.1} %)</title></rect>",
        100.0 * share
    );
    if found.order.len() <= COUNTED_CLASSES_MAX {
        let ink = if opacity > 0.5 { "white" } else { "black" };
        let (x, y) = (x + cell / 2, y + cell / 2 + 4);
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{ink}\" \
             pointer-events=\"none\">{count}</text>"
        );
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_CHARS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use spotter_engine::score::{Scoring, ScoringKind};

    use super::*;
    use crate::evaluate::set::Class;

    #[test]
    fn cells_and_names_are_drawn() {
        let names = ["a <cat> & \"dog\"", "a very long name indeed, longer than an axis has room for", "ship"];
        let class = |name: &&str| Class { folder: (*name).to_owned(), name: (*name).to_owned(), prompts: Vec::new() };
        let classes: Vec<Class> = names.iter().map(class).collect();
        let scoring = Scoring { logit_scale: 0.0, logit_bias: None, kind: ScoringKind::Softmax };
        let images = ndarray::array![[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]];
        let labels = Array2::eye(3);
        let (found, _) = Classification::of(&scoring, images.view(), labels.view(), &classes, &[0, 0, 1, 1]);
        let drawn = svg(&found);
        for expected in [
            "a &lt;cat&gt; &amp; &quot;dog&quot; predicted as ship: 1 of 2 (50.0 %)",
            "a very long name indeed, lo…</text>",
            ": 2 of 2 (100.0 %)",
            "4 images of 3 classes, top-1 75.00 %",
        ] {
            assert!(drawn.contains(expected), "{expected}: {drawn}");
        }
        let count = |part: &str| drawn.matches(part).count();
        assert_eq!((count("<title>"), count("#0b5cad"), count("#c22d1d")), (3, 2, 1));
        assert_eq!((count("<text"), count("</text>"), count("rotate(-90)")), (2 + 6 + 3, 2 + 6 + 3, 3));
    }
}
