//! Embeds images and texts on all cores. Each thread processes whole images with its own instance of the tower; all
//! instances share the weights.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use ndarray::Array2;
use spotter_engine::bundle::{Bundle, Manifest};
use spotter_engine::labels::{Cache, Label, embed_labels};
use spotter_engine::picture;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use super::error::EvaluateError;
use super::parallel::in_parallel;
use super::progress::{Listener, Progress};
use super::report::Unreadable;
use super::set::{ImageSet, Question};

/// Embeddings of a set's images.
pub(crate) struct Images {
    /// Indexes of the images that could be read, in order.
    pub(crate) read: Vec<usize>,
    /// Per bundle, a matrix [images that could be read, projection_dim].
    pub(crate) embeddings: Vec<Array2<f32>>,
    pub(crate) unreadable: Vec<Unreadable>,
    /// Seconds it took, without loading the towers.
    pub(super) seconds: f64,
}

/// The state of a thread that embeds images with all bundles.
struct Worker {
    preprocessors: Vec<Preprocessor>,
    towers: Vec<ImageTower>,
    pixels: Vec<f32>,
}

/// Embeds the images of `set` with each of `bundles`.
pub(crate) fn images(
    bundles: &[Bundle],
    set: &ImageSet,
    threads: usize,
    listener: Listener<'_>,
) -> Result<Images, EvaluateError> {
    let manifests: Vec<&Manifest> = bundles.iter().map(Bundle::manifest).collect();
    let towers = bundles.iter().map(|bundle| ImageTower::open(bundle, &Threads::default()));
    let towers = towers.collect::<Result<Vec<_>, _>>()?;
    let worker = || {
        let preprocessors = manifests.iter().map(|manifest| manifest.preprocessor());
        let preprocessors = preprocessors.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, EvaluateError>(Worker { preprocessors, towers: towers.clone(), pixels: Vec::new() })
    };
    listener(Progress::Images(set.len()));
    let start = Instant::now();
    let outcomes = in_parallel(set.len(), threads, worker, |worker, number| {
        let outcome = worker.embed(&manifests, set, number);
        listener(Progress::One);
        outcome
    })?;

    let seconds = start.elapsed().as_secs_f64();
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    let mut values: Vec<Vec<f32>> = vec![Vec::new(); bundles.len()];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(embeddings) => {
                read.push(number);
                values.iter_mut().zip(embeddings).for_each(|(values, embedding)| values.extend(embedding));
            }
            Err(why) => unreadable.push(Unreadable { file: set.file(number).to_owned(), why }),
        }
    }
    if let (true, Some(Unreadable { file, why })) = (read.is_empty(), unreadable.first()) {
        let (folder, first, why) = (set.folder().to_owned(), file.clone(), why.clone());
        return Err(EvaluateError::Unreadable { folder, count: set.len(), first, why });
    }
    let embeddings = values.into_iter().zip(&manifests);
    let embeddings = embeddings.map(|(values, manifest)| matrix(values, manifest.projection_dim)).collect();
    Ok(Images { read, embeddings, unreadable, seconds })
}

impl Worker {
    /// Embeds an image with each bundle; the inner error says why the image cannot be read.
    fn embed(
        &mut self,
        manifests: &[&Manifest],
        set: &ImageSet,
        number: usize,
    ) -> Result<Result<Vec<Vec<f32>>, String>, EvaluateError> {
        let bytes = set.read(number).map_err(|error| reason(&error));
        let image = match bytes.and_then(|bytes| picture::decode(&bytes).map_err(|error| reason(&error))) {
            Ok(image) => image,
            Err(why) => return Ok(Err(why)),
        };
        let mut embeddings = Vec::with_capacity(self.towers.len());
        for (index, tower) in self.towers.iter().enumerate() {
            // Two bundles with the same preprocessing share the pixels.
            if index == 0 || manifests[index].preprocess != manifests[index - 1].preprocess {
                match self.preprocessors[index].run(&image, &mut self.pixels) {
                    Ok(_) => {}
                    Err(error) => return Ok(Err(reason(&error))),
                }
            }
            let embedding = tower.embed(&self.pixels);
            let file = || set.folder().join(set.file(number));
            embeddings.push(embedding.map_err(|source| EvaluateError::Image { file: file(), source })?);
        }
        Ok(Ok(embeddings))
    }
}

/// Embeds the classes or captions of a set: [classes or captions, projection_dim].
pub(super) fn texts(
    bundle: &Bundle,
    question: &Question,
    templates: &[String],
    threads: usize,
    listener: Listener<'_>,
) -> Result<Array2<f32>, EvaluateError> {
    let tower = TextTower::open(bundle, &Threads::default())?;
    let labels: Vec<Label> = match question {
        Question::Classes { classes, .. } => classes.iter().map(|class| class.label(templates)).collect(),
        Question::Captions(_) => Vec::new(),
    };
    let sentences: BTreeSet<String> = match question {
        Question::Classes { .. } => labels.iter().flat_map(Label::sentences).map(|(_, _, sentence)| sentence).collect(),
        Question::Captions(captions) => captions.iter().map(|caption| caption.text.clone()).collect(),
    };
    let sentences: Vec<String> = sentences.into_iter().collect();
    listener(Progress::Sentences(sentences.len()));
    let embeddings = in_parallel(
        sentences.len(),
        threads,
        || Ok(tower.clone()),
        |tower, number| {
            let sentence = &sentences[number];
            let embedding = tower.embed(sentence);
            listener(Progress::One);
            embedding.map_err(|source| EvaluateError::Sentence { sentence: sentence.clone(), source })
        },
    )?;
    let embedded: HashMap<&str, &Vec<f32>> = sentences.iter().map(String::as_str).zip(&embeddings).collect();
    let Question::Captions(captions) = question else {
        let mut tower = tower;
        let (labels, _) =
            embed_labels(&labels, bundle.manifest(), &mut Cache::default(), |sentence| match embedded.get(sentence) {
                Some(embedding) => Ok((*embedding).clone()),
                // Not reached, since all sentences are embedded already; correct anyway.
                None => tower.embed(sentence),
            })
            .map_err(|error| EvaluateError::Label(Box::new(error)))?;
        return Ok(labels.matrix().to_owned());
    };
    let rows = captions.iter().filter_map(|caption| embedded.get(caption.text.as_str()));
    Ok(matrix(rows.flat_map(|row| row.iter().copied()).collect(), bundle.manifest().projection_dim))
}

/// Builds a matrix with rows of `width` values.
fn matrix(values: Vec<f32>, width: usize) -> Array2<f32> {
    let mut matrix = Array2::zeros((values.len() / width.max(1), width));
    matrix.iter_mut().zip(values).for_each(|(to, from)| *to = from);
    matrix
}

/// Formats an error with its causes.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
