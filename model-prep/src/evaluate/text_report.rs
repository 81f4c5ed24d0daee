//! The report of an evaluation as text.

use std::fmt::{self, Formatter};

use spotter_engine::bundle::Weights;
use spotter_engine::printable::{printable, printable_path};
use spotter_engine::score::ScoringKind;

use super::classification::{ClassAccuracy, Classification};
use super::comparison::{Comparison, Cosines};
use super::report::{BundleReport, Outcome, Report};
use super::retrieval::{Recall, Retrieval};

/// Width of a table's first column, in characters.
const WHAT: usize = 34;

/// Width of a bundle's column, in characters.
const COLUMN: usize = 20;

/// Largest number of classes, and of unreadable images, that are all listed. Of more classes, the best and worst are.
const LISTED: usize = 20;

/// Number of best classes, and of worst classes, that are listed of many.
const EXTREMES: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.table(f)?;
        if let Some(comparison) = &self.comparison {
            self.compare(f, comparison)?;
        }
        match self.bundles.first().map(|bundle| &bundle.outcome) {
            Some(Outcome::Classification(classification)) => details(f, classification),
            _ => Ok(()),
        }
    }
}

impl Report {
    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { folder, pictures, unreadable, left_out, threads, seconds, pictures_per_second, .. } = self;
        writeln!(
            f,
            "{}: {pictures} images in {seconds:.1} s, {pictures_per_second:.0} images/s on {threads} threads",
            printable_path(folder)
        )?;
        if !unreadable.is_empty() {
            writeln!(f, "{} images could not be read and are not counted:", unreadable.len())?;
            for image in unreadable.iter().take(LISTED) {
                writeln!(f, "  {}: {}", printable_path(&image.file), image.why)?;
            }
            if let Some(more) = unreadable.len().checked_sub(LISTED).filter(|more| *more > 0) {
                writeln!(f, "  and {more} more; --json lists them all")?;
            }
        }
        for left in left_out {
            writeln!(f, "skipped: {} {}", left.count, left.what)?;
        }
        Ok(())
    }

    fn table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        row(f, "", self.bundles.iter().map(column_name))?;
        let weights = |bundle: &BundleReport| match (bundle.image_weights, bundle.text_weights) {
            (image, text) if image == text => weights(image).to_owned(),
            (image, text) => format!("{} + {}", weights(image), weights(text)),
        };
        row(f, "weights", self.bundles.iter().map(weights))?;
        let outcomes = || self.bundles.iter().map(|bundle| &bundle.outcome);
        let classified: Vec<_> =
            outcomes().filter_map(|o| if let Outcome::Classification(c) = o { Some(c) } else { None }).collect();
        let retrieved: Vec<_> =
            outcomes().filter_map(|o| if let Outcome::Retrieval(r) = o { Some(r) } else { None }).collect();
        classification_rows(f, &classified)?;
        retrieval_rows(f, &retrieved)
    }

    fn compare(&self, f: &mut Formatter<'_>, comparison: &Comparison) -> fmt::Result {
        let [first, second] = &self.bundles[..] else { return Ok(()) };
        let (first, second) = (column_name(first), column_name(second));
        let Comparison { pictures, texts, top_1 } = comparison;
        let questions = top_1.both_right + top_1.only_first_right + top_1.only_second_right + top_1.both_wrong;
        writeln!(f, "\nsame top-1 answer for {} of {questions}", percent(top_1.agreement))?;
        writeln!(
            f,
            "right: both {}, only {first} {}, only {second} {}, neither {} (McNemar's exact test: p = {:.3})",
            top_1.both_right, top_1.only_first_right, top_1.only_second_right, top_1.both_wrong, top_1.p_value
        )?;
        for (what, cosines) in [("images", pictures), ("texts", texts)] {
            match cosines {
                Some(Cosines { min, mean, worst }) => {
                    writeln!(f, "cosine of {what}: mean {mean:.6}, min {min:.6} ({})", printable(worst))?;
                }
                None => writeln!(f, "cosine of {what}: not defined, since the embeddings differ in length")?,
            }
        }
        Ok(())
    }
}

fn row(f: &mut Formatter<'_>, what: &str, columns: impl Iterator<Item = String>) -> fmt::Result {
    write!(f, "{what:WHAT$}")?;
    for column in columns {
        write!(f, "{column:>COLUMN$}")?;
    }
    writeln!(f)
}

/// A bundle's path, shortened at the front to the width of a column.
fn column_name(bundle: &BundleReport) -> String {
    let path = printable_path(&bundle.bundle);
    let count = path.chars().count();
    if count < COLUMN { path } else { ['…'].into_iter().chain(path.chars().skip(count + 2 - COLUMN)).collect() }
}

fn weights(weights: Weights) -> &'static str {
    match weights {
        Weights::Int8 => "int8",
        Weights::Int4 => "int4",
        Weights::F16 => "f16",
        Weights::F32 => "f32",
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn classification_rows(f: &mut Formatter<'_>, found: &[&Classification]) -> fmt::Result {
    let Some(first) = found.first() else { return Ok(()) };
    let share = |of: fn(&Classification) -> f64| found.iter().map(move |c| percent(of(c)));
    row(f, "top-1", share(|c| c.top_1))?;
    if first.top_5.is_some() {
        row(f, "top-5", share(|c| c.top_5.unwrap_or(0.0)))?;
    }
    row(f, "mean per-class accuracy", share(|c| c.mean_per_class))?;
    row(f, &format!("guessing among {} classes", first.classes.len()), share(|c| c.chance))?;
    row(f, "expected calibration error", share(|c| c.calibration.ece))
}

fn retrieval_rows(f: &mut Formatter<'_>, found: &[&Retrieval]) -> fmt::Result {
    type Direction = fn(&Retrieval) -> &Recall;
    let directions: [(&str, Direction); 2] =
        [("text to image", |r| &r.text_to_image), ("image to text", |r| &r.image_to_text)];
    for (what, of) in directions {
        let Some(first) = found.first().map(|retrieval| of(retrieval)) else { return Ok(()) };
        let share = |part: fn(&Recall) -> f64| found.iter().map(move |retrieval| percent(part(of(retrieval))));
        writeln!(f, "{what}, {} among {}", first.queries, first.candidates)?;
        row(f, "  R@1", share(|recall| recall.at_1))?;
        row(f, "  R@5", share(|recall| recall.at_5))?;
        row(f, "  R@10", share(|recall| recall.at_10))?;
        row(f, "  median rank", found.iter().map(|retrieval| of(retrieval).median_rank.to_string()))?;
    }
    Ok(())
}

/// Writes per-class accuracies, confusions and calibration of the first bundle.
fn details(f: &mut Formatter<'_>, found: &Classification) -> fmt::Result {
    let mut classes: Vec<(&ClassAccuracy, f64)> =
        found.classes.iter().filter_map(|class| Some((class, class.accuracy?))).collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let without = found.classes.len() - classes.len();
    writeln!(f, "\nclasses, best first")?;
    for (index, (class, accuracy)) in classes.iter().enumerate() {
        if classes.len() <= LISTED || index < EXTREMES || index >= classes.len() - EXTREMES {
            let ClassAccuracy { right, pictures, .. } = class;
            let name = printable(&class.name);
            writeln!(f, "  {:>8}  {name} ({right} of {pictures})", percent(*accuracy))?;
        } else if index == EXTREMES {
            writeln!(f, "       …  {} more; --json lists them all", classes.len() - 2 * EXTREMES)?;
        }
    }
    if without > 0 {
        writeln!(f, "  {without} classes have no images")?;
    }
    if !found.most_confused.is_empty() {
        writeln!(f, "\nmost confused")?;
    }
    for pair in found.most_confused.iter().take(EXTREMES) {
        writeln!(
            f,
            "  {} predicted as {}: {} of {}",
            printable(&pair.truth),
            printable(&pair.answer),
            pair.count,
            pair.of
        )?;
    }
    let kind = match found.scoring {
        ScoringKind::Softmax => "softmax",
        ScoringKind::Sigmoid => "sigmoid",
    };
    writeln!(f, "\n{kind} probability of the top-1 label, and its accuracy")?;
    for bin in &found.calibration.bins {
        if let (Some(probability), Some(accuracy)) = (bin.probability, bin.accuracy) {
            let (probability, accuracy) = (percent(probability), percent(accuracy));
            writeln!(
                f,
                "  {:.2} to {:.2}  {probability:>9} probability {accuracy:>9} accuracy, {} images",
                bin.from, bin.to, bin.pictures
            )?;
        }
    }
    writeln!(f, "{}", found.calibration.formula)
}
