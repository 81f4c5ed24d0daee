//! Whole runs on a tiny checkpoint and drawn pictures.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::SafeTensors;

use spotter_engine::bundle::{TowerKind, Weights};

use super::*;
use crate::evaluate::{self, ImageSet, Outcome, Places};
use crate::export::export;
use crate::tune::random::Random;
use crate::{adapt, compose};

const CLASSES: [&str; 3] = ["red", "green", "blue"];

/// The golden pair of ViT and BERT as a checkpoint, with a tokenizer and an image processor.
fn checkpoint(folder: &Path) -> PathBuf {
    let path = part(&folder.join("checkpoint"), "", None);
    add_tokenizer(&path);
    add_processor(&path);
    path
}

/// The part of the golden pair whose tensors have this prefix, with the configuration under `key`.
fn part(path: &Path, prefix: &str, key: Option<&str>) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tune");
    fs::create_dir(path).expect("a folder");
    let config = fs::read(golden.join("vit_bert.json")).expect("a configuration");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    let config = key.map_or(&config, |key| &config[key]);
    fs::write(path.join("config.json"), config.to_string()).expect("writes");
    let bytes = fs::read(golden.join("vit_bert.safetensors")).expect("a golden");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let weights = file.tensors().into_iter();
    let prefix = format!("weight/{prefix}");
    let weights = weights.filter_map(|(name, view)| Some((name.strip_prefix(&prefix)?.to_owned(), view)));
    let model = safetensors::serialize(weights, None).expect("weights");
    fs::write(path.join("model.safetensors"), model).expect("writes");
    path.to_owned()
}

fn add_tokenizer(path: &Path) {
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] red green blue a photo of the picture . one";
    fs::write(path.join("vocab.txt"), words.replace(' ', "\n")).expect("writes");
    fs::write(path.join("tokenizer_config.json"), r#"{"tokenizer_class": "BertTokenizer"}"#).expect("writes");
}

fn add_processor(path: &Path) {
    let processor = r#"{"image_processor_type": "ViTImageProcessor", "do_resize": true, "do_rescale": true,
        "do_normalize": true, "size": {"height": 15, "width": 15}, "resample": 2, "rescale_factor": 0.00392156862745098,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;
    fs::write(path.join("preprocessor_config.json"), processor).expect("writes");
}

/// A picture in mostly one colour.
fn picture(class: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(&[class as u64, seed]);
    let mut bytes = b"P6\n17 16\n255\n".to_vec();
    for index in 0..17 * 16 * 3 {
        bytes.push(if index % 3 == class { random.between(120.0, 255.0) } else { random.between(0.0, 120.0) } as u8);
    }
    bytes
}

/// A folder for each class, and one picture that cannot be read.
fn classes(folder: &Path) -> PathBuf {
    let path = folder.join("classes");
    for (class, name) in CLASSES.iter().enumerate() {
        fs::create_dir_all(path.join(name)).expect("a folder");
        for seed in 0..14 {
            fs::write(path.join(name).join(format!("{seed}.ppm")), picture(class, seed)).expect("writes");
        }
    }
    fs::write(path.join("red/broken.ppm"), "P6\nnothing").expect("writes");
    path
}

/// Pictures with captions, one of them in a bad line.
fn captioned(folder: &Path) -> PathBuf {
    let path = folder.join("captioned");
    fs::create_dir_all(&path).expect("a folder");
    let mut lines = "no tab\n".to_owned();
    for (class, name) in CLASSES.iter().enumerate() {
        for seed in 0..6 {
            let file = format!("{name}{seed}.ppm");
            lines += &format!("{file}\ta photo of {name} one\n{file}\tthe {name} picture\n");
            fs::write(path.join(file), picture(class, 100 + seed)).expect("writes");
        }
    }
    fs::write(path.join("captions.tsv"), lines).expect("writes");
    path
}

fn options(out: &Path, data: PathBuf, lock: Lock) -> Options {
    Options {
        data: vec![data],
        eval: Vec::new(),
        out: out.to_owned(),
        locking: Locking { lock, train_layers: None },
        epochs: Some(3),
        minutes: None,
        batch: 8,
        rate: Some(3e-3),
        warmup: None,
        weight_decay: 0.1,
        seed: 1,
        templates: Vec::new(),
        resume: false,
    }
}

/// Runs, and returns the notes too.
fn run(checkpoint: &Path, options: &Options) -> (Report, Vec<String>) {
    let checkpoint = Checkpoint::open(checkpoint).expect("a checkpoint");
    let notes = Mutex::new(Vec::new());
    let listener = |event: &Event<'_>| {
        if let Event::Note(note) = event {
            notes.lock().expect("no panic").push(note.clone());
        }
    };
    let report = tune(&checkpoint, options, &listener).expect("a run");
    (report, notes.into_inner().expect("no panic"))
}

#[test]
fn a_run_learns_and_its_result_is_a_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path());
    let data = classes(folder.path());
    let cases = [
        (Lock::Image, None, 0.9),
        (Lock::None, None, 0.9),
        (Lock::None, Some(1), 0.9),
        (Lock::Both, None, 0.6),
        (Lock::Text, None, 0.9),
    ];
    for (number, (lock, train_layers, expected)) in cases.into_iter().enumerate() {
        let out = folder.path().join(format!("out {number}"));
        let mut options = options(&out, data.clone(), lock);
        options.locking.train_layers = train_layers;
        options.epochs = Some(12);
        options.eval = vec![data.clone()];
        let (report, notes) = run(&checkpoint, &options);
        let top_1 = |index: usize| report.epochs[index].results[0].top_1.expect("classes");
        assert_eq!(report.epochs.len(), 13, "{lock:?}");
        assert!(
            top_1(report.best) >= expected,
            "{lock:?}, {train_layers:?}: {} after {}",
            top_1(report.best),
            top_1(0)
        );
        assert!(notes.iter().any(|note| note.contains("broken.ppm")), "{notes:?}");
        for folder in [out.clone(), out.join("last")] {
            let new = Checkpoint::open(&folder).expect("a checkpoint");
            let old = Checkpoint::open(&checkpoint).expect("a checkpoint");
            let names =
                |checkpoint: &Checkpoint| checkpoint.tensors.stored().map(|(n, _)| n.clone()).collect::<Vec<_>>();
            assert_eq!(names(&new), names(&old));
            let changed: Vec<String> = names(&new)
                .into_iter()
                .filter(|name| {
                    let shape = new.tensors.shape(name).expect("a shape").to_vec();
                    new.tensors.read(name, &shape).expect("values") != old.tensors.read(name, &shape).expect("values")
                })
                .collect();
            for (prefix, kind) in [("vision_model.", TowerKind::Image), ("text_model.", TowerKind::Text)] {
                let any = changed.iter().any(|name| name.starts_with(prefix));
                assert_eq!(any, !lock.holds(kind), "{lock:?}: {changed:?}");
            }
            let card = fs::read_to_string(folder.join("MODEL_CARD.md")).expect("a card");
            assert!(card.contains("| 12 |") && card.contains("top-1"), "{card}");
        }
        let plot = fs::read_to_string(out.join("tune/run.svg")).expect("a plot");
        assert!(plot.starts_with("<svg") && plot.contains("polyline"), "{plot}");
        assert!(!out.join("tune/state.safetensors").exists(), "a finished run needs no state");
    }
}

/// A run that was killed after its first epoch, and resumed, ends in the same bytes.
#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint_path = checkpoint(folder.path());
    for (lock, data) in [(Lock::None, captioned(folder.path())), (Lock::Image, classes(folder.path()))] {
        let [whole, copy] = ["whole", "copy"].map(|name| folder.path().join(format!("{name} {lock:?}")));
        let options = options(&whole, data.clone(), lock);
        let checkpoint = Checkpoint::open(&checkpoint_path).expect("a checkpoint");
        let copied = Mutex::new(false);
        let listener = |event: &Event<'_>| {
            let mut copied = copied.lock().expect("no panic");
            // The first step of the second epoch: the state is that of the first one's end.
            if let (Event::Step { step, .. }, false) = (event, *copied)
                && whole.join("last/model.safetensors").exists()
                && *step == steps_of_epoch(&options, &data) + 1
            {
                copy_folder(&whole, &copy);
                *copied = true;
            }
        };
        let first = tune(&checkpoint, &options, &listener).expect("a run");
        assert!(*copied.lock().expect("no panic"));
        assert!(copy.join("tune/state.safetensors").exists());

        let again = Options { out: copy.clone(), resume: true, ..options.clone() };
        let other = Options { rate: Some(1e-3), ..again.clone() };
        let error = tune(&checkpoint, &other, &|_| ()).expect_err("another rate").to_string();
        assert!(error.contains("optimizer") && error.contains("0.001"), "{error}");
        let fresh = Options { resume: false, ..again.clone() };
        let error = tune(&checkpoint, &fresh, &|_| ()).expect_err("the folder is taken").to_string();
        assert!(error.contains("--resume"), "{error}");

        let second = tune(&checkpoint, &again, &|_| ()).expect("a run");
        let results = |report: &Report| report.epochs.iter().map(|e| (e.loss, e.results.clone())).collect::<Vec<_>>();
        assert_eq!(results(&first), results(&second), "{lock:?}");
        for file in ["model.safetensors", "last/model.safetensors"] {
            let bytes = |folder: &Path| fs::read(folder.join(file)).expect("weights");
            assert!(bytes(&whole) == bytes(&copy), "{lock:?}: {file} differs");
        }
        let error = tune(&checkpoint, &again, &|_| ()).expect_err("nothing is left to do").to_string();
        assert!(error.contains("--resume") && error.contains("finished"), "{error}");
    }
}

fn steps_of_epoch(options: &Options, data: &Path) -> u64 {
    let mut pairs = Pairs::open(&[data.to_owned()], &TEMPLATES.map(str::to_owned)).expect("a set");
    pairs.hold_out(options.seed);
    (pairs.items.len() / options.batch) as u64
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

#[test]
fn bad_data_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = checkpoint(folder.path());
    let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
    let check = |name: &str, files: &[(&str, &[u8])], expected: &[&str]| {
        let data = folder.path().join(name);
        for (file, content) in files {
            let file = data.join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
            fs::write(file, content).expect("writes");
        }
        let out = folder.path().join(format!("{name} out"));
        let error = tune(&checkpoint, &options(&out, data, Lock::None), &|_| ()).expect_err(name).to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{name}: {error}");
    };
    let good = picture(0, 1);
    check("one class", &[("red/1.ppm", &good), ("red/2.ppm", &good)], &["two classes or more"]);
    check("bad lines", &[("captions.tsv", b"a\nb\t\n")], &["2 lines cannot be used", "captions.tsv:1"]);
    check(
        "unreadable",
        &[("red/1.ppm", b"x"), ("green/1.ppm", b""), ("red/2.ppm", b"x"), ("green/2.ppm", b"x")],
        &["images that can be read", "none of", "green"],
    );
    check("empty", &[("notes.txt", b"")], &["a folder per class"]);
}

/// Numbers that are not finite stop the run before they reach the weights.
#[test]
fn a_loss_that_is_not_a_number_stops_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = Checkpoint::open(&checkpoint(folder.path())).expect("a checkpoint");
    let out = folder.path().join("out");
    let options = Options { rate: Some(1e30), warmup: Some(1), ..options(&out, classes(folder.path()), Lock::None) };
    let error = tune(&checkpoint, &options, &|_| ()).expect_err("stopped");
    let TuneError::NotFinite { step, kept, samples, .. } = &error else { panic!("{error:?}") };
    assert!(*step >= 2 && samples.contains(".ppm"), "{error}");
    assert!(error.to_string().contains("--lr"), "{error}");
    assert!(kept.join("model.safetensors").exists());
}

/// The worked example of the README, in small: two towers are composed, tuned and exported, and the bundle knows the classes.
/// Without tuning it does not, but a few examples help it.
#[test]
fn two_towers_become_a_bundle_that_knows_the_classes() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let vision = part(&at("vision"), "vision_model.", Some("vision_config"));
    add_processor(&vision);
    let text = part(&at("text"), "text_model.", Some("text_config"));
    add_tokenizer(&text);
    let composed =
        compose::Options { vision, text, projection_dim: 16, logit_scale_init: 2.6592, seed: 0, out: at("pair") };
    compose::compose(&composed, &|| ()).expect("a pair");
    let data = classes(folder.path());
    let longer = |out: &str, lock| Options { epochs: Some(12), ..options(&at(out), data.clone(), lock) };
    run(&at("pair"), &longer("first", Lock::Both));
    run(&at("pair"), &longer("tuned", Lock::Image));
    let exported = |checkpoint: &str, bundle: &str| {
        let checkpoint = Checkpoint::open(&at(checkpoint)).expect("a checkpoint");
        export(&checkpoint, &at(bundle), "test", Weights::Int8, &|| ()).expect("a bundle");
    };
    let top_1 = |bundle: &str| {
        let set = ImageSet::open(&data, &Places::default()).expect("a set");
        let report = evaluate::evaluate(&at(bundle), &set, &evaluate::Options::default(), &|_| ()).expect("a report");
        let Outcome::Classification(found) = &report.bundles[0].outcome else { panic!("{report:?}") };
        found.top_1
    };
    exported("tuned", "bundle");
    assert!(top_1("bundle") >= 0.9, "{}", top_1("bundle"));

    exported("pair", "untuned");
    let before = top_1("untuned");
    let set = ImageSet::open(&data, &Places::default()).expect("a set");
    let adapting = adapt::Options { bundle: at("untuned"), out: at("adapted.tar"), templates: Vec::new(), threads: 1 };
    let report = adapt::adapt(&set, &adapting, &|_| ()).expect("examples help");
    assert!(report.after > report.before && report.strength > 0.0 && report.labels == 3, "{report:?}");
    assert!(top_1("adapted.tar") > before, "{} after {before}", top_1("adapted.tar"));
    assert_eq!(top_1("untuned"), before, "another bundle was asked for");

    // Each label's images are drawn from all classes.
    let mixed = at("mixed");
    for (label, name) in CLASSES.iter().enumerate() {
        fs::create_dir_all(mixed.join(name)).expect("a folder");
        for class in 0..3 {
            let content = picture((label + class) % 3, 50 + class as u64);
            fs::write(mixed.join(name).join(format!("{class}.ppm")), content).expect("writes");
        }
    }
    let set = ImageSet::open(&mixed, &Places::default()).expect("a set");
    let tuned = adapt::Options { bundle: at("bundle"), out: at("worse"), ..adapting };
    let error = adapt::adapt(&set, &tuned, &|_| ()).expect_err("refused").to_string();
    assert!(error.contains("do not help") && !at("worse").exists(), "{error}");
}
