//! Readers of foreign files, with everything that is not a usable regular file: each ends soon, with a message. Here
//! are the readers of `model-prep` and of the state folder. Files that people name to `spotter` are tested in
//! `bad_inputs`, a changing label file in `reload`, archives in `bundles`, a checkpoint's files in `malicious`, a
//! bundle's in the engine.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use spotter_engine::bundle::Weights;

use crate::bad_inputs::Hostile::{self, Empty, EndlessDevice, Folder, Pipe, Sparse, Unreadable};
use crate::harness::{Place, finish_within, lines};
use crate::towers::exported;

const ALL: [Hostile; 6] = [Pipe, Folder, EndlessDevice, Empty, Sparse, Unreadable];

/// Root may read everything.
fn is_hostile(hostile: Hostile, path: &Path) -> bool {
    !matches!(hostile, Unreadable) || File::open(path).is_err()
}

/// Runs `model-prep` with these words, some of which stand for paths.
fn model_prep(place: &Place, arguments: &str) -> Command {
    let root = e2e::root();
    let golden = root.join("tests/golden");
    let path = |word: &str| -> OsString {
        match word {
            "DEMO" => root.join("config/demo").into(),
            "TINY" => golden.join("tiny/checkpoint").into(),
            "VISION.ONNX" => golden.join("onnx/dynamo/vision.onnx").into(),
            "TEXT.ONNX" => golden.join("onnx/script/text.onnx").into(),
            word => word.into(),
        }
    };
    let mut command = Command::new(e2e::program("model-prep"));
    command.args(arguments.split_whitespace().map(path)).current_dir(place.at("")).stdin(Stdio::null());
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    command
}

#[test]
fn every_reader_of_model_prep_refuses_what_is_not_a_regular_file() {
    struct Reader {
        arguments: &'static str,
        /// An empty file is one of them, too.
        empty_is_refused: bool,
    }
    let readers = [
        Reader { arguments: "evaluate DEMO hostile", empty_is_refused: true },
        Reader { arguments: "evaluate hostile pictures", empty_is_refused: true },
        Reader { arguments: "evaluate DEMO pictures --against hostile", empty_is_refused: true },
        Reader { arguments: "evaluate DEMO pictures --labels hostile", empty_is_refused: false },
        Reader { arguments: "evaluate DEMO pictures --captions hostile", empty_is_refused: false },
        Reader { arguments: "evaluate DEMO pictures --templates hostile", empty_is_refused: true },
        Reader { arguments: "export hostile --out out", empty_is_refused: true },
        Reader { arguments: "export TINY --out out --calibrate pictures --prompts hostile", empty_is_refused: true },
        Reader { arguments: "verify bundle --checkpoint TINY --goldens hostile", empty_is_refused: true },
        Reader {
            arguments: "export onnx --out out --logit-scale x100 --vision-onnx hostile --text-onnx TEXT.ONNX",
            empty_is_refused: true,
        },
        Reader {
            arguments: "export onnx --out out --logit-scale x100 --vision-onnx VISION.ONNX --text-onnx TEXT.ONNX \
                        --vision-projection hostile:visual_projection",
            empty_is_refused: true,
        },
    ];
    let place = Place::new();
    for class in ["cat", "dog"] {
        fs::create_dir_all(place.at("pictures").join(class)).unwrap();
        place.picture(&format!("pictures/{class}/x.png"), 1);
    }
    fs::create_dir(place.at("onnx")).unwrap();
    let tokenizer = e2e::root().join("tests/golden/onnx/tokenizer");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tokenizer.join(file), place.at("onnx").join(file)).unwrap();
    }
    place.write("onnx/preprocessor_config.json", r#"{"size": 20}"#);
    let (_guard, bundle) = exported(&e2e::root().join("tests/golden/tiny/checkpoint"), Weights::F32);
    std::os::unix::fs::symlink(bundle, place.at("bundle")).unwrap();

    for hostile in ALL {
        let path = place.at("hostile");
        hostile.make(&path);
        for Reader { arguments, empty_is_refused } in &readers {
            if !is_hostile(hostile, &path) || (matches!(hostile, Empty) && !empty_is_refused) {
                continue;
            }
            let what = format!("{arguments}, {hostile:?}");
            let done = finish_within(&what, Duration::from_secs(1), || model_prep(&place, arguments));
            assert_eq!(done.code, Some(1), "{what}: {}{}", done.stdout, done.stderr);
            assert!(done.stderr.contains("hostile"), "{what}: {}", done.stderr);
            assert!(!place.at("out").exists(), "{what}: something was written");
        }
        let removed = if matches!(hostile, Folder) { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.unwrap();
    }
}

/// Others may be able to write to the state folder. Whatever is in it, the program goes on without it, and reports it.
#[test]
fn state_that_is_not_a_regular_file_is_reported_and_stops_nothing() {
    for file in ["label-cache.safetensors", "label-cache.journal", "bundles.json"] {
        for hostile in ALL {
            let place = Place::new();
            place.labels("labels.toml", &["red circle", "blue star"]);
            fs::create_dir(place.state()).unwrap();
            let path = place.state().join(file);
            hostile.make(&path);
            if !is_hostile(hostile, &path) {
                continue;
            }
            let what = format!("{file}, {hostile:?}");
            let arguments = "run --output json --frames 2 --labels labels.toml --source test://shapes?size=64x64";
            let done = finish_within(&what, Duration::from_secs(10), || place.spotter(arguments));
            assert_eq!((done.code, lines(&done).len()), (Some(0), 2), "{what}: {}", done.stderr);
            // A journal without records is complete.
            let is_told = !(matches!(hostile, Empty) && file == "label-cache.journal");
            assert!(!is_told || done.stderr.contains(file), "{what}: {}", done.stderr);
        }
    }
}
