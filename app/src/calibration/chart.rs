//! The chart of a calibration: for each label its threshold before and after, and what that means.

use std::fmt::Write as _;

use spotter_engine::decide::calibrate::{FitKind, Fitted};
use spotter_engine::decide::{LabelRules, Rules};
use spotter_engine::printable::xml;

/// Labels that are drawn, those with the most false alarms first; more would not fit a page.
const LABELS_MAX: usize = 60;

/// Sizes in pixels: the names, the scale from 0 to 1, the rates; a row, and what is above the rows.
const NAMES: f64 = 220.0;
const SCALE: f64 = 400.0;
const RATES: f64 = 240.0;
const ROW: f64 = 24.0;
const TOP: f64 = 64.0;

/// Draws it as SVG: hollow is the threshold before, full the one after. `names` are the labels'.
pub(crate) fn draw(title: &str, names: &[String], rules: &Rules, fitted: &Fitted) -> String {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|&a, &b| fitted.labels[b].before_per_day.total_cmp(&fitted.labels[a].before_per_day));
    order.truncate(LABELS_MAX);
    let (width, height) = (NAMES + SCALE + RATES, TOP + ROW * (order.len() as f64 + 1.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" \
         font-size=\"15\">{}</text>\n",
        xml(title)
    );
    text(&mut svg, (NAMES + SCALE + 16.0, TOP - 12.0), "false alarms a day");
    for tenth in (0..=10).step_by(2) {
        let at = NAMES + SCALE * f64::from(tenth) / 10.0;
        text(&mut svg, (at - 9.0, TOP - 12.0), &format!("{:.1}", f64::from(tenth) / 10.0));
        let _ = writeln!(svg, "<path d=\"M{at} {TOP}V{}\" stroke=\"#ddd\"/>", height - ROW);
    }
    for (row, &label) in order.iter().enumerate() {
        let middle = TOP + ROW * (row as f64 + 0.5);
        let (fit, LabelRules { threshold, .. }) = (&fitted.labels[label], &rules.labels[label]);
        let [before, after] = [*threshold, fit.threshold].map(|value| NAMES + SCALE * f64::from(value));
        text(&mut svg, (10.0, middle + 4.0), &shortened(&names[label]));
        let _ = writeln!(
            svg,
            "<path d=\"M{before:.1} {middle}H{after:.1}\" stroke=\"#888\"/><circle cx=\"{before:.1}\" cy=\"{middle}\" \
             r=\"5\" fill=\"white\" stroke=\"#888\"/><circle cx=\"{after:.1}\" cy=\"{middle}\" r=\"5\" fill=\"#06c\"/>"
        );
        let rates = match fit.kind {
            FitKind::Usual => "usual answer".to_owned(),
            FitKind::Given => format!("{}, threshold given", rate(fit.before_per_day)),
            _ => format!("{} → {}", rate(fit.before_per_day), rate(fit.after_per_day)),
        };
        text(&mut svg, (NAMES + SCALE + 16.0, middle + 4.0), &rates);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A rate for people.
pub(crate) fn rate(per_day: f64) -> String {
    match per_day {
        rate if rate < 0.05 => "0".to_owned(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), text: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\">{}</text>", xml(text));
}

/// A name that fits its column.
fn shortened(name: &str) -> String {
    const CHARACTERS: usize = 30;
    if name.chars().count() <= CHARACTERS {
        return name.to_owned();
    }
    name.chars().take(CHARACTERS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use spotter_engine::decide::calibrate::Fit;

    use super::*;

    #[test]
    fn each_label_has_a_row_the_worst_first() {
        let fit =
            |kind, threshold, before_per_day, after_per_day| Fit { threshold, kind, before_per_day, after_per_day };
        let names = ["cat <&>", "usual", "given"].map(str::to_owned);
        let label = |name: &String| LabelRules {
            name: name.as_str().into(),
            meaning: 1,
            threshold: 0.6,
            release: 0.5,
            for_s: 0.5,
            hold_s: 1.0,
        };
        let rules = Rules { labels: names.iter().map(label).collect(), ..Rules::default() };
        let labels = vec![
            fit(FitKind::Counted, 0.8, 20.0, 0.44),
            fit(FitKind::Usual, 0.6, 0.0, 0.0),
            fit(FitKind::Given, 0.6, 300.0, 300.0),
        ];
        let fitted = Fitted {
            labels,
            before_per_day: 320.0,
            after_per_day: 300.4,
            range_per_day: (1.0, 500.0),
            promise_per_day: 4.0,
        };
        let svg = draw("a \u{1b} <title>", &names, &rules, &fitted);
        for expected in ["a  &lt;title&gt;", "cat &lt;&amp;&gt;", "20 → 0.4", "usual answer", "300, threshold given"]
        {
            assert!(svg.contains(expected), "{expected}: {svg}");
        }
        assert!(svg.find("given").unwrap_or(0) < svg.find("cat").unwrap_or(0), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!(shortened(&"n".repeat(40)).chars().count(), 30);
    }
}
