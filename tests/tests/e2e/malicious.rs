//! Malicious checkpoints: each is refused by name, with little memory, and nothing in it is executed.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use prost::Message as _;
use spotter_engine::bundle::{Bundle, TOKENS_MAX, Weights};
use spotter_engine::tower::{ImageTower, TextTower, Threads};
use tract_onnx::pb;

use crate::harness::with_ulimit;
use crate::towers::{changed, edit, exported};

/// Address space of a process: the program and its libraries, and little more. Beyond it, it is aborted.
const MEMORY_KB: u64 = 1_000_000;

/// Exports the tiny checkpoint as `change` leaves it.
fn check(what: &str, change: impl FnOnce(&Path), expected: &[&str]) {
    let (guard, copy) = changed(change);
    let mut command = Command::new(e2e::program("model-prep"));
    command.arg("export").arg(&copy).arg("--out").arg(guard.path().join("bundle"));
    let output = with_ulimit('v', MEMORY_KB, &command).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {message}");
    assert!(!message.contains("panicked"), "{what}: {message}");
    for part in expected {
        assert!(message.contains(part), "{what}: {part:?} is not in: {message}");
    }
}

/// Replaces the weights with this `pytorch_model.bin`.
fn pickled(file: Vec<u8>) -> impl FnOnce(&Path) {
    move |path| {
        std::fs::remove_file(path.join("model.safetensors")).unwrap();
        std::fs::write(path.join("pytorch_model.bin"), file).unwrap();
    }
}

/// One entry of a zip archive, true or false.
pub(crate) struct Entry<'a> {
    name: &'a str,
    data: &'a [u8],
    method: u8,
    /// The uncompressed size that the directory claims.
    size: usize,
    /// The offset that the directory claims, if it is a lie.
    start: Option<usize>,
}

pub(crate) fn stored<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
    Entry { name, data, method: 0, size: data.len(), start: None }
}

pub(crate) fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let four = |n: usize| (n as u32).to_le_bytes();
    for entry in entries {
        let start = entry.start.unwrap_or(file.len());
        file.extend_from_slice(b"PK\x03\x04");
        directory.extend_from_slice(b"PK\x01\x02\x14\0");
        for part in [&mut file, &mut directory] {
            part.extend_from_slice(&[20, 0, 0, 0, entry.method, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            part.extend_from_slice(&four(entry.data.len()));
            part.extend_from_slice(&four(entry.size));
            part.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
            part.extend_from_slice(&[0, 0]);
        }
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&four(start));
        file.extend_from_slice(entry.name.as_bytes());
        directory.extend_from_slice(entry.name.as_bytes());
        file.extend_from_slice(entry.data);
    }
    let start = file.len();
    file.extend_from_slice(&directory);
    let count = (entries.len() as u16).to_le_bytes();
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    file.extend_from_slice(&[count, count].concat());
    file.extend_from_slice(&[four(directory.len()), four(start)].concat());
    file.extend_from_slice(&[0, 0]);
    file
}

/// Twelve floats.
const STORAGE: [u8; 48] = [0x3c; 48];

fn with_pickle(pickle: &[u8]) -> impl FnOnce(&Path) + use<> {
    pickled(archive(&[stored("a/data.pkl", pickle), stored("a/data/0", &STORAGE)]))
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn int(n: i128) -> Vec<u8> {
    [&[0x8a, 16], &n.to_le_bytes()[..]].concat()
}

/// A dict of one tensor in the storage "0".
fn tensor(elements: i128, offset: i128, shape: &[i128], strides: &[i128]) -> Vec<u8> {
    let ints = |all: &[i128]| [b"(".to_vec(), all.iter().flat_map(|n| int(*n)).collect(), b"t".to_vec()].concat();
    let storage = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), int(elements)].concat();
    let arguments = [b"((", &storage[..], b"tQ", &int(offset), &ints(shape), &ints(strides), b"\x89N"].concat();
    [b"\x80\x02}", &text("w")[..], b"ctorch._utils\n_rebuild_tensor_v2\n", &arguments, b"tRs."].concat()
}

#[test]
fn pickles_that_call_functions_are_refused() {
    // The building blocks are sound: without a trick, only the model's own tensors are missing.
    check("sound", with_pickle(&tensor(12, 0, &[3, 4], &[4, 1])), &["missing tensor"]);
    let call = |module: &str, name: &str| {
        [format!("\x02}}X\x01\0\0\0wc{module}\n{name}\n").as_bytes(), b"(X\x04\0\0\0true", b"tRs."].concat()
    };
    let call = |module, name| [b"\x80", &call(module, name)[..]].concat();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("collections", "OrderedDict.__init__"),
        ("torch.storage", "_load_from_bytes"),
    ] {
        let expected = format!("names {module}.{name}");
        check(name, with_pickle(&call(module, name)), &["pytorch_model.bin: refused", &expected]);
        check(name, pickled(call(module, name)), &["pytorch_model.bin: refused", &expected]);
    }
    let by_stack = [b"\x80\x04}", &text("w")[..], &text("os"), &text("system"), b"\x93)Rs."].concat();
    check("STACK_GLOBAL", with_pickle(&by_stack), &["names os.system"]);
    for (what, code) in
        [("INST", b"(ios\nsystem\n.".to_vec()), ("NEWOBJ", b"))\x81.".to_vec()), ("EXT1", b"\x82\x01.".to_vec())]
    {
        check(what, with_pickle(&code), &["its pickle, byte", "which no state dict needs"]);
    }
}

#[test]
fn pickles_that_grow_are_refused() {
    let mut memo = b"\x80\x02)r\xff\xff\xff\xff".to_vec();
    for _ in 0..60 {
        // Twice the value before, by reference: 2^60 leaves.
        memo.extend_from_slice(b"j\xff\xff\xff\xff\x86r\xff\xff\xff\xff");
    }
    check("memo bomb", with_pickle(&[&memo[..], b"."].concat()), &["expected a state dict"]);
    check(
        "deep nesting",
        with_pickle(&[&b"\x80\x02)"[..], &[0x85; 2_000_000], b"."].concat()),
        &["expected a state dict"],
    );
    check(
        "instructions",
        with_pickle(&[&b"\x80\x02"[..], &[b']'; 5_000_000]].concat()),
        &["more than 2097152 instructions"],
    );
    check("no end", with_pickle(b"\x80\x02}"), &["ends in the middle"]);
    check(
        "large pickle",
        with_pickle(&vec![b'N'; 17 << 20]),
        &["expected a pickle of at most 16777216 bytes, found 17825792"],
    );
    check("BINUNICODE", with_pickle(b"\x80\x02X\xff\xff\xff\xffabc"), &["a pickle of more than"]);
    check("BINUNICODE8", with_pickle(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc"), &["a pickle of more than"]);
    check("LONG1", with_pickle(b"\x80\x02\x8a\xff\x01"), &["a number of 255 bytes"]);
    let wide: Vec<i128> = vec![1; 1000];
    check("axes", with_pickle(&tensor(12, 0, &wide, &wide)), &["a tensor of 1000 axes"]);
}

#[test]
fn tensors_outside_of_their_storage_are_refused() {
    let large = 1_i128 << 40;
    for (what, pickle, expected) in [
        ("offset", tensor(12, 9, &[2, 2], &[2, 1]), "reaches beyond its storage of 12"),
        ("last element", tensor(12, 0, &[2, 2], &[11, 1]), "reaches beyond its storage of 12"),
        ("shape", tensor(12, 0, &[large], &[1]), "larger than its storage of 12"),
        ("product", tensor(12, 0, &[large, large, large], &[1, 1, 1]), "larger than its storage of 12"),
        ("no stride", tensor(12, 0, &[large, 4], &[0, 0]), "larger than its storage of 12"),
        ("stride", tensor(12, 0, &[2, 2], &[1 << 62, 1 << 62]), "reaches beyond"),
        ("offset and stride", tensor(12, (1 << 63) - 1, &[2], &[1 << 63]), "reaches beyond"),
        ("axes", tensor(12, 0, &[2, 2], &[1]), "shape and strides differ in length"),
        ("negative", tensor(12, 0, &[-1], &[1]), "size -1"),
        ("huge number", tensor(12, 1 << 100, &[1], &[1]), "size 1267650600228229401496703205376"),
        ("storage", tensor(13, 0, &[1], &[1]), "storage \"0\": expected 52 bytes, found 48"),
        ("huge storage", tensor(1 << 63, 0, &[1], &[1]), "a storage of 9223372036854775808 elements"),
    ] {
        check(what, with_pickle(&pickle), &["pytorch_model.bin: not a usable PyTorch file", expected]);
    }
    // Many tensors of one storage, which would be read once for each.
    let storage = vec![0; 4 << 20];
    let one = tensor(1 << 20, 0, &[1 << 20], &[1]);
    let mut state = b"\x80\x02}".to_vec();
    for number in 0..40 {
        state.extend_from_slice(&text(&format!("w{number}")));
        state.extend_from_slice(&one[9..one.len() - 1]);
    }
    state.push(b'.');
    let shared = archive(&[stored("a/data.pkl", &state), stored("a/data/0", &storage)]);
    check("shared", pickled(shared), &["more than 16 times as large as the file"]);
}

#[test]
fn archives_that_lie_about_their_entries_are_refused() {
    let sound = tensor(12, 0, &[3, 4], &[4, 1]);
    let (pickle, storage) = (|| stored("a/data.pkl", &sound), || stored("a/data/0", &STORAGE));
    let cases: [(&str, Vec<Entry<'_>>, &str); 12] = [
        ("deflated", vec![Entry { method: 8, ..pickle() }, storage()], "compressed or encrypted"),
        (
            "bomb",
            vec![pickle(), Entry { method: 8, size: u32::MAX as usize - 1, ..storage() }],
            "compressed or encrypted",
        ),
        ("two sizes", vec![pickle(), Entry { size: 1 << 30, ..storage() }], "its two sizes differ"),
        ("traversal", vec![pickle(), storage(), stored("../../etc/passwd", b"")], "not a plain name"),
        ("absolute", vec![pickle(), storage(), stored("/etc/passwd", b"")], "not a plain name"),
        ("backslash", vec![pickle(), storage(), stored("a\\b", b"")], "not a plain name"),
        ("twice", vec![pickle(), pickle(), storage()], "occurs twice"),
        ("storage twice", vec![pickle(), storage(), storage()], "occurs twice"),
        ("overlap", vec![pickle(), Entry { start: Some(0), ..storage() }], "overlap"),
        ("no storage", vec![pickle()], "\"data/0\" is missing"),
        ("program", vec![pickle(), storage(), stored("a/constants.pkl", b"")], "TorchScript"),
        ("big-endian", vec![pickle(), storage(), stored("a/byteorder", b"big")], "big-endian"),
    ];
    for (what, entries, expected) in cases {
        check(what, pickled(archive(&entries)), &["not a usable PyTorch file", expected]);
    }
    let whole = archive(&[pickle(), storage()]);
    check("cut", pickled(whole[..whole.len() - 30].to_vec()), &["not a whole zip archive"]);
    let far = archive(&[pickle(), Entry { start: Some(u32::MAX as usize - 9), ..storage() }]);
    check("far away", pickled(far), &["not a usable PyTorch file"]);
    check("empty", pickled(Vec::new()), &["neither"]);
    let legacy = std::fs::read(e2e::root().join("tests/golden/torch/state-legacy.bin")).unwrap();
    for length in [20, 300, legacy.len() - 1] {
        check("legacy, cut", pickled(legacy[..length].to_vec()), &["pytorch_model.bin"]);
    }
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    check("pointer", pickled(pointer.to_vec()), &["a Git LFS pointer"]);
}

/// Replaces the weights with a file of this header, followed by `bytes` zeros.
fn safetensors(header: &str, bytes: u64) -> impl FnOnce(&Path) {
    let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    move |path| {
        let path = path.join("model.safetensors");
        std::fs::write(&path, &start).unwrap();
        File::options().write(true).open(path).unwrap().set_len(start.len() as u64 + bytes).unwrap();
    }
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let one =
        |shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let refused = "not a usable safetensors file";
    for (what, header) in [
        ("past the end", one("[4]", "[0,16]")),
        ("offsets", one("[2]", "[8,16]")),
        ("backwards", one("[2]", "[8,0]")),
        ("shape", one("[1099511627776]", "[0,8]")),
        ("product", one("[4294967296,4294967296,4]", "[0,8]")),
        ("overflow", one("[2]", "[18446744073709551608,18446744073709551615]")),
        ("huge", one("[4611686018427387903]", "[0,18446744073709551612]")),
        ("negative", one("[-1]", "[0,8]")),
        ("type", one("[2]", "[0,8]").replace("F32", "PY")),
        ("no table", "[]".into()),
        ("deep", "[".repeat(100_000)),
        ("overlap", one("[2]", "[0,8]").replace("}}", r#"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#)),
    ] {
        check(what, safetensors(&header, 8), &["model.safetensors", refused]);
    }
    check("long header", safetensors(&" ".repeat(17 << 20), 0), &[refused, "a header of at most 16777216"]);
    let length = |path: &Path| std::fs::write(path.join("model.safetensors"), [0xff; 64]).unwrap();
    check("endless header", length, &[refused, "found 18446744073709551615"]);
}

/// Replaces the weights with an index that puts every tensor into `shard`.
fn index(path: &Path, shard: &str) {
    std::fs::rename(path.join("model.safetensors"), path.join("../outside.safetensors")).unwrap();
    let map = serde_json::json!({"weight_map": {"logit_scale": shard}}).to_string();
    std::fs::write(path.join("model.safetensors.index.json"), map).unwrap();
}

#[test]
fn indices_that_lead_out_of_the_folder_are_refused() {
    let outside = std::fs::canonicalize(e2e::root().join("tests/golden/torch/state.safetensors")).unwrap();
    for shard in [
        "../outside.safetensors",
        "./../outside.safetensors",
        outside.to_str().unwrap(),
        "..\\outside.safetensors",
        "model.safetensors.index.json",
        ".safetensors",
        "config.json",
        "",
        "a\0.safetensors",
    ] {
        check(shard, |path| index(path, shard), &["weight_map.logit_scale", "a .safetensors file next to the index"]);
    }
    let through = |target: &'static str| {
        move |path: &Path| {
            index(path, "shard.safetensors");
            symlink(target, path.join("shard.safetensors")).unwrap();
        }
    };
    check("a device", through("/dev/zero"), &["shard.safetensors: expected a file, found a device"]);
    check("a directory", through("/etc"), &["shard.safetensors: expected a file, found a directory"]);
    check("itself", through("shard.safetensors"), &["shard.safetensors"]);
    check("the index", through("model.safetensors.index.json"), &["not a usable safetensors file"]);
}

#[test]
fn oversized_configurations_are_refused() {
    let (file, layers) = ("config.json", "\"num_hidden_layers\": 2");
    let set = |from: &'static str, to: &'static str| move |path: &Path| edit(path, file, from, to);
    let endless = "\"num_hidden_layers\": 1152921504606846976";
    check("2^60 layers", set(layers, endless), &["num_hidden_layers", "a whole number from 1 to 2097152"]);
    check("2^21 layers", set(layers, "\"num_hidden_layers\": 2097152"), &["missing tensor", "layer.2."]);
    check("1e300 layers", set(layers, "\"num_hidden_layers\": 1e300"), &["num_hidden_layers"]);
    check("-1 layers", set(layers, "\"num_hidden_layers\": -1"), &["num_hidden_layers"]);
    for sides in ["1152921504606846976", "[1152921504606846976, 1152921504606846976]", "[2097152, 2097152]"] {
        let image = format!("\"image_size\": {sides}");
        check(sides, |path| edit(path, file, "\"image_size\": 30", &image), &["error: "]);
    }
    check("2^21 wide", set("\"intermediate_size\": 50", "\"intermediate_size\": 2097152"), &["expected shape"]);
    let positions = "\"max_position_embeddings\": 2097152";
    check("positions", set("\"max_position_embeddings\": 20", positions), &["expected shape [2097152, 40]"]);
    let deep = |path: &Path| std::fs::write(path.join(file), "[".repeat(1 << 20)).unwrap();
    check("deep", deep, &["config.json: not valid JSON"]);
    // A sparse file: nothing of it is on the disk.
    let sized =
        |name: &'static str, bytes| move |path: &Path| File::create(path.join(name)).unwrap().set_len(bytes).unwrap();
    for (name, bytes) in [("config.json", 1 << 30), ("tokenizer.json", 1 << 40), ("preprocessor_config.json", 1 << 40)]
    {
        check(name, sized(name, bytes), &[name, "expected at most"]);
    }
    check(
        "tokenizer_config.json",
        sized("tokenizer_config.json", 1 << 40),
        &["tokenizer_config.json", "expected at most"],
    );
    check("MODEL_CARD.md", sized("MODEL_CARD.md", 1 << 40), &["MODEL_CARD.md", "expected at most"]);
}

/// Replaces a file of the checkpoint with something that is not a regular file.
fn replaced(file: &'static str, make: fn(&Path)) -> impl FnOnce(&Path) {
    move |path| {
        let path = path.join(file);
        let _ = std::fs::remove_file(&path);
        make(&path);
    }
}

/// Every reader of a checkpoint's files, with everything that is not a usable file.
#[test]
fn checkpoint_files_that_are_not_regular_files_are_refused() {
    /// Description, how to make it, expected message.
    type Kind = (&'static str, fn(&Path), &'static str);
    let pipe: fn(&Path) = |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let sparse: fn(&Path) = |path| File::create(path).unwrap().set_len(4 << 30).unwrap();
    let outside: fn(&Path) = |path| symlink("/etc/passwd", path).unwrap();
    let kinds: [Kind; 5] = [
        ("a pipe", pipe, "found a named pipe"),
        ("a folder", |path| std::fs::create_dir(path).unwrap(), "found a directory"),
        ("an endless device", |path| symlink("/dev/zero", path).unwrap(), "found a device"),
        ("4 GB of nothing", sparse, ""),
        ("a link outside", outside, "outside of its folder"),
    ];
    for file in ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors", "MODEL_CARD.md"] {
        for (what, make, part) in kinds {
            check(&format!("{file}: {what}"), replaced(file, make), &[file, part]);
        }
    }
    for file in ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"] {
        check(&format!("{file}: empty"), replaced(file, |path| std::fs::write(path, "").unwrap()), &[file]);
    }
    // Within the checkpoint, a link is accepted as a file.
    let (guard, copy) = changed(|path| {
        std::fs::rename(path.join("config.json"), path.join("config.data")).unwrap();
        symlink("config.data", path.join("config.json")).unwrap();
    });
    exported(&copy, Weights::F32);
    drop(guard);
}

/// Bundles of the tiny checkpoint whose towers and manifest contradict each other or themselves.
#[test]
fn bundles_whose_parts_contradict_each_other_are_refused() {
    let (_guard, checkpoint) = changed(|_| {});
    let (_folder, path) = exported(&checkpoint, Weights::F32);
    let bundle = Bundle::open(&path).unwrap();
    let manifest = bundle.manifest();
    let threads = Threads::default();
    let (vision, text) = (bundle.read(&manifest.vision.file).unwrap(), bundle.read(&manifest.text.file).unwrap());
    let tokenizer = bundle.read(&manifest.tokenizer.file).unwrap();

    let mut longer = manifest.clone();
    longer.tokenizer.max_length = TOKENS_MAX;
    let error = TextTower::load(&text, &tokenizer, &longer, &threads).unwrap_err().to_string();
    assert!(error.contains("4096") && error.contains("table"), "{error}");

    let check = |what: &str, change: &dyn Fn(&mut Vec<pb::NodeProto>), expected: &str| {
        let mut model = pb::ModelProto::decode(&*vision).unwrap();
        change(&mut model.graph.as_mut().unwrap().node);
        // A tower that loads may also fail when it runs; neither may panic.
        let result = ImageTower::load(&model.encode_to_vec(), manifest, &threads).and_then(|tower| {
            let [height, width] = manifest.image_size();
            tower.embed(&vec![0.5; 3 * height * width])
        });
        let error = result.expect_err(what).to_string();
        assert!(error.starts_with("image tower: ") && error.contains(expected), "{what}: {error}");
    };
    check("no Conv", &|nodes| nodes.retain(|node| node.op_type != "Conv"), "");
    let identities = |nodes: &mut Vec<pb::NodeProto>| {
        let node = pb::NodeProto { op_type: "Identity".into(), ..Default::default() };
        nodes.extend(vec![node; 100_000]);
    };
    check("100,000 nodes", &identities, "more than 16384 nodes");
    let axes = |nodes: &mut Vec<pb::NodeProto>| {
        let attributes = nodes.iter_mut().flat_map(|node| &mut node.attribute);
        attributes.filter(|attribute| attribute.name == "axis").for_each(|attribute| attribute.i = 1 << 40);
    };
    check("an axis", &axes, "axis 1099511627776 is no axis of a tensor");
}
