//! What eight-bit weights cost, measured on photographs that are not part of the project.
//!
//! `SPOTTER_DATA` names a folder with `tiny-imagenet-val.zip` (`WNID/FILE`), `cifar10-val.zip` (`CLASS/FILE`), both
//! stored without compression, and `tiny-imagenet-classes.tsv` (WNID, tab, synonyms separated by commas).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model_prep::checkpoint::Checkpoint;
use model_prep::export::export;
use spotter_engine::bundle::{Bundle, Weights};
use spotter_engine::labels::{Cache, Label, LabelEmbeddings, embed_labels};
use spotter_engine::picture::decode;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::score::{Scoring, score};
use spotter_engine::tower::{ImageTower, TextTower, Threads};

/// The least cosine between the embeddings of one photograph.
const COSINE_MIN: f32 = 0.995;
/// The most percentage points of zero-shot top-1 that eight bits may cost.
const DROP_MAX: f64 = 0.5;
/// Fewer photographs than this say nothing.
const PHOTOS_MIN: usize = 200;

/// One file of a set, with the index of its class.
struct Photo {
    name: String,
    class: usize,
    bytes: Vec<u8>,
}

/// A set of photographs and its classes.
struct Photos {
    classes: Vec<Label>,
    photos: Vec<Photo>,
}

impl Photos {
    /// Reads `archive`, whose folders are named by the keys of `classes`; the values are the prompts.
    fn read(archive: &Path, classes: &BTreeMap<String, Vec<String>>) -> Self {
        let mut photos = Vec::new();
        for (name, bytes) in stored_files(&std::fs::read(archive).unwrap()) {
            let folder = name.split('/').next().unwrap_or_default();
            let class = classes.keys().position(|class| class == folder);
            let class = class.unwrap_or_else(|| panic!("{}: {name}: no such class", archive.display()));
            photos.push(Photo { name, class, bytes: bytes.to_owned() });
        }
        let templates = vec!["a photo of a {}.".to_owned()];
        let label = |(name, prompts): (&String, &Vec<String>)| Label {
            name: name.clone(),
            prompts: prompts.clone(),
            templates: templates.clone(),
        };
        Self { classes: classes.iter().map(label).collect(), photos }
    }
}

/// Names and contents of the files of a zip archive that stores them without compression.
fn stored_files(zip: &[u8]) -> Vec<(String, &[u8])> {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes(zip[at..at + 2].try_into().unwrap()));
    let u32_at = |at: usize| u32::from_le_bytes(zip[at..at + 4].try_into().unwrap()) as usize;
    let end = zip.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").expect("the end of a zip archive");
    let mut files = Vec::new();
    let mut at = u32_at(end + 16);
    for _ in 0..u16_at(end + 10) {
        assert_eq!(&zip[at..at + 4], b"PK\x01\x02", "an entry of the central directory");
        let (method, bytes, local) = (u16_at(at + 10), u32_at(at + 20), u32_at(at + 42));
        let name = str::from_utf8(&zip[at + 46..][..u16_at(at + 28)]).unwrap().to_owned();
        assert_eq!(method, 0, "{name}: compressed");
        let data = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        if !name.ends_with('/') {
            files.push((name, &zip[data..data + bytes]));
        }
        at += 46 + u16_at(at + 28) + u16_at(at + 30) + u16_at(at + 32);
    }
    files
}

/// A bundle with both towers' work done as the programs do it.
struct Model {
    bundle: Bundle,
    image: ImageTower,
    labels: LabelEmbeddings,
}

impl Model {
    fn open(path: &Path, classes: &[Label]) -> Self {
        let bundle = Bundle::open(path).unwrap();
        let mut text = TextTower::open(&bundle, &Threads::default()).unwrap();
        let mut cache = Cache::default();
        let (labels, _) =
            embed_labels(classes, bundle.manifest(), &mut cache, |sentence| text.embed(sentence)).unwrap();
        let image = ImageTower::open(&bundle, &Threads::default()).unwrap();
        Self { bundle, image, labels }
    }

    /// The embedding, and the index of the best label.
    fn see(&self, pixels: &[f32]) -> (Vec<f32>, usize) {
        let embedding = self.image.embed(pixels).unwrap();
        let mut scores = Vec::new();
        score(&embedding, &self.labels, &Scoring::of(self.bundle.manifest()), &mut scores);
        (embedding, scores[0].label)
    }
}

/// What two models make of a set.
#[derive(Debug)]
struct Outcome {
    right: [usize; 2],
    cosine_min: (f32, String),
}

fn compare(models: &[Model; 2], photos: &[Photo]) -> Outcome {
    let mut preprocessor = Preprocessor::new(&models[0].bundle.manifest().preprocess).unwrap();
    let mut outcome = Outcome { right: [0; 2], cosine_min: (f32::MAX, String::new()) };
    let mut pixels = Vec::new();
    for photo in photos {
        let picture = decode(&photo.bytes).unwrap_or_else(|error| panic!("{}: {error}", photo.name));
        preprocessor.run(&picture, &mut pixels).unwrap();
        let seen = [0, 1].map(|index| models[index].see(&pixels));
        for (right, (_, class)) in outcome.right.iter_mut().zip(&seen) {
            *right += usize::from(*class == photo.class);
        }
        let cosine = seen[0].0.iter().zip(&seen[1].0).map(|(a, b)| a * b).sum();
        if cosine < outcome.cosine_min.0 {
            outcome.cosine_min = (cosine, photo.name.clone());
        }
    }
    outcome
}

fn check(what: &str, set: &Photos, bundles: [&Path; 2]) {
    let models = bundles.map(|path| Model::open(path, &set.classes));
    assert_eq!(models[0].bundle.manifest().preprocess, models[1].bundle.manifest().preprocess);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let parts = set.photos.chunks(set.photos.len().div_ceil(cores));
        let parts: Vec<_> = parts.map(|part| scope.spawn(|| compare(&models, part))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect()
    });
    let count = set.photos.len();
    let top_1 = [0, 1].map(|model| {
        let right: usize = outcomes.iter().map(|outcome| outcome.right[model]).sum();
        100.0 * right as f64 / count as f64
    });
    let (cosine, photo) = outcomes.iter().map(|o| &o.cosine_min).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    let [int8, float] = top_1;
    println!(
        "{what}: {count} photos, {} classes: zero-shot top-1 int8 {int8:.2} %, f32 {float:.2} %; \
         least cosine between them {cosine:.6} ({photo})",
        set.classes.len()
    );
    assert!(count >= PHOTOS_MIN, "{what}: {count} photos, at least {PHOTOS_MIN} wanted");
    assert!(*cosine >= COSINE_MIN, "{what}: {photo}: cosine {cosine}, at least {COSINE_MIN} wanted");
    assert!(float - int8 <= DROP_MAX, "{what}: int8 {int8:.2} %, f32 {float:.2} %: {DROP_MAX} points less at most");
    // Guessing would pass all of the above.
    let chance = 100.0 / set.classes.len() as f64;
    assert!(int8 > 2.0 * chance, "{what}: {int8:.2} % is hardly more than the {chance:.2} % of guessing");
}

#[test]
fn eight_bits_cost_next_to_nothing_on_photographs() {
    let Some(data) = std::env::var_os("SPOTTER_DATA").map(PathBuf::from) else {
        println!("SKIPPED: SPOTTER_DATA names no folder with tiny-imagenet-val.zip and cifar10-val.zip");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let float = folder.path().join("float");
    let checkpoint = Checkpoint::open(&e2e::root().join("model-prep/demo/checkpoint")).unwrap();
    export(&checkpoint, &float, "demo", Weights::F32, &|| ()).unwrap();
    let bundles = [&*e2e::root().join("config/demo"), &*float];

    let table = std::fs::read_to_string(data.join("tiny-imagenet-classes.tsv")).unwrap();
    let class = |line: &str| {
        let (key, synonyms) = line.split_once('\t').unwrap();
        (key.to_owned(), synonyms.split(',').map(|name| name.trim().to_owned()).collect())
    };
    let classes: BTreeMap<_, Vec<_>> = table.lines().map(class).collect();
    assert_eq!(classes.len(), 200);
    check("tiny-imagenet-val", &Photos::read(&data.join("tiny-imagenet-val.zip"), &classes), bundles);

    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let classes = names.map(|name| (name.to_owned(), vec![name.to_owned()])).into();
    check("cifar10-val", &Photos::read(&data.join("cifar10-val.zip"), &classes), bundles);
}
