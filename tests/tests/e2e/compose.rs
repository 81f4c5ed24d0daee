//! Single towers composed into dual encoders, against transformers (`tests/reference/make_compose.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use model_prep::compose::{Options, Report, compose};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use spotter_engine::bundle::Weights;

use crate::towers::{Goldens, Weight, exported, run, save, tensors, worst_difference};

const PROJECTION_DIM: usize = 6;

fn cases() -> Map<String, Value> {
    let text = std::fs::read_to_string(e2e::root().join("tests/golden/compose/towers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn tiny(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/tiny/checkpoint").join(file)
}

fn copy_tiny(files: &[&str], folder: &Path) {
    for file in files {
        std::fs::copy(tiny(file), folder.join(file)).unwrap();
    }
}

fn shape(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|extent| extent.as_u64().unwrap() as usize).collect()
}

/// Writes the checkpoint of a case, with values that occur in no other tensor, and returns its tensors.
fn write_tower(case: &Value, folder: &Path) -> BTreeMap<String, Weight> {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), case["config"].to_string()).unwrap();
    let mut all = BTreeMap::new();
    for (number, (name, tensor)) in case["tensors"].as_object().unwrap().iter().enumerate() {
        let shape = shape(&tensor[1]);
        let values = (0..shape.iter().product()).map(|index: usize| number * 10_000 + index);
        let weight = match tensor[0].as_str().unwrap() {
            "float32" => (Dtype::F32, values.flat_map(|v| (v as f32).to_le_bytes()).collect::<Vec<u8>>()),
            "int64" => (Dtype::I64, values.flat_map(|v| (v as i64).to_le_bytes()).collect()),
            other => panic!("{name}: {other}"),
        };
        all.insert(name.clone(), (weight.0, shape, weight.1));
    }
    save(&folder.join("model.safetensors"), &all);
    copy_tiny(if case["side"] == "vision" { &["preprocessor_config.json"] } else { &["vocab.txt"] }, folder);
    all
}

fn options(vision: PathBuf, text: PathBuf, out: PathBuf) -> Options {
    Options { vision, text, projection_dim: PROJECTION_DIM, logit_scale_init: 2.6592, seed: 5, out }
}

/// Composes a case with a plain tower on the other side.
fn composed(cases: &Map<String, Value>, name: &str, folder: &Path) -> (BTreeMap<String, Weight>, Report) {
    let vision = cases[name]["side"] == "vision";
    let (own, other) = (folder.join("own"), folder.join("other"));
    let weights = write_tower(&cases[name], &own);
    write_tower(&cases[if vision { "bert" } else { "vit" }], &other);
    let (vision, text) = if vision { (own, other) } else { (other, own) };
    (weights, compose(&options(vision, text, folder.join("out")), &|| ()).unwrap())
}

#[test]
fn towers_are_composed_as_by_the_reference() {
    let cases = cases();
    for (name, case) in &cases {
        let folder = tempfile::tempdir().unwrap();
        let (weights, report) = composed(&cases, name, folder.path());
        let out = tensors(&report.out.join("model.safetensors"));
        let side = case["side"].as_str().unwrap();
        let prefix = format!("{side}_model.");
        // Transformers 5 writes these towers with one level less, and reads both forms.
        let inner = if name.starts_with("clip") && name.ends_with("-5") { prefix.as_str() } else { "" };
        let mut expected = BTreeMap::new();
        for (saved, tensor) in case["tensors"].as_object().unwrap() {
            if let Some(made) = tensor.get(2) {
                expected.insert(format!("{prefix}{inner}{}", made.as_str().unwrap()), &weights[saved]);
            }
        }
        let found = out.iter().filter(|(key, _)| key.starts_with(&prefix));
        let (copied, new): (BTreeMap<_, _>, BTreeMap<_, _>) = found.partition(|(key, _)| expected.contains_key(*key));
        assert_eq!(copied.len(), expected.len(), "{name}: {expected:?}");
        for (key, weight) in copied {
            assert_eq!(weight, expected[key], "{name}: {key}");
        }
        let drawn = case["new"].as_object().unwrap();
        assert_eq!(new.len(), drawn.len(), "{name}: {:?}", new.keys());
        for (key, (dtype, found, _)) in new {
            assert_eq!((*dtype, found), (Dtype::F32, &shape(&drawn[&key[prefix.len()..]])), "{name}: {key}");
            assert!(report.drawn.contains(key), "{name}: {key}");
        }
        let config = std::fs::read_to_string(report.out.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["projection_dim"], PROJECTION_DIM, "{name}");
        assert_eq!(config["logit_scale_init_value"], 2.6592, "{name}");
        let part = config[format!("{side}_config")].as_object().unwrap();
        for (key, value) in case["made_config"].as_object().unwrap() {
            assert_eq!(part.get(key), Some(value), "{name}: {key}");
        }
        assert_eq!(out["visual_projection.weight"].1[0], PROJECTION_DIM, "{name}");
        assert_eq!(
            out["text_projection.weight"].1,
            [PROJECTION_DIM, shape(&cases["bert"]["tensors"]["pooler.dense.bias"][1])[0]]
        );
        assert_eq!(out["logit_scale"], (Dtype::F32, vec![], 2.6592_f32.to_le_bytes().to_vec()), "{name}");
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn the_seed_determines_the_projections() {
    let cases = cases();
    let folder = tempfile::tempdir().unwrap();
    let (vision, text) = (folder.path().join("vision"), folder.path().join("text"));
    write_tower(&cases["vit-classifier"], &vision);
    write_tower(&cases["bert-masked"], &text);
    let made = |seed, out: &str| {
        let options =
            Options { seed, projection_dim: 512, ..options(vision.clone(), text.clone(), folder.path().join(out)) };
        compose(&options, &|| ()).unwrap();
        tensors(&folder.path().join(out).join("model.safetensors"))
    };
    let (first, again, other) = (made(1, "first"), made(1, "again"), made(2, "other"));
    assert_eq!(first, again);
    for name in ["visual_projection.weight", "text_projection.weight", "vision_model.pooler.dense.weight"] {
        assert_ne!(first[name], other[name], "{name}");
    }
    let projection = floats(&first["visual_projection.weight"].2);
    let bound = 8.0_f32.sqrt().recip();
    assert!(projection.iter().all(|v| v.abs() <= bound));
    assert!(projection.iter().any(|v| v.abs() > 0.99 * bound));
    assert!(floats(&first["text_model.pooler.dense.bias"].2).iter().all(|v| *v == 0.0));
}

/// The towers of the tiny checkpoint as two checkpoints: each with a head.
fn split_tiny(folder: &Path) -> (PathBuf, PathBuf) {
    let config: Value = serde_json::from_str(&std::fs::read_to_string(tiny("config.json")).unwrap()).unwrap();
    let all = tensors(&tiny("model.safetensors"));
    let part = |side: &str, prefix: &str| {
        let path = folder.join(side);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("config.json"), config[format!("{side}_config")].to_string()).unwrap();
        let start = format!("{side}_model.");
        let named =
            all.iter().filter_map(|(name, w)| Some((format!("{prefix}{}", name.strip_prefix(&start)?), w.clone())));
        let mut named: BTreeMap<_, _> = named.collect();
        named.insert("classifier.weight".into(), (Dtype::F32, vec![2], vec![0; 8]));
        save(&path.join("model.safetensors"), &named);
        path
    };
    let (vision, text) = (part("vision", "vit."), part("text", "bert."));
    copy_tiny(&["preprocessor_config.json"], &vision);
    copy_tiny(&["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"], &text);
    (vision, text)
}

#[test]
fn a_composed_checkpoint_computes_what_its_towers_did() {
    let folder = tempfile::tempdir().unwrap();
    let (vision, text) = split_tiny(folder.path());
    let program = e2e::program("model-prep");
    let out = folder.path().join("checkpoint");
    let mut command = Command::new(&program);
    command.arg("compose").arg("--vision").arg(&vision).arg("--text").arg(&text).arg("--out").arg(&out);
    let output = command.args(["--projection-dim", "24"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["image tower vit, text tower bert", "visual_projection.weight", "DOES NOT WORK YET", "Train it"] {
        assert!(shown.contains(part), "{part:?} is not in: {shown}");
    }
    let (_guard, bundle) = exported(&out, Weights::F32);
    assert!(bundle.join("vision.onnx").exists());
    // With the trained projections in place of the random ones, it is the checkpoint that the towers came from.
    let trained = tensors(&tiny("model.safetensors"));
    let mut all = tensors(&out.join("model.safetensors"));
    assert_eq!(all.len(), trained.len());
    for name in ["visual_projection.weight", "text_projection.weight", "logit_scale"] {
        assert_ne!(all.insert(name.to_owned(), trained[name].clone()), Some(trained[name].clone()));
    }
    save(&out.join("model.safetensors"), &all);
    let (_guard, bundle) = exported(&out, Weights::F32);
    let goldens = Goldens::read("tiny");
    let found = run("tiny", &bundle, &goldens);
    for (name, values) in [("image_embeds", found.image_embeds), ("text_embeds", found.text_embeds)] {
        let worst = worst_difference(&values, &goldens.floats(name));
        assert!(worst <= 1e-4, "{name}: worst difference {worst}");
    }

    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("exists already"), "{message}");
}

#[test]
fn towers_in_subfolders_are_composed() {
    let folder = tempfile::tempdir().unwrap();
    let (vision, text) = split_tiny(folder.path());
    let compose = |vision: &Path, text: &Path, out: &str, options: &[&str]| {
        let out = folder.path().join(out);
        let mut command = Command::new(e2e::program("model-prep"));
        command.arg("compose").arg("--vision").arg(vision).arg("--text").arg(text).arg("--out").arg(&out);
        let output = command.args(["--seed", "3", "--logit-scale-init", "-1"]).args(options).output().unwrap();
        (output.status.code(), out, String::from_utf8(output.stderr).unwrap())
    };
    let (code, expected, errors) = compose(&vision, &text, "expected", &[]);
    assert_eq!(code, Some(0), "{errors}");
    let options = ["--vision-subfolder", "vision", "--text-subfolder", "text"];
    let (code, found, errors) = compose(folder.path(), folder.path(), "found", &options);
    assert_eq!(code, Some(0), "{errors}");
    for file in ["model.safetensors", "config.json", "tokenizer_config.json", "preprocessor_config.json"] {
        assert!(
            std::fs::read(expected.join(file)).unwrap() == std::fs::read(found.join(file)).unwrap(),
            "{file} differs"
        );
    }
    let scale = &tensors(&found.join("model.safetensors"))["logit_scale"];
    assert_eq!(scale.2, (-1.0_f32).to_le_bytes());
    let options = ["--vision-subfolder", "vision", "--text-subfolder", "none"];
    let (code, _, errors) = compose(folder.path(), folder.path(), "none", &options);
    assert!(code == Some(1) && errors.contains("/none: No such file"), "{errors}");
}

#[test]
fn towers_that_cannot_be_composed_are_refused() {
    let cases = cases();
    let check = |change: &dyn Fn(&Path, &Path), expected: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let (vision, text) = (folder.path().join("vision"), folder.path().join("text"));
        write_tower(&cases["vit"], &vision);
        write_tower(&cases["bert"], &text);
        change(&vision, &text);
        let out = folder.path().join("out");
        let error = compose(&options(vision, text, out.clone()), &|| ()).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert!(!out.exists(), "{expected:?}: a checkpoint was left behind");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "{expected:?}: something was left behind");
    };
    let edit = |folder: &Path, change: &dyn Fn(&mut Map<String, Value>)| {
        let path = folder.join("config.json");
        let mut config: Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, Value::from(config).to_string()).unwrap();
    };
    let kind = |name: &'static str| {
        move |config: &mut Map<String, Value>| drop(config.insert("model_type".into(), name.into()))
    };
    let without = |folder: &Path, gone: &str| {
        let path = folder.join("model.safetensors");
        let mut all = tensors(&path);
        all.retain(|name, _| !name.starts_with(gone));
        save(&path, &all);
    };
    check(&|_, text| edit(text, &kind("distilbert")), &["text", "model_type \"distilbert\"", "with a pooler: bert"]);
    check(&|vision, _| edit(vision, &kind("bert")), &["vision", "image towers: vit, deit", "inside of clip"]);
    check(&|vision, _| edit(vision, &kind("deit")), &["missing tensor embeddings.distillation_token", "another model"]);
    check(&|vision, _| edit(vision, &|c| drop(c.remove("model_type"))), &["model_type \"\""]);
    check(&|vision, _| edit(vision, &|c| drop(c.insert("hidden_size".into(), 9.into()))), &["hidden_size", "found 9"]);
    check(
        &|_, text| edit(text, &|c| drop(c.insert("num_hidden_layers".into(), 2.into()))),
        &["missing tensor encoder.layer.1.", "other layers have it"],
    );
    check(
        &|_, text| edit(text, &|c| drop(c.insert("num_hidden_layers".into(), json!(1_u64 << 60)))),
        &["num_hidden_layers", "from 1 to"],
    );
    check(&|_, text| without(text, "encoder."), &["missing tensor encoder.layer.0.*"]);
    check(&|_, text| without(text, "embeddings.LayerNorm"), &["missing tensor embeddings.LayerNorm.weight"]);
    check(&|_, text| std::fs::remove_file(text.join("vocab.txt")).unwrap(), &["text", "tokenizer", "merges.txt"]);
    check(&|v, _| std::fs::remove_file(v.join("preprocessor_config.json")).unwrap(), &["preprocessor_config.json"]);
    check(&|vision, _| std::fs::remove_file(vision.join("model.safetensors")).unwrap(), &["no weights"]);
    let not_a_number = |vision: &Path, _: &Path| {
        let path = vision.join("model.safetensors");
        let mut all = tensors(&path);
        all.get_mut("layernorm.bias").unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        save(&path, &all);
    };
    check(&not_a_number, &["layernorm.bias", "NaN"]);
}
