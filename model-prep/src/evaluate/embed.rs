//! Pictures and texts to embeddings, on all cores: each thread takes whole pictures, with a tower of its own that shares
//! the others' weights.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use ndarray::Array2;
use spotter_engine::bundle::{Bundle, Manifest};
use spotter_engine::labels::{Cache, Label, embed_labels};
use spotter_engine::picture;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use super::parallel::in_parallel;
use super::report::Unreadable;
use super::set::{PictureSet, Question};
use super::{EvaluateError, Listener, Progress};

/// Embeddings of a set's pictures.
pub(super) struct Pictures {
    /// The pictures that could be read, in order.
    pub(super) read: Vec<usize>,
    /// A matrix [pictures that could be read, P] for each model.
    pub(super) embeddings: Vec<Array2<f32>>,
    pub(super) unreadable: Vec<Unreadable>,
    /// How long it took, once the towers were loaded.
    pub(super) seconds: f64,
}

/// What a thread needs to embed pictures by all models.
struct Worker {
    preprocessors: Vec<Preprocessor>,
    towers: Vec<ImageTower>,
    pixels: Vec<f32>,
}

/// Embeds the pictures of `set` by every one of `bundles`.
pub(super) fn pictures(
    bundles: &[Bundle],
    set: &PictureSet,
    threads: usize,
    listener: Listener<'_>,
) -> Result<Pictures, EvaluateError> {
    let manifests: Vec<&Manifest> = bundles.iter().map(Bundle::manifest).collect();
    let towers = bundles.iter().map(|bundle| ImageTower::open(bundle, &Threads::default()));
    let towers = towers.collect::<Result<Vec<_>, _>>()?;
    let worker = || {
        let preprocessors = manifests.iter().map(|manifest| manifest.preprocessor());
        let preprocessors = preprocessors.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, EvaluateError>(Worker { preprocessors, towers: towers.clone(), pixels: Vec::new() })
    };
    listener(Progress::Pictures(set.len()));
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
    Ok(Pictures { read, embeddings, unreadable, seconds })
}

impl Worker {
    /// The embedding of a picture by each model, or why it cannot be read.
    fn embed(
        &mut self,
        manifests: &[&Manifest],
        set: &PictureSet,
        number: usize,
    ) -> Result<Result<Vec<Vec<f32>>, String>, EvaluateError> {
        let picture = match set.read(number).map_err(|error| reason(&error)) {
            Ok(bytes) => picture::decode(&bytes).map_err(|error| reason(&error)),
            Err(why) => Err(why),
        };
        let picture = match picture {
            Ok(picture) => picture,
            Err(why) => return Ok(Err(why)),
        };
        let mut embeddings = Vec::with_capacity(self.towers.len());
        for (index, tower) in self.towers.iter().enumerate() {
            // The second model takes the first one's pixels where both want the same.
            if index == 0 || manifests[index].preprocess != manifests[index - 1].preprocess {
                match self.preprocessors[index].run(&picture, &mut self.pixels) {
                    Ok(_) => {}
                    Err(error) => return Ok(Err(reason(&error))),
                }
            }
            let embedding = tower.embed(&self.pixels);
            let file = || set.folder().join(set.file(number));
            embeddings.push(embedding.map_err(|source| EvaluateError::Picture { file: file(), source })?);
        }
        Ok(Ok(embeddings))
    }
}

/// Embeddings of the classes or captions of a set, [classes or captions, P].
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
                // Not reached, since all sentences have been embedded; it would be right all the same.
                None => tower.embed(sentence),
            })
            .map_err(|error| EvaluateError::Label(Box::new(error)))?;
        return Ok(labels.matrix().to_owned());
    };
    let rows = captions.iter().filter_map(|caption| embedded.get(caption.text.as_str()));
    Ok(matrix(rows.flat_map(|row| row.iter().copied()).collect(), bundle.manifest().projection_dim))
}

/// Rows of `width` values.
fn matrix(values: Vec<f32>, width: usize) -> Array2<f32> {
    let mut matrix = Array2::zeros((values.len() / width.max(1), width));
    matrix.iter_mut().zip(values).for_each(|(to, from)| *to = from);
    matrix
}

/// An error with what caused it.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
