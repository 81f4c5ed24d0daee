//! Overrides of an export: applied, recorded, and respected when the bundle is verified.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;
use std::process::{Command, Output};

use safetensors::Dtype;
use spotter_engine::bundle::{Bundle, Override};
use spotter_engine::preprocess::{Filter, Resize, Size, Target};

use crate::towers::{Weight, changed, save, tensors};

/// Its image tower takes 30 x 30 pixels, and its image processor resizes to that.
fn tiny() -> std::path::PathBuf {
    e2e::root().join("tests/golden/tiny/checkpoint")
}

fn export(checkpoint: &Path, bundle: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(e2e::program("model-prep"));
    command.arg("export").arg(checkpoint).arg("--out").arg(bundle).args(["--weights", "f32"]).args(options);
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn overrides_and_their_reason_are_recorded_in_the_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let exported = |options: &[&str]| {
        let output = export(&tiny(), &bundle, options);
        assert!(output.status.success(), "{options:?}: {}", stderr(&output));
        (Bundle::open(&bundle).unwrap().manifest().clone(), String::from_utf8(output.stdout).unwrap())
    };
    let entry = |key: &str, from: &str, to: &str, reason: &str| Override {
        key: key.into(),
        from: from.into(),
        to: to.into(),
        reason: reason.into(),
    };
    let (manifest, _) = exported(&[]);
    assert_eq!(manifest.overrides, []);

    let (manifest, printed) = exported(&["--resize", "34", "--crop", "30", "--reason", "it was trained so"]);
    let expected =
        [entry("resize", "30x30", "34", "it was trained so"), entry("crop", "none", "30x30", "it was trained so")];
    assert_eq!(manifest.overrides, expected);
    assert!(printed.contains("resize: 34 in place of 30x30: it was trained so"), "{printed}");
    let resize = Resize { to: Target::ShortestEdge(34), filter: Filter::Bilinear };
    assert_eq!(manifest.preprocess.resize, Some(resize));
    assert_eq!(manifest.preprocess.crop, Some(Size { height: 30, width: 30 }));

    let mut verify = Command::new(e2e::program("model-prep"));
    let output = verify.arg("verify").arg(&bundle).arg("--checkpoint").arg(tiny()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    let templates = ["--template", "a drawing of a {}", "--template", "{}"];
    let (manifest, _) = exported(&[&["--logit-scale", "x20", "--reason", "trained so"], &templates[..]].concat());
    assert_eq!(manifest.logit_scale, 20_f32.ln());
    assert_eq!(manifest.templates, ["a drawing of a {}", "{}"]);
    let keys: Vec<&str> = manifest.overrides.iter().map(|made| &*made.key).collect();
    assert_eq!(keys, ["logit-scale", "template", "template"]);

    let (manifest, _) = exported(&["--resize", "none", "--crop", "30x30"]);
    let expected = [
        entry("resize", "30x30", "none", "given on the command line"),
        entry("crop", "none", "30x30", "given on the command line"),
    ];
    assert_eq!(manifest.overrides, expected);
}

#[test]
fn an_untrained_logit_scale_is_reported_once() {
    let check = |weight: Option<Weight>, options: &[&str], expected: Option<&str>| {
        let (guard, copy) = changed(|path| {
            let path = path.join("model.safetensors");
            let mut all = tensors(&path);
            all.remove("logit_scale");
            all.extend(weight.clone().map(|weight| ("logit_scale".to_owned(), weight)));
            save(&path, &all);
        });
        let output = Command::new(e2e::program("model-prep"))
            .arg("export")
            .arg(&copy)
            .arg("--out")
            .arg(guard.path().join("bundle"))
            .args(options)
            .output()
            .unwrap();
        let errors = stderr(&output);
        assert!(output.status.success(), "{errors}");
        let lines: Vec<&str> = errors.lines().filter(|line| line.contains("logit_scale")).collect();
        assert_eq!(lines.len(), usize::from(expected.is_some()), "{weight:?} {options:?}: {errors}");
        assert!(expected.is_none_or(|part| lines[0].contains(part)), "{weight:?}: {expected:?} is not in: {errors}");
    };
    let float = |value: f32| Some((Dtype::F32, vec![], value.to_le_bytes().to_vec()));
    check(float(2.6592), &[], Some("2.6592, its value before training"));
    check(float(2.6592), &["--weights", "f32"], Some("2.6592, its value before training"));
    // As stored in half precision, and as floats that were made from that.
    check(Some((Dtype::F16, vec![], vec![0x52, 0x41])), &[], Some("2.6601563, its value before training"));
    check(float(2.656_25), &[], Some("2.65625, its value before training"));
    check(Some((Dtype::BF16, vec![], vec![0x2a, 0x40])), &[], Some("2.65625, its value before training"));
    check(None, &[], Some("no tensor logit_scale"));
    check(float(2.6591), &[], None);
    check(float(2.6592), &["--logit-scale", "x20"], None);
}

#[test]
fn a_checkpoint_in_a_subfolder_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let [direct, inside] = ["direct", "inside"].map(|name| folder.path().join(name));
    assert!(export(&tiny(), &direct, &[]).status.success());
    let parent = tiny().parent().unwrap().to_owned();
    let output = export(&parent, &inside, &["--subfolder", "checkpoint"]);
    assert!(output.status.success(), "{}", stderr(&output));
    for file in ["bundle.json", "vision.onnx", "text.onnx", "tokenizer.json"] {
        let same = std::fs::read(direct.join(file)).unwrap() == std::fs::read(inside.join(file)).unwrap();
        // The name of the model is that of the folder that it is in.
        assert!(same, "{file} differs");
    }
    let verify = |subfolder: &str| {
        let mut verify = Command::new(e2e::program("model-prep"));
        verify.arg("verify").arg(&inside).arg("--checkpoint").arg(&parent).args(["--subfolder", subfolder]);
        verify.output().unwrap()
    };
    let output = verify("checkpoint");
    assert!(output.status.success(), "{}", stderr(&output));
    let output = verify("elsewhere");
    assert!(!output.status.success() && stderr(&output).contains("elsewhere"), "{}", stderr(&output));
}

#[test]
fn nonsensical_overrides_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let check = |options: &[&str], expected: &[&str]| {
        let output = export(&tiny(), &bundle, options);
        assert!(!output.status.success() && !bundle.exists(), "{options:?}");
        for part in expected {
            assert!(stderr(&output).contains(part), "{part:?} is not in: {}", stderr(&output));
        }
    };
    check(&["--resize", "0"], &["--resize", "sides of 1 to 4096"]);
    check(&["--crop", "30x"], &["--crop", "HEIGHTxWIDTH"]);
    check(&["--reason", "none"], &["--resize", "--crop"]);
    check(&["--crop", "28"], &["crop_size", "30 x 30 pixels", "28 x 28 pixels"]);
    check(&["--resize", "30"], &["size", "30 x 30 pixels", "depends on the picture", "--crop"]);
}
