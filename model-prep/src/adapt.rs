//! Adapts the labels of a bundle to a few example images of each, without training: the arithmetic is the engine's.

use std::path::{Path, PathBuf};

use spotter_engine::bundle::{AdaptedLabel, Bundle, BundleError, Manifest, Part, Writer};
use spotter_engine::embedding::blend_set;
use spotter_engine::labels::{Cache, KeyedLabels, Label, LabelError};
use spotter_engine::tower::{TextTower, Threads, TowerError};

use crate::evaluate::parallel::threads_or_cores;
use crate::evaluate::{EvaluateError, ImageSet, Listener, Question, Unreadable, embed};

/// What to adapt, and to what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The bundle.
    pub bundle: PathBuf,
    /// The new bundle; may be the same.
    pub out: PathBuf,
    /// Templates for the labels' names; the bundle's own if empty.
    pub templates: Vec<String>,
    /// Number of images to process in parallel; 0 for the number of cores.
    pub threads: usize,
}

/// What was adapted.
#[derive(Debug, Clone)]
pub struct Report {
    /// Number of labels with examples.
    pub labels: usize,
    /// Number of examples.
    pub examples: usize,
    /// How far labels move towards their examples.
    pub strength: f32,
    /// Share of left-out examples whose label had the highest score before, 0 to 1.
    pub before: f64,
    /// The same with adapted labels.
    pub after: f64,
    /// Examples that cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// Why labels were not adapted. The bundle is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AdaptError {
    /// The examples were refused, or could not be embedded.
    #[error(transparent)]
    Examples(#[from] EvaluateError),
    /// The bundle was refused, or could not be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The text tower could not be loaded.
    #[error(transparent)]
    Tower(#[from] TowerError),
    /// A label has no embedding.
    #[error(transparent)]
    Label(Box<LabelError<TowerError>>),
    /// The set has captions.
    #[error("{}: expected a folder for each label with its images, found a file of captions", .path.display())]
    NotByClass {
        /// The set.
        path: PathBuf,
    },
    /// Examples that were left out are recognised no better.
    #[error(
        "{}: the examples do not help: of {examples} that were left out, one of each label at a time, {:.1}% are recognised \
         by the labels' texts, and no more with any share of the other examples; the bundle is unchanged. Give more examples \
         of each label (two labels need two or more), or examples that look like what the camera sees",
        .path.display(), 100.0 * .before
    )]
    NoHelp {
        /// The set.
        path: PathBuf,
        /// Number of examples.
        examples: usize,
        /// Share that is recognised, 0 to 1.
        before: f64,
    },
}

/// Adapts the labels of `options.bundle` to the images of `set` and writes the result.
pub fn adapt(set: &ImageSet, options: &Options, listener: Listener<'_>) -> Result<Report, AdaptError> {
    let Question::Classes { classes, truths } = set.question() else {
        return Err(AdaptError::NotByClass { path: set.folder().to_owned() });
    };
    let threads = threads_or_cores(options.threads);
    let bundles = [Bundle::open(&options.bundle)?];
    let bundle = &bundles[0];
    let mut manifest = bundle.manifest().clone();
    let templates = if options.templates.is_empty() { manifest.templates.clone() } else { options.templates.clone() };
    // Labels that were adapted before start from their texts again.
    let old = std::mem::take(&mut manifest.adapted_labels);
    let labels: Vec<Label> = classes.iter().map(|class| class.label(&templates)).collect();
    let keyed = KeyedLabels::new(&labels, &manifest);
    let mut tower = TextTower::open(bundle, &Threads::default())?;
    let embedded = keyed.embed(&mut Cache::default(), |sentence| tower.embed(sentence), |_| ());
    let (texts, _) = embedded.map_err(|error| AdaptError::Label(Box::new(error)))?;
    let images = embed::images(&bundles, set, threads, listener)?;
    let mut own: Vec<Vec<Vec<f32>>> = vec![Vec::new(); labels.len()];
    for (row, image) in images.read.iter().enumerate() {
        own[truths[*image]].push(images.embeddings[0].row(row).to_vec());
    }
    let found = blend_set(texts.matrix(), &own, manifest.scoring().factor());
    if found.strength == 0.0 {
        let (path, before) = (set.folder().to_owned(), found.before);
        return Err(AdaptError::NoHelp { path, examples: images.read.len(), before });
    }
    let adapted = labels.iter().enumerate().filter(|(index, _)| !own[*index].is_empty()).map(|(index, label)| {
        let (key, count) = (keyed.label_key(index).to_string(), own[index].len());
        AdaptedLabel::new(&label.name, key, count, &found.matrix.row(index).to_vec())
    });
    manifest.adapted_labels = adapted.collect();
    let count = manifest.adapted_labels.len();
    let is_kept = |label: &AdaptedLabel| manifest.adapted_labels.iter().all(|new| new.sentences != label.sentences);
    let kept: Vec<AdaptedLabel> = old.into_iter().filter(is_kept).collect();
    manifest.adapted_labels.extend(kept);
    write(bundle, manifest, &options.out)?;
    Ok(Report {
        labels: count,
        examples: images.read.len(),
        strength: found.strength,
        before: found.before,
        after: found.after,
        unreadable: images.unreadable,
    })
}

/// Writes a copy of `bundle` with another manifest.
fn write(bundle: &Bundle, manifest: Manifest, out: &Path) -> Result<(), BundleError> {
    let mut writer = Writer::new(out)?;
    for (part, file) in [
        (Part::Vision, &manifest.vision.file),
        (Part::Text, &manifest.text.file),
        (Part::Tokenizer, &manifest.tokenizer.file),
        (Part::ModelCard, &manifest.model_card),
    ] {
        writer.add(part, &bundle.read(file)?)?;
    }
    writer.finish(manifest).map(drop)
}
