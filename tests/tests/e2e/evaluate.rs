//! `model-prep evaluate`: its measures against numpy's (`tests/reference/make_evaluation.py`), its classification against
//! transformers' (`tests/reference/make_accuracy.py`), and its reports.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use model_prep::checkpoint::Checkpoint;
use model_prep::evaluate::classification::Classification;
use model_prep::evaluate::comparison::Paired;
use model_prep::evaluate::retrieval::{Recall, Retrieval};
use model_prep::evaluate::{Class, ImageSet, Options, Outcome, Places, evaluate};
use model_prep::export::export;
use ndarray::Array2;
use serde::Deserialize;
use serde_json::Value;
use spotter::source::{Uri, draw_shapes};
use spotter_engine::bundle::{Bundle, Weights};
use spotter_engine::embedding::normalize;
use spotter_engine::labels::{Cache, Label, embed_labels};
use spotter_engine::picture::decode;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::score::{Scoring, ScoringKind, score};
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::harness::{Done, Place, drawn, finish};

#[derive(Deserialize)]
struct Golden {
    classification: GoldenClassification,
    retrieval: GoldenRetrieval,
}

#[derive(Deserialize)]
struct GoldenClassification {
    truths: Vec<usize>,
    models: Vec<GoldenModel>,
    paired: Value,
}

#[derive(Deserialize)]
struct GoldenModel {
    images: Vec<Vec<f32>>,
    labels: Vec<Vec<f32>>,
    logit_scale: f32,
    logit_bias: Option<f32>,
    expected: GoldenMeasures,
}

#[derive(Deserialize)]
struct GoldenMeasures {
    top_1: f64,
    top_5: f64,
    mean_per_class: f64,
    ece: f64,
    confusion: Vec<Vec<usize>>,
}

#[derive(Deserialize)]
struct GoldenRetrieval {
    owners: Vec<usize>,
    images: Vec<Vec<f32>>,
    texts: Vec<Vec<f32>>,
    text_to_image: Value,
    image_to_text: Value,
}

/// Rows with an L2 norm of 1.
fn unit(rows: &[Vec<f32>]) -> Array2<f32> {
    let mut rows = rows.to_vec();
    assert!(rows.iter_mut().all(|row| normalize(row)));
    Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(e2e::root().join("tests/golden/evaluation.json")).unwrap()).unwrap()
}

/// Compares the numbers of a JSON object with those of `found`, the program's.
fn same_numbers(what: &str, found: &Value, expected: &Value) {
    for (key, expected) in expected.as_object().unwrap() {
        let (found, expected) = (found[key].as_f64().unwrap(), expected.as_f64().unwrap());
        assert!((found - expected).abs() < 1e-9, "{what}: {key}: {found}, not {expected}");
    }
}

#[test]
fn classification_is_measured_as_numpy_does() {
    let golden = golden().classification;
    let mut answers = Vec::new();
    for model in &golden.models {
        let class = |index| Class { folder: format!("{index}"), name: format!("{index}"), prompts: Vec::new() };
        let classes: Vec<Class> = (0..model.labels.len()).map(class).collect();
        let kind = if model.logit_bias.is_some() { ScoringKind::Sigmoid } else { ScoringKind::Softmax };
        let scoring = Scoring { logit_scale: model.logit_scale, logit_bias: model.logit_bias, kind };
        let (images, labels) = (unit(&model.images), unit(&model.labels));
        let (found, its) = Classification::of(&scoring, images.view(), labels.view(), &classes, &golden.truths);
        let GoldenMeasures { top_1, top_5, mean_per_class, ece, confusion } = &model.expected;
        assert_eq!(&found.confusion, confusion, "{kind:?}");
        for (what, found, expected, tolerance) in [
            ("top-1", found.top_1, *top_1, 1e-12),
            ("top-5", found.top_5.unwrap(), *top_5, 1e-12),
            ("mean per class", found.mean_per_class, *mean_per_class, 1e-12),
            ("calibration", found.calibration.ece, *ece, 1e-6),
        ] {
            assert!((found - expected).abs() <= tolerance, "{kind:?}: {what}: {found}, not {expected}");
        }
        answers.push(its);
    }
    let found = serde_json::to_value(Paired::of(&answers[0], &answers[1])).unwrap();
    same_numbers("paired", &found, &golden.paired);
}

#[test]
fn retrieval_is_measured_as_numpy_does() {
    let golden = golden().retrieval;
    let (images, texts) = (unit(&golden.images), unit(&golden.texts));
    let (found, _) = Retrieval::of(images.view(), texts.view(), &golden.owners);
    let value = |recall: &Recall| serde_json::to_value(recall).unwrap();
    same_numbers("text to image", &value(&found.text_to_image), &golden.text_to_image);
    same_numbers("image to text", &value(&found.image_to_text), &golden.image_to_text);
}

/// A float bundle of the demo checkpoint.
fn float_bundle(place: &Place) -> std::path::PathBuf {
    let out = place.at("float");
    let checkpoint = Checkpoint::open(&e2e::root().join("model-prep/demo/checkpoint")).unwrap();
    export(&checkpoint, &out, "demo in floats", Weights::F32, &|| ()).unwrap();
    out
}

#[derive(Deserialize)]
struct ShapesGolden {
    frames: Vec<ShapesFrame>,
}

#[derive(Deserialize)]
struct ShapesFrame {
    truth: String,
    predicted: String,
}

/// On other machines, pixels on edges may be drawn differently from what the reference saw.
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "pixels on edges may be drawn otherwise, as sine and cosine are rounded"
)]
#[test]
fn drawn_shapes_are_confused_as_transformers_confuses_them() {
    let place = Place::new();
    let path = e2e::root().join("tests/golden/shapes.json");
    let golden: ShapesGolden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let Ok(Uri::Shapes(options)) = "test://shapes?seed=7&fps=0&hold=1&frames=300".parse() else { panic!("shapes") };
    let mut expected: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut rgb = Vec::new();
    for (number, frame) in golden.frames.iter().enumerate() {
        let truth = draw_shapes(&options, number as u64, &mut rgb);
        assert_eq!(truth, frame.truth, "frame {number}");
        let folder = place.at("shapes").join(truth.replace(' ', "_"));
        std::fs::create_dir_all(&folder).unwrap();
        let (width, height) = (options.width as u32, options.height as u32);
        let path = folder.join(format!("{number}.png"));
        image::save_buffer(path, &rgb, width, height, image::ColorType::Rgb8).unwrap();
        *expected.entry((frame.truth.clone(), frame.predicted.clone())).or_default() += 1;
    }
    let set = ImageSet::open(&place.at("shapes"), &Places::default()).unwrap();
    let report = evaluate(&float_bundle(&place), &set, &Options::default(), &|_| ()).unwrap();
    let Outcome::Classification(found) = &report.bundles[0].outcome else { panic!("{report:?}") };
    assert_eq!((report.pictures, found.classes.len()), (300, 48), "every class is drawn");
    let mut confusion = BTreeMap::new();
    for (truth, row) in found.classes.iter().zip(&found.confusion) {
        for (answer, count) in found.classes.iter().zip(row).filter(|(_, count)| **count > 0) {
            confusion.insert((truth.name.clone(), answer.name.clone()), *count);
        }
    }
    let right = golden.frames.iter().filter(|frame| frame.truth == frame.predicted).count();
    println!(
        "300 drawn shapes, 48 classes: top-1 {:.2} %, transformers {:.2} %",
        100.0 * found.top_1,
        right as f64 / 3.0
    );
    assert_eq!(confusion, expected);
    assert!((found.top_1 - right as f64 / 300.0).abs() < 1e-12);
}

/// Number of drawn images.
const COUNT: u64 = 24;

/// Images in folders `a_cat`, `red_circle` and `ship`, with any content, and a file that is not an image.
fn classes(place: &Place) -> std::path::PathBuf {
    for (index, folder) in ["a_cat", "red_circle", "ship"].iter().cycle().take(COUNT as usize).enumerate() {
        std::fs::create_dir_all(place.at("set").join(folder)).unwrap();
        place.picture(&format!("set/{folder}/{index:02}.png"), index as u64);
    }
    place.write("set/red_circle/broken.jpg", b"\xff\xd8\xff\xe0 cut off");
    place.write("set/red_circle/notes.txt", b"not a picture");
    place.at("set")
}

fn model_prep(place: &Place, arguments: &str) -> Done {
    let mut command = Command::new(e2e::program("model-prep"));
    let demo = e2e::root().join("config/demo");
    let arguments = arguments.split_whitespace().map(|word| match word {
        "DEMO" => demo.clone().into_os_string(),
        word => word.into(),
    });
    command.arg("evaluate").args(arguments).current_dir(place.at("")).stdin(Stdio::null());
    finish(command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE"))
}

/// The program's JSON output.
fn json(place: &Place, arguments: &str) -> Value {
    let done = model_prep(place, &format!("{arguments} --json"));
    assert_eq!(done.code, Some(0), "{arguments}: {}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

/// The best label of each readable image in `set`, one image and one label at a time.
fn best_labels(set: &Path, names: &[&str], templates: &[&str]) -> BTreeMap<(String, String), u64> {
    let bundle = Bundle::open(&e2e::root().join("config/demo")).unwrap();
    let manifest = bundle.manifest();
    let templates: Vec<String> = templates.iter().map(|template| (*template).to_owned()).collect();
    let label = |name: &&str| {
        let name = (*name).to_owned();
        Label { prompts: vec![name.clone()], name, templates: templates.clone() }
    };
    let labels: Vec<Label> = names.iter().map(label).collect();
    let mut text = TextTower::open(&bundle, &Threads::default()).unwrap();
    let (labels, _) = embed_labels(&labels, manifest, &mut Cache::default(), |sentence| text.embed(sentence)).unwrap();
    let image = ImageTower::open(&bundle, &Threads::default()).unwrap();
    let mut preprocessor = Preprocessor::new(&manifest.preprocess).unwrap();
    let (mut pixels, mut scores, mut found) = (Vec::new(), Vec::new(), BTreeMap::new());
    for folder in std::fs::read_dir(set).unwrap() {
        let folder = folder.unwrap().path();
        for file in std::fs::read_dir(&folder).unwrap() {
            let Ok(picture) = decode(&std::fs::read(file.unwrap().path()).unwrap()) else { continue };
            preprocessor.run(&picture, &mut pixels).unwrap();
            score(&image.embed(&pixels).unwrap(), &labels, &manifest.scoring(), &mut scores);
            let truth = folder.file_name().unwrap().to_str().unwrap().replace('_', " ");
            *found.entry((truth, names[scores[0].label].to_owned())).or_default() += 1;
        }
    }
    found
}

/// The confusion matrix in a report as counts of pairs of names.
fn confusion(report: &Value) -> BTreeMap<(String, String), u64> {
    let found = &report["bundles"][0]["classification"];
    let names: Vec<&str> = found["classes"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    let mut counts = BTreeMap::new();
    for (truth, row) in names.iter().zip(found["confusion"].as_array().unwrap()) {
        for (answer, count) in names.iter().zip(row.as_array().unwrap()) {
            if count.as_u64() != Some(0) {
                counts.insert(((*truth).to_owned(), (*answer).to_owned()), count.as_u64().unwrap());
            }
        }
    }
    counts
}

#[test]
fn folders_are_classified_as_single_pictures_are() {
    let place = Place::new();
    let set = classes(&place);
    let report = json(&place, "DEMO set --threads 3");
    assert_eq!(report["pictures"], COUNT);
    assert_eq!(report["left_out"], serde_json::json!([{ "what": "files without an image's extension", "count": 1 }]));
    let unreadable = report["unreadable"].as_array().unwrap();
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0]["file"], "red_circle/broken.jpg");
    assert!(unreadable[0]["why"].as_str().unwrap().contains("truncated JPEG"), "{unreadable:?}");
    let expected = best_labels(&set, &["a cat", "red circle", "ship"], &["a photo of a {}."]);
    assert_eq!(confusion(&report), expected);
    let right: u64 = expected.iter().filter(|((truth, answer), _)| truth == answer).map(|(_, count)| count).sum();
    assert_eq!(report["bundles"][0]["classification"]["top_1"], right as f64 / COUNT as f64);

    // Any number of threads gives the same result, except for times.
    let single = json(&place, "DEMO set --threads 1");
    assert_eq!(single["bundles"], report["bundles"]);

    place.write("templates.txt", "a drawing of a {}.\n{}\n");
    place.write("names.tsv", "ship\tship, boat\nred_circle\tcircle\na_cat\tcat\nmoon\tmoon\n");
    let report = json(&place, "DEMO set --templates templates.txt");
    let templates = ["a drawing of a {}.", "{}"];
    assert_eq!(report["bundles"][0]["templates"], serde_json::json!(templates));
    assert_eq!(confusion(&report), best_labels(&set, &["a cat", "red circle", "ship"], &templates));

    let report = json(&place, "DEMO set --labels names.tsv --limit 5");
    assert_eq!(report["pictures"].as_u64().unwrap() + report["unreadable"].as_array().unwrap().len() as u64, 5);
    let names: Vec<_> = report["bundles"][0]["classification"]["classes"].as_array().unwrap().iter().collect();
    assert_eq!(
        names.iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["cat", "moon", "circle", "ship"]
    );
    assert!(names[1]["accuracy"].is_null(), "{names:?}");
}

#[test]
fn two_bundles_are_compared_picture_by_picture() {
    let place = Place::new();
    classes(&place);
    float_bundle(&place);
    let report = json(&place, "DEMO set --against float");
    let comparison = &report["comparison"];
    for what in ["pictures", "texts"] {
        let (min, mean) = (comparison[what]["min"].as_f64().unwrap(), comparison[what]["mean"].as_f64().unwrap());
        assert!((0.995..1.0).contains(&min) && min <= mean && mean < 1.0, "{what}: {comparison}");
    }
    let count = |key: &str| comparison["top_1"][key].as_u64().unwrap();
    let sides = [["both_right", "only_first_right"], ["both_right", "only_second_right"]];
    for (bundle, keys) in report["bundles"].as_array().unwrap().iter().zip(sides) {
        let right = bundle["classification"]["top_1"].as_f64().unwrap() * COUNT as f64;
        assert!((right - keys.map(count).iter().sum::<u64>() as f64).abs() < 1e-9, "{comparison}");
    }
    assert_eq!(
        [["both_right", "only_first_right"], ["only_second_right", "both_wrong"]]
            .concat()
            .into_iter()
            .map(count)
            .sum::<u64>(),
        COUNT
    );

    let alone = json(&place, "DEMO set");
    assert!(alone["comparison"].is_null());
    assert_eq!(alone["bundles"][0], report["bundles"][0]);
    let twins = json(&place, "DEMO set --against DEMO");
    assert_eq!(twins["comparison"]["top_1"]["agreement"], 1.0);
    assert!(twins["comparison"]["pictures"]["min"].as_f64().unwrap() > 1.0 - 1e-9);

    let words = model_prep(&place, "DEMO set --against float --confusion matrix.svg");
    assert_eq!(words.code, Some(0), "{}", words.stderr);
    for part in [
        "set: 24 images in ",
        "1 images could not be read and are not counted:\n  red_circle/broken.jpg: truncated JPEG",
        "skipped: 1 files without an image's extension",
        "int8                 f32\n",
        "guessing among 3 classes                       33.33 %             33.33 %",
        "McNemar's exact test",
        "predicted as",
        "expected calibration error of the best label's probability, 15 bins",
    ] {
        assert!(words.stdout.contains(part), "{part:?} is not in\n{}", words.stdout);
    }
    let svg = std::fs::read_to_string(place.at("matrix.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("24 images of 3 classes"), "{svg}");
}

#[test]
fn captions_find_their_pictures() {
    let place = Place::new();
    std::fs::create_dir(place.at("set")).unwrap();
    let mut lines = String::new();
    for number in 0..12 {
        place.picture(&format!("set/{number}.png"), number);
        lines += &format!(
            "{number}.png#0\tpicture number {number} of a {}\n",
            ["star", "heart", "cross"][number as usize % 3]
        );
        lines += &format!("{number}.png#1\tsomething red, number {number}\n");
    }
    place.write("set/captions.txt", lines.clone() + "gone.png#0\tnothing at all\n");
    let report = json(&place, "DEMO set");
    assert_eq!((&report["pictures"], &report["unreadable"][0]["file"]), (&12.into(), &"gone.png".into()));

    // The same with one image and one sentence at a time.
    let bundle = Bundle::open(&e2e::root().join("config/demo")).unwrap();
    let mut text = TextTower::open(&bundle, &Threads::default()).unwrap();
    let image = ImageTower::open(&bundle, &Threads::default()).unwrap();
    let mut preprocessor = Preprocessor::new(&bundle.manifest().preprocess).unwrap();
    let images: Vec<Vec<f32>> = (0..12)
        .map(|number| {
            let drawn = drawn(number);
            let (width, height) = (drawn.width() as usize, drawn.height() as usize);
            let picture = spotter_engine::picture::Picture { width, height, rgb: drawn.into_raw(), transparent: None };
            let mut pixels = Vec::new();
            preprocessor.run(&picture, &mut pixels).unwrap();
            image.embed(&pixels).unwrap()
        })
        .collect();
    let texts: Vec<Vec<f32>> =
        lines.lines().map(|line| text.embed(line.split_once('\t').unwrap().1).unwrap()).collect();
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let rank = |query: &[f32], candidates: &[Vec<f32>], right: &dyn Fn(usize) -> bool| {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|a, b| cosine(query, &candidates[*b]).total_cmp(&cosine(query, &candidates[*a])));
        1 + order.into_iter().position(right).unwrap()
    };
    let by_text: Vec<usize> = texts.iter().enumerate().map(|(t, q)| rank(q, &images, &|i| i == t / 2)).collect();
    let by_image: Vec<usize> = images.iter().enumerate().map(|(i, q)| rank(q, &texts, &|t| t / 2 == i)).collect();
    let found = &report["bundles"][0]["retrieval"];
    for (what, mut ranks, candidates) in [("text_to_image", by_text, 12), ("image_to_text", by_image, 24)] {
        ranks.sort_unstable();
        let within = |k: usize| ranks.iter().filter(|rank| **rank <= k).count() as f64 / ranks.len() as f64;
        let median = (ranks[ranks.len() / 2 - 1] + ranks[ranks.len() / 2]) as f64 / 2.0;
        let expected = serde_json::json!({
            "queries": ranks.len(), "candidates": candidates,
            "at_1": within(1), "at_5": within(5), "at_10": within(10), "median_rank": median,
        });
        assert_eq!(found[what], expected, "{what}: {ranks:?}");
    }
    let words = model_prep(&place, "DEMO set --against DEMO");
    assert!(words.stdout.contains("text to image, 24 among 12"), "{}", words.stdout);
}

#[test]
fn what_cannot_be_evaluated_is_refused_with_the_reason() {
    let place = Place::new();
    classes(&place);
    std::fs::create_dir_all(place.at("captioned")).unwrap();
    place.write("captioned/captions.tsv", "a.png\tA cat.\nb.png\tA dog.\n");
    std::fs::create_dir_all(place.at("single/cat")).unwrap();
    place.picture("single/cat/1.png", 1);
    place.write("empty.txt", "");
    place.write("templates.txt", "{}");
    let check = |arguments: &str, code: i32, parts: &[&str]| {
        let done = model_prep(&place, arguments);
        assert_eq!(done.code, Some(code), "{arguments}: {}", done.stderr);
        assert!(parts.iter().all(|part| done.stderr.contains(part)), "{arguments}: {:?} lacks {parts:?}", done.stderr);
        assert!(done.stdout.is_empty(), "{arguments}: {}", done.stdout);
    };
    check("DEMO nowhere", 1, &["error: nowhere: No such file"]);
    check("nowhere set", 1, &["error: nowhere", "No such file"]);
    check("DEMO single", 1, &["error: single: expected two classes or more", "found one, \"cat\""]);
    check("DEMO captioned", 1, &["captioned: none of 2 images can be read; the first is a.png: No such file"]);
    check("DEMO captioned --templates empty.txt", 1, &["empty.txt:1: expected a template"]);
    check("DEMO captioned --templates templates.txt", 1, &["--templates cannot be used here: captions are whole"]);
    check("DEMO set --against nowhere", 1, &["error: nowhere"]);
    check("DEMO set --captions captioned/captions.tsv --confusion x.svg", 1, &["--confusion cannot be used here"]);
    check("DEMO set --limit 0", 2, &["--limit"]);
    check("DEMO set --labels a --captions b", 2, &["cannot be used with"]);
}
