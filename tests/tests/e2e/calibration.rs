//! Calibration and int4 weights of every kind of tower, both fused ones and those that run in tract.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use model_prep::calibrate::Settings;
use model_prep::checkpoint::Checkpoint;
use model_prep::export::{export, export_calibrated};
use model_prep::plan::Plans;
use safetensors::Dtype;
use serde_json::Value;
use spotter_engine::bundle::{Bundle, Weights};
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::pairs::{Goldens, checkpoint};
use crate::quantization::{PROMPTS, demo_to_export, dequantized, dot, drawn, drawn_number, towers, winners};
use crate::towers::Weight;

/// Prompts that the vocabularies of all tiny text towers can tell apart.
const TINY_PROMPTS: [&str; 5] =
    ["a photo of a cat", "A Photo of a RED circle.", "two dogs run", "an <extra> token", "it's 3.14159 o'clock"];

/// Image tower, text tower, and which of the two runs in tract.
const FAMILIES: [(&str, &str, [bool; 2]); 8] = [
    ("swin", "mpnet", [true, true]),
    ("dinov2_gated", "bert", [true, false]),
    ("deit", "mpnet", [false, true]),
    ("vit", "xlm-roberta", [false, false]),
    ("beit", "clip", [false, false]),
    ("siglip", "roberta", [false, false]),
    ("dinov2_registers", "camembert", [false, false]),
    ("clip", "bert", [false, false]),
];

/// Factor by which [`widened`] makes towers wider.
const WIDER: usize = 4;

/// A tower four times as wide, with numbers that depend on the names alone: int4 groups have 32 weights, and rows of
/// the stored tiny towers have fewer.
fn widened(config: &mut Value, weights: &mut BTreeMap<String, Weight>) {
    for (part, keys) in [
        ("vision_config", &["hidden_size", "intermediate_size", "embed_dim"][..]),
        ("text_config", &["hidden_size", "intermediate_size"]),
    ] {
        for key in keys {
            if let Some(width) = config[part][*key].as_u64() {
                config[part][*key] = (WIDER as u64 * width).into();
            }
        }
    }
    weights.retain(|name, _| !name.ends_with("relative_position_index"));
    for (name, (dtype, shape, data)) in weights.iter_mut().filter(|(name, _)| *name != "logit_scale") {
        let table = name.contains("relative_position_bias") || name.contains("relative_attention_bias");
        let rows_only = name.ends_with("_embeddings.weight") || name.ends_with("_projection.weight");
        let wide: &[bool] = match shape[..] {
            _ if table => &[],
            _ if rows_only => &[false, true],
            [_, _, _] => &[false, false, true],
            [_, _, _, _] => &[true],
            _ => &[true, true],
        };
        shape.iter_mut().zip(wide).filter(|(_, wide)| **wide).for_each(|(extent, _)| *extent *= WIDER);
        let mut state = name.bytes().fold(7_u32, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
        let inputs: usize = shape[1..].iter().product();
        let (middle, size) = match shape.len() {
            1 if name.contains("norm") && name.ends_with("weight") => (1.0, 0.3),
            1 => (0.0, 0.3),
            _ if name.contains("embeddings") && shape.len() == 2 => (0.0, 1.0),
            _ => (0.0, 2.0 / (inputs as f32).sqrt()),
        };
        let value = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (middle + size * ((state >> 8) as f32 / 8_388_608.0 - 1.0)).to_le_bytes()
        };
        (*dtype, *data) = (Dtype::F32, (0..shape.iter().product()).flat_map(value).collect());
    }
}

fn unfused(bundle: &Path) -> [bool; 2] {
    let (_, image, text) = towers(bundle);
    [image.unfused().is_some(), text.unfused().is_some()]
}

#[test]
fn every_family_is_calibrated() {
    let guard = tempfile::tempdir().unwrap();
    let pictures = drawn(guard.path());
    let goldens = Goldens::read();
    for (image, text, left_to_tract) in FAMILIES {
        let (_guard, folder) = checkpoint([image, text], &goldens, |_, _| ());
        let model = Checkpoint::open(&folder).unwrap();
        let prompts = TINY_PROMPTS.map(str::to_owned).to_vec();
        let settings = Settings { folder: pictures.clone(), prompts, max_drop: 0.0 };
        let (out, float) = (folder.with_file_name("out"), folder.with_file_name("float"));
        export(&model, &float, "test", Weights::F32, &|| ()).unwrap();
        assert_eq!(unfused(&float), left_to_tract, "{image}, {text}");
        let manifest = export_calibrated(&model, &out, "test", Weights::Int8, Some(&settings), &|| ())
            .unwrap_or_else(|error| panic!("{image}, {text}: {error}"));
        let found = manifest.quantization.calibration.as_ref().unwrap();
        for tower in ["vision_model.", "text_model."] {
            let layers = manifest.quantization.layers.iter().filter(|layer| layer.name.starts_with(tower));
            let (count, lossy) = layers.fold((0, 0), |(n, lossy), l| (n + 1, lossy + usize::from(l.cosine_loss > 0.0)));
            assert!(count >= 12 && 3 * lossy > count, "{image}, {text}: {lossy} of {count} layers of {tower} lose");
        }
        // The board gets what was promised.
        let (ours, theirs) = (winners(&out, &pictures, &TINY_PROMPTS), winners(&float, &pictures, &TINY_PROMPTS));
        let changed = ours.iter().filter(|(path, winner)| theirs[*path] != **winner).count();
        println!("{image}, {text}: {found:?}");
        assert_eq!((found.drop, changed), (0.0, 0), "{image}, {text}: {found:?}");
    }
}

/// Both kinds of towers that run in tract, and one that runs fused: the engine reads int4 weights as ONNX defines them.
#[test]
fn int4_weights_mean_the_same_in_every_family() {
    let goldens = Goldens::read();
    for (image, text, left_to_tract) in [FAMILIES[0], FAMILIES[2], FAMILIES[3]] {
        let (_guard, folder) = checkpoint([image, text], &goldens, widened);
        let model = Checkpoint::open(&folder).unwrap();
        let out = folder.with_file_name("out");
        let manifest = export(&model, &out, "test", Weights::Int4, &|| ()).unwrap();
        assert_eq!(unfused(&out), left_to_tract, "{image}, {text}");
        let accuracy = &manifest.quantization;
        println!("{image}, {text}: cosines {} {}", accuracy.image_cosine_min, accuracy.text_cosine_min);
        assert!(accuracy.image_cosine_min > 0.9 && accuracy.text_cosine_min > 0.9, "{accuracy:?}");
        let bundle = Bundle::open(&out).unwrap();
        let read = |file| bundle.read(file).unwrap();
        let (vision, words) = (read(&manifest.vision.file), read(&manifest.text.file));
        assert!(
            [&vision, &words].iter().all(|onnx| dequantized(onnx)[..] != onnx[..]),
            "nothing is stored as integers"
        );
        let tract = Threads::default().with_kernels("tract").unwrap();
        let tokenizer = read(&manifest.tokenizer.file);
        let (_, image_tower, mut text_tower) = towers(&out);
        let image_float = ImageTower::load(&dequantized(&vision), &manifest, &tract).unwrap();
        let mut text_float = TextTower::load(&dequantized(&words), &tokenizer, &manifest, &tract).unwrap();
        let pixels: Vec<f32> = (0..3 * manifest.image_size().iter().product::<usize>())
            .map(|i| (i * 7919 % 255) as f32 / 127.5 - 1.0)
            .collect();
        let check = |what: &str, found: Vec<f32>, expected: Vec<f32>, left_to_tract: bool| {
            let cosine = dot(&found, &expected);
            // Fused towers also have int8 activations.
            let least = if left_to_tract { 1.0 - 1e-5 } else { 0.995 };
            assert!(cosine >= least, "{image}, {text}: {what}: cosine {cosine}");
        };
        check("picture", image_tower.embed(&pixels).unwrap(), image_float.embed(&pixels).unwrap(), left_to_tract[0]);
        for prompt in TINY_PROMPTS {
            let pair = (text_tower.embed(prompt).unwrap(), text_float.embed(prompt).unwrap());
            check(prompt, pair.0, pair.1, left_to_tract[1]);
        }
    }
}

#[test]
fn towers_that_run_in_tract_are_calibrated_with_int4() {
    let guard = tempfile::tempdir().unwrap();
    let pictures = drawn(guard.path());
    let (_guard, folder) = checkpoint(["swin", "mpnet"], &Goldens::read(), widened);
    let model = Checkpoint::open(&folder).unwrap();
    let settings = Settings { folder: pictures, prompts: TINY_PROMPTS.map(str::to_owned).to_vec(), max_drop: 0.0 };
    let out = folder.with_file_name("out");
    let plans = Plans { image: Weights::Int4.into(), text: Weights::Int8.into() };
    let manifest = export_calibrated(&model, &out, "test", plans, Some(&settings), &|| ()).unwrap();
    let stored = |start: &str, weights| {
        let layers = manifest.quantization.layers.iter();
        layers.filter(|layer| layer.name.starts_with(start) && layer.stored == weights).count()
    };
    assert!(stored("vision_model.", Weights::Int4) + stored("vision_model.", Weights::F32) > 10);
    assert_eq!(stored("text_model.", Weights::Int4), 0);
    assert_eq!(manifest.quantization.calibration.unwrap().drop, 0.0);
    towers(&out).2.embed("a cat").unwrap();
}

fn model_prep(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(e2e::program("model-prep")).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

#[test]
fn the_command_line_calibrates_and_writes_its_report() {
    let guard = tempfile::tempdir().unwrap();
    let pictures = drawn(guard.path()).display().to_string();
    let path = |name: &str| guard.path().join(name);
    let name = |name: &str| path(name).display().to_string();
    let demo = demo_to_export(guard.path()).display().to_string();
    std::fs::write(path("prompts.txt"), PROMPTS.join("\n")).unwrap();
    let (prompts, out) = (name("prompts.txt"), name("cats.tar"));
    let arguments =
        ["export", &demo, "--out", &out, "--calibrate", &pictures, "--max-drop", "7", "--prompts", &prompts];
    let (output, errors) = model_prep(&[&arguments[..], &["--weights", "int8", "--image-weights", "int4"]].concat());
    assert!(output.status.success(), "{errors}");
    let manifest = Bundle::open(&path("cats.tar")).unwrap().manifest().clone();
    assert_eq!((manifest.vision.weights, manifest.text.weights), (Weights::Int4, Weights::Int8));
    let found = manifest.quantization.calibration.as_ref().unwrap();
    let number = drawn_number();
    assert_eq!((found.pictures, found.prompts, found.max_drop), (number, PROMPTS.len(), 7.0));
    assert!(found.drop <= 7.0, "{found:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    for part in ["layers stay in float", "cats.quantization.md", "cats.quantization.svg"] {
        assert!(shown.contains(part), "{part:?} is not in: {shown}");
    }
    let words = std::fs::read_to_string(path("cats.quantization.md")).unwrap();
    assert_eq!(Some(&words), model_prep::calibrate::report::words(&manifest).as_ref());
    for part in [
        &*format!("Measured on {number} images"),
        "8 prompts",
        "the limit was 7%",
        "| layer | kind | stored as |",
        "int4",
    ] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
    let svg = std::fs::read_to_string(path("cats.quantization.svg")).unwrap();
    let bars = manifest.quantization.layers.len();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    assert_eq!(svg.matches("<rect x=").count(), bars, "a bar for each layer");

    // One changed image is more than allowed, and that is reported.
    let again = name("again");
    let coarse = ["export", &demo, "--out", &again, "--calibrate", &pictures, "--max-drop", "0.5"];
    let (output, errors) = model_prep(&coarse);
    assert!(output.status.success(), "{errors}");
    let one = format!("one of {number} images is {:.1}%", 100.0 / number as f32);
    assert!(errors.contains(&one) && errors.contains("200 images or more"), "{errors}");

    let check = |more: &[&str], parts: &[&str]| {
        let none = name("none");
        let (output, errors) = model_prep(&[&["export", &demo, "--out", &none], more].concat());
        assert!(!output.status.success() && !path("none").exists(), "{more:?}: {errors}");
        for part in parts {
            assert!(errors.contains(part), "{part:?} is not in: {errors}");
        }
    };
    check(&["--weights", "f32", "--calibrate", &pictures], &["--calibrate", "f32 weights", "leave one of the two out"]);
    check(&["--max-drop", "1"], &["--calibrate"]);
    check(&["--prompts", &prompts], &["--calibrate"]);
    check(&["--calibrate", &pictures, "--max-drop", "101"], &["--max-drop 101", "0 to 100"]);
    check(&["--calibrate", &demo], &["expected images"]);
    std::fs::write(path("one.txt"), "a cat\n\n").unwrap();
    check(&["--calibrate", &pictures, "--prompts", &name("one.txt")], &["one.txt", "two prompts or more"]);
}

#[test]
fn int4_on_the_command_line() {
    let guard = tempfile::tempdir().unwrap();
    let tiny = e2e::root().join("tests/golden/tiny/checkpoint").display().to_string();
    let export = |name: &str, more: &[&str]| {
        let out = guard.path().join(name).display().to_string();
        let (output, errors) = model_prep(&[&["export", &tiny, "--out", &out], more].concat());
        assert!(output.status.success(), "{errors}");
        Bundle::open(Path::new(&out)).unwrap().manifest().clone()
    };
    let manifest = export("small", &["--weights", "int4", "--text-weights", "f32"]);
    let float = export("float", &["--weights", "f32"]);
    assert_eq!((manifest.vision.weights, manifest.text.weights), (Weights::Int4, Weights::F32));
    assert_eq!((manifest.quantization.calibration, manifest.quantization.text_cosine_min), (None, 1.0));
    assert!(!guard.path().join("small.quantization.md").exists(), "nothing was calibrated");
    assert_eq!(manifest.text.file, float.text.file);
    assert!(manifest.vision.file.bytes * 2 < float.vision.file.bytes, "{}", manifest.vision.file.bytes);
}
