//! Files of `torch.save` (`tests/reference/make_torch_files.py`), read as PyTorch reads them.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model_prep::checkpoint::Tensors;
use safetensors::{Dtype, SafeTensors};
use spotter_engine::bundle::Weights;

use crate::malicious::{archive, int, stored, text};
use crate::towers::{Weight, changed, copy_files, exported, save, tensors};

fn golden(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/torch").join(file)
}

/// A folder whose `pytorch_model.bin` is the golden file.
fn folder_with(file: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden(file), folder.path().join("pytorch_model.bin")).unwrap();
    folder
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn state_dicts_hold_what_torch_load_gives() {
    let expected = std::fs::read(golden("state.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let (integers, floats) = (["position_ids", "mask", "small"], expected.names());
    for file in ["state.bin", "state-protocol-4.bin", "state-legacy.bin"] {
        let folder = folder_with(file);
        let tensors = Tensors::open(folder.path()).unwrap();
        assert_eq!(tensors.count() as usize, floats.len() + integers.len(), "{file}");
        for name in &floats {
            let view = expected.tensor(name).unwrap();
            let found = tensors.read(name, view.shape()).unwrap();
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&values(view.data())), "{file}: {name}");
        }
        for name in integers {
            let error = tensors.read(name, tensors.shape(name).unwrap()).unwrap_err().to_string();
            assert!(error.contains("expected f32, f16, bf16 or f64"), "{file}: {name}: {error}");
        }
    }
}

/// The bfloat16 nearest to a value, ties to even, as PyTorch rounds.
fn rounded(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

#[test]
fn shards_of_pickles_are_one_checkpoint() {
    let float = e2e::root().join("tests/golden/tiny/checkpoint");
    let expected = std::fs::read(float.join("model.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let tensors = Tensors::open(&golden("tiny")).unwrap();
    assert_eq!(tensors.count() as usize, expected.len());
    for (name, view) in expected.tensors() {
        let found = tensors.read(&name, view.shape()).unwrap();
        assert_eq!(found, values(view.data()).into_iter().map(rounded).collect::<Vec<_>>(), "{name}");
    }
}

/// A `pytorch_model.bin` of these tensors, as `torch.save` writes it.
fn torch_file(all: &BTreeMap<String, Weight>) -> Vec<u8> {
    let ints =
        |all: &[usize]| [b"(".to_vec(), all.iter().flat_map(|n| int(*n as i128)).collect(), b"t".to_vec()].concat();
    let (mut pickle, mut storages) = (b"\x80\x02}".to_vec(), Vec::new());
    for (number, (name, (dtype, shape, data))) in all.iter().enumerate() {
        assert_eq!(*dtype, Dtype::F32, "{name}");
        let strides: Vec<usize> = (1..=shape.len()).map(|axis| shape[axis..].iter().product()).collect();
        let number = number.to_string();
        pickle.extend_from_slice(&text(name));
        pickle.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        for part in [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text(&number), text("cpu")] {
            pickle.extend_from_slice(&part);
        }
        pickle.extend_from_slice(&int(data.len() as i128 / 4));
        pickle.extend_from_slice(b"tQ");
        pickle.extend_from_slice(&[int(0), ints(shape), ints(&strides)].concat());
        pickle.extend_from_slice(b"\x89NtRs");
        storages.push((format!("archive/data/{number}"), data));
    }
    pickle.push(b'.');
    let storages = storages.iter().map(|(name, data)| stored(name, data));
    archive(&std::iter::once(stored("archive/data.pkl", &pickle)).chain(storages).collect::<Vec<_>>())
}

#[test]
fn pickles_give_the_same_bundle() {
    let files = ["bundle.json", "vision.onnx", "text.onnx"];
    let check = |what: &str, weights: fn(&Path), expected: fn(&Path)| {
        let [(_found, found), (_expected, expected)] = [weights, expected].map(|change| {
            let (_guard, copy) = changed(change);
            exported(&copy, Weights::Int8)
        });
        for file in files {
            let same = std::fs::read(found.join(file)).unwrap() == std::fs::read(expected.join(file)).unwrap();
            assert!(same, "{what}: {file} differs");
        }
    };
    let whole = |path: &Path| {
        let old = path.join("model.safetensors");
        std::fs::write(path.join("pytorch_model.bin"), torch_file(&tensors(&old))).unwrap();
        std::fs::remove_file(old).unwrap();
    };
    check("pytorch_model.bin", whole, |_| ());
    let shards = |path: &Path| {
        std::fs::remove_file(path.join("model.safetensors")).unwrap();
        copy_files(&golden("tiny"), path);
    };
    // The shards hold bfloat16.
    let same = |path: &Path| {
        let path = path.join("model.safetensors");
        let mut all = tensors(&path);
        for (_, _, data) in all.values_mut() {
            *data = values(data).into_iter().flat_map(|value| rounded(value).to_le_bytes()).collect();
        }
        save(&path, &all);
    };
    check("pytorch_model.bin.index.json", shards, same);
}

#[test]
fn safetensors_come_before_pickles() {
    let folder = folder_with("unsafe.bin");
    let weights = e2e::root().join("tests/golden/torch/state.safetensors");
    std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    assert_eq!(Tensors::open(folder.path()).unwrap().shape("scalar"), Some(&[][..]));
}

#[test]
fn files_that_would_run_code_are_refused() {
    let check = |file: &str, expected: &[&str]| {
        let folder = folder_with(file);
        let error = Tensors::open(folder.path()).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{file}: {part:?} is not in: {error}");
        }
    };
    // Python names the function after the system's C library module, not after `os`.
    for file in ["unsafe.bin", "unsafe-legacy.bin"] {
        check(file, &["pytorch_model.bin: refused", "names posix.system", "model.safetensors"]);
    }
    check("nested.bin", &["no tensor under its keys", "\"model\", \"epoch\"", "save_pretrained"]);
    assert!(!Path::new("/tmp/pickle-was-run").exists(), "a pickle was run");
}

#[test]
fn weights_under_other_names_are_the_same_model() {
    let (_plain, bundle) = exported(&e2e::root().join("tests/golden/tiny/checkpoint"), Weights::F32);
    let towers = |bundle: &Path| ["vision.onnx", "text.onnx"].map(|file| std::fs::read(bundle.join(file)).unwrap());
    let expected = towers(&bundle);
    let check = |what: &str, change: &dyn Fn(&Path)| {
        let (_folder, checkpoint) = changed(change);
        let (_out, bundle) = exported(&checkpoint, Weights::F32);
        assert!(towers(&bundle) == expected, "{what}: other towers");
    };
    let prefixed = |prefix: &'static str| {
        move |checkpoint: &Path| {
            let path = checkpoint.join("model.safetensors");
            let all = tensors(&path).into_iter().map(|(name, weight)| (format!("{prefix}{name}"), weight)).collect();
            save(&path, &all);
        }
    };
    check("torch.compile", &prefixed("_orig_mod."));
    check("DataParallel", &prefixed("module."));
    check("both", &prefixed("module._orig_mod."));
    let renamed = |name: &'static str| {
        move |folder: &Path| std::fs::rename(folder.join("model.safetensors"), folder.join(name)).unwrap()
    };
    check("a variant", &renamed("model.fp16.safetensors"));
    check("a hub's cache", &|checkpoint: &Path| {
        let snapshot = checkpoint.join("hub/models--a--b/snapshots/0123");
        std::fs::create_dir_all(&snapshot).unwrap();
        for entry in checkpoint.read_dir().unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::rename(entry.path(), snapshot.join(entry.file_name())).unwrap();
        }
    });
}

#[test]
fn pointers_of_git_lfs_are_reported_for_every_file() {
    for file in ["model.safetensors", "tokenizer.json", "config.json", "preprocessor_config.json"] {
        let (_folder, checkpoint) = changed(|checkpoint| {
            std::fs::write(checkpoint.join(file), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
                .unwrap();
        });
        let error = model_prep::checkpoint::Checkpoint::open(&checkpoint).map(drop).expect_err(file).to_string();
        assert!(error.contains(file) && error.contains("git lfs pull"), "{file}: {error}");
    }
}
