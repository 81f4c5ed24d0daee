//! Evaluates a bundle: zero-shot classification of a folder per class, or retrieval with captions.
//!
//! Decoding, preprocessing, both towers and scoring are the engine's, so the results are those of a board.

pub mod calibration;
pub mod classification;
pub mod comparison;
mod confusion_plot;
pub(crate) mod embed;
mod error;
pub(crate) mod parallel;
mod progress;
pub mod ranking;
mod report;
pub mod retrieval;
mod set;
mod text_report;

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView2};
use spotter_engine::bundle::Bundle;
use spotter_engine::score::Scoring;

use self::classification::Classification;
use self::comparison::{Comparison, Cosines, Paired};
pub use self::confusion_plot::svg;
pub use self::error::EvaluateError;
use self::parallel::threads_or_cores;
pub use self::progress::{Listener, Progress};
use self::ranking::Answer;
pub use self::report::{BundleReport, Outcome, Report, Unreadable};
use self::retrieval::Retrieval;
pub(crate) use self::set::BadRows;
pub(crate) use self::set::read_templates;
pub use self::set::{Caption, Class, ImageSet, LeftOut, Places, Question};

/// Options of an evaluation.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Another bundle to compare with on the same images.
    pub against: Option<PathBuf>,
    /// Prompt templates for the classes' names, each with one `{}`; if empty, each bundle's own.
    pub templates: Vec<String>,
    /// Number of images to process in parallel; 0 for the number of cores.
    pub threads: usize,
}

/// Evaluates the bundle at `bundle`, and `options.against` if given, on `set`.
pub fn evaluate(
    bundle: &Path,
    set: &ImageSet,
    options: &Options,
    listener: Listener<'_>,
) -> Result<Report, EvaluateError> {
    if matches!(set.question(), Question::Captions(_)) && !options.templates.is_empty() {
        let why = "captions are whole sentences; templates are for class names";
        return Err(EvaluateError::Misplaced { option: "--templates", why });
    }
    let threads = threads_or_cores(options.threads);
    let paths: Vec<&Path> = [bundle].into_iter().chain(options.against.as_deref()).collect();
    let bundles = paths.iter().map(|path| Bundle::open(path)).collect::<Result<Vec<_>, _>>()?;
    let templates: Vec<&[String]> = bundles.iter().map(|bundle| templates(set, options, bundle)).collect();
    let embed =
        |(bundle, templates): (&Bundle, &&[String])| embed::texts(bundle, set.question(), templates, threads, listener);
    let texts = bundles.iter().zip(&templates).map(embed).collect::<Result<Vec<_>, _>>()?;
    let embedded = embed::images(&bundles, set, threads, listener)?;

    let results = bundles.iter().zip(&embedded.embeddings).zip(&texts);
    let results = results.map(|((bundle, images), texts)| {
        let scoring = bundle.manifest().scoring();
        outcome_of(&scoring, set, &embedded.read, images.view(), texts.view())
    });
    let (outcomes, answers): (Vec<Outcome>, Vec<Vec<Answer>>) = results.unzip();
    let comparison = match (&embedded.embeddings[..], &texts[..], &answers[..]) {
        ([images, other_images], [texts, other_texts], [first, second]) => Some(Comparison {
            pictures: Cosines::of(images.view(), other_images.view(), |row| {
                set.file(embedded.read[row]).display().to_string()
            }),
            texts: Cosines::of(texts.view(), other_texts.view(), |row| set.text_name(row)),
            top_1: Paired::of(first, second),
        }),
        _ => None,
    };
    let reports = paths.iter().zip(&bundles).zip(&templates).zip(outcomes);
    let reports = reports
        .map(|(((path, bundle), templates), outcome)| BundleReport::new(path, bundle.manifest(), templates, outcome));
    Ok(Report {
        folder: set.folder().to_owned(),
        pictures: embedded.read.len(),
        unreadable: embedded.unreadable,
        left_out: set.left_out().to_vec(),
        threads,
        seconds: embedded.seconds,
        pictures_per_second: set.len() as f64 / embedded.seconds.max(f64::MIN_POSITIVE),
        bundles: reports.collect(),
        comparison,
    })
}

/// The templates that class names are put into for `bundle`; empty if the set has captions.
fn templates<'a>(set: &ImageSet, options: &'a Options, bundle: &'a Bundle) -> &'a [String] {
    match set.question() {
        Question::Captions(_) => &[],
        Question::Classes { .. } if options.templates.is_empty() => &bundle.manifest().templates,
        Question::Classes { .. } => &options.templates,
    }
}

/// Returns one bundle's outcome on the images that were `read`, with embeddings `images`, and its answers in the order
/// of images or captions.
fn outcome_of(
    scoring: &Scoring,
    set: &ImageSet,
    read: &[usize],
    images: ArrayView2<'_, f32>,
    texts: ArrayView2<'_, f32>,
) -> (Outcome, Vec<Answer>) {
    match set.question() {
        Question::Classes { classes, truths } => {
            let truths: Vec<usize> = read.iter().map(|image| truths[*image]).collect();
            let (classification, answers) = Classification::of(scoring, images, texts, classes, &truths);
            (Outcome::Classification(classification), answers)
        }
        Question::Captions(captions) => {
            // Captions of images that could not be read are left out.
            let rows: Vec<Option<usize>> =
                captions.iter().map(|caption| read.binary_search(&caption.image).ok()).collect();
            let kept: Vec<usize> = (0..rows.len()).filter(|caption| rows[*caption].is_some()).collect();
            let images_of: Vec<usize> = rows.into_iter().flatten().collect();
            let texts: Array2<f32> = texts.select(ndarray::Axis(0), &kept);
            let (retrieval, answers) = Retrieval::of(images, texts.view(), &images_of);
            (Outcome::Retrieval(retrieval), answers)
        }
    }
}
