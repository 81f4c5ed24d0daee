//! How well a bundle names pictures: zero-shot classification of a folder per class, or retrieval with captions.
//!
//! Decoding, preprocessing, both towers and the scores are the engine's, so that what is measured here is what a board
//! does.

pub mod calibration;
pub mod classification;
pub mod comparison;
mod confusion_picture;
mod embed;
mod error;
mod parallel;
pub mod ranking;
mod report;
pub mod retrieval;
mod set;
mod words;

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView2};
use spotter_engine::bundle::Bundle;
use spotter_engine::score::Scoring;

use self::classification::Classification;
use self::comparison::{Comparison, Cosines, Paired};
pub use self::confusion_picture::svg;
pub use self::error::EvaluateError;
use self::ranking::Answer;
pub use self::report::{BundleReport, Outcome, Report, Unreadable};
use self::retrieval::Retrieval;
pub(crate) use self::set::read_templates;
pub use self::set::{Caption, Class, LeftOut, PictureSet, Places, Question};

/// What to evaluate, beside bundle and pictures.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Another bundle, on the same pictures.
    pub against: Option<PathBuf>,
    /// Templates for the classes' names, one `{}` in each; each bundle's own where there are none.
    pub templates: Vec<String>,
    /// Pictures that are worked on at the same time; 0 for as many as there are cores.
    pub threads: usize,
}

/// What an evaluation is about to do, or has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many more sentences will be embedded.
    Sentences(usize),
    /// So many pictures will be embedded.
    Pictures(usize),
    /// A sentence or a picture is done.
    One,
}

/// Told how an evaluation goes on, from any thread.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Sync);

/// Evaluates the bundle at `bundle`, and `options.against` with it, on `set`.
pub fn evaluate(
    bundle: &Path,
    set: &PictureSet,
    options: &Options,
    listener: Listener<'_>,
) -> Result<Report, EvaluateError> {
    if matches!(set.question(), Question::Captions(_)) && !options.templates.is_empty() {
        let why = "captions are whole sentences; templates are for the names of classes";
        return Err(EvaluateError::Misplaced { option: "--templates", why });
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let paths: Vec<&Path> = [bundle].into_iter().chain(options.against.as_deref()).collect();
    let bundles = paths.iter().map(|path| Bundle::open(path)).collect::<Result<Vec<_>, _>>()?;
    let templates: Vec<&[String]> = bundles.iter().map(|bundle| templates(set, options, bundle)).collect();
    let embed =
        |(bundle, templates): (&Bundle, &&[String])| embed::texts(bundle, set.question(), templates, threads, listener);
    let texts = bundles.iter().zip(&templates).map(embed).collect::<Result<Vec<_>, _>>()?;
    let pictures = embed::pictures(&bundles, set, threads, listener)?;

    let sides = bundles.iter().zip(&pictures.embeddings).zip(&texts);
    let sides = sides.map(|((bundle, images), texts)| {
        let scoring = Scoring::of(bundle.manifest());
        side(&scoring, set, &pictures.read, images.view(), texts.view())
    });
    let (outcomes, answers): (Vec<Outcome>, Vec<Vec<Answer>>) = sides.unzip();
    let comparison = match (&pictures.embeddings[..], &texts[..], &answers[..]) {
        ([images, other_images], [texts, other_texts], [first, second]) => Some(Comparison {
            pictures: Cosines::of(images.view(), other_images.view(), |row| {
                set.file(pictures.read[row]).display().to_string()
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
        pictures: pictures.read.len(),
        unreadable: pictures.unreadable,
        left_out: set.left_out().to_vec(),
        threads,
        seconds: pictures.seconds,
        pictures_per_second: set.len() as f64 / pictures.seconds.max(f64::MIN_POSITIVE),
        bundles: reports.collect(),
        comparison,
    })
}

/// What fills in the names of classes for `bundle`; nothing where the set has captions.
fn templates<'a>(set: &PictureSet, options: &'a Options, bundle: &'a Bundle) -> &'a [String] {
    match set.question() {
        Question::Captions(_) => &[],
        Question::Classes { .. } if options.templates.is_empty() => &bundle.manifest().templates,
        Question::Classes { .. } => &options.templates,
    }
}

/// What one model makes of the pictures that were `read`, with embeddings `images`, and its answers in the order of
/// pictures or captions.
fn side(
    scoring: &Scoring,
    set: &PictureSet,
    read: &[usize],
    images: ArrayView2<'_, f32>,
    texts: ArrayView2<'_, f32>,
) -> (Outcome, Vec<Answer>) {
    match set.question() {
        Question::Classes { classes, truths } => {
            let truths: Vec<usize> = read.iter().map(|picture| truths[*picture]).collect();
            let (classification, answers) = Classification::of(scoring, images, texts, classes, &truths);
            (Outcome::Classification(classification), answers)
        }
        Question::Captions(captions) => {
            // Captions of pictures that could not be read have nothing to find.
            let rows: Vec<Option<usize>> =
                captions.iter().map(|caption| read.binary_search(&caption.picture).ok()).collect();
            let kept: Vec<usize> = (0..rows.len()).filter(|caption| rows[*caption].is_some()).collect();
            let pictures_of: Vec<usize> = rows.into_iter().flatten().collect();
            let texts: Array2<f32> = texts.select(ndarray::Axis(0), &kept);
            let (retrieval, answers) = Retrieval::of(images, texts.view(), &pictures_of);
            (Outcome::Retrieval(retrieval), answers)
        }
    }
}
