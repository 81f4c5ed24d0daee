//! The fuzz targets, each of which takes any bytes. `tests/tests/e2e/scripts.rs` calls them, too.

mod tokenizer;
mod towers;

use std::path::Path;

use model_prep::checkpoint::{CheckpointError, DualEncoderConfig, Tensors};
use spotter::source::split_jpegs;
use spotter_engine::bundle::Bundle;

pub use self::tokenizer::tokenizer;
pub use self::towers::towers;

/// A checkpoint with arbitrary `config.json` and `model.safetensors`: it is refused or read, within bounds.
pub fn checkpoint(bytes: &[u8]) {
    // Two bytes say where one file ends and the other begins.
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let at = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, weights) = rest.split_at(at);
    with_files([("config.json", config), ("model.safetensors", weights)], |folder| {
        let config = DualEncoderConfig::read(&folder.join("config.json"));
        drop(format!("{config:?}"));
        read_all(Tensors::open(folder));
    });
}

/// An arbitrary `pytorch_model.bin`: it is refused or read, within bounds.
pub fn pickle(bytes: &[u8]) {
    // Most inputs are not a zip archive, so a bare pickle is put into one.
    let archive;
    let file = match bytes.split_first() {
        Some((b'P', pickle)) if !bytes.starts_with(b"PK") => {
            archive = torch_archive(pickle);
            &archive[..]
        }
        _ => bytes,
    };
    with_files([("pytorch_model.bin", file)], |folder| read_all(Tensors::open(folder)));
}

/// An arbitrary bundle, as a directory and as a `.tar`: it is refused or read, within bounds.
pub fn bundle(bytes: &[u8]) {
    let (name, folder) = match bytes.split_first() {
        // The manifest alone; its files are empty.
        Some((b'{', _)) => ("bundle.json", true),
        _ => ("bundle.tar", false),
    };
    with_files([(name, bytes), ("file", &[])], |path| {
        let path = if folder { path.to_owned() } else { path.join(name) };
        match Bundle::open(&path) {
            Ok(bundle) => drop(bundle.verify()),
            Err(error) => drop(error.to_string()),
        }
    });
}

/// An arbitrary stream of JPEG images: it contains the same images however it is divided, and no byte is in two.
pub fn splitter(bytes: &[u8]) {
    let images = split_jpegs([bytes]);
    assert!(images.iter().all(|image| image.starts_with(&[0xFF, 0xD8]) && image.ends_with(&[0xFF, 0xD9])));
    // The end marker is added if it is missing.
    assert!(images.iter().map(Vec::len).sum::<usize>() <= bytes.len() + 2 * images.len());
    assert!(split_jpegs(bytes.chunks(1)) == images, "bytes one by one");
    let (mut rest, mut random) = (bytes, bytes.len() as u64);
    let pieces = std::iter::from_fn(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (piece, after) = rest.split_at(rest.len().min(1 << (random >> 60)));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert!(split_jpegs(pieces) == images, "pieces of any size");
}

/// Calls `run` with a folder that contains these files and nothing else, in memory if the system has such a place.
fn with_files<const N: usize>(files: [(&str, &[u8]); N], run: impl FnOnce(&Path)) {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("writes");
    }
    run(folder.path());
}

/// Reads every tensor, or prints the error.
fn read_all(tensors: Result<Tensors, CheckpointError>) {
    match tensors.and_then(|tensors| tensors.sha256()) {
        Ok(hash) => assert_eq!(hash.len(), 64),
        Err(error) => drop(error.to_string()),
    }
}

/// What `torch.save` makes of a pickle and of the storages "0", "1" and "2" of 48 bytes: a zip archive of stored
/// entries. Checksums are left at 0, since PyTorch ignores them.
fn torch_archive(pickle: &[u8]) -> Vec<u8> {
    let storage = [0x3c; 48];
    let entries: [(&str, &[u8]); 4] =
        [("a/data.pkl", pickle), ("a/data/0", &storage), ("a/data/1", &storage), ("a/data/2", &storage)];
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let size = (data.len() as u32).to_le_bytes();
        let start = (file.len() as u32).to_le_bytes();
        // Version, flags, method, time, date, checksum.
        let common = [10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let name_bytes = (name.len() as u16).to_le_bytes();
        file.extend_from_slice(b"PK\x03\x04");
        directory.extend_from_slice(b"PK\x01\x02\x0a\x00");
        for part in [&mut file, &mut directory] {
            part.extend_from_slice(&common);
            part.extend_from_slice(&size);
            part.extend_from_slice(&size);
            part.extend_from_slice(&name_bytes);
            part.extend_from_slice(&[0, 0]);
        }
        // Comment, disk, attributes, place.
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&start);
        file.extend_from_slice(name.as_bytes());
        directory.extend_from_slice(name.as_bytes());
        file.extend_from_slice(data);
    }
    let start = (file.len() as u32).to_le_bytes();
    let size = (directory.len() as u32).to_le_bytes();
    file.extend_from_slice(&directory);
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0\x04\0\x04\0");
    file.extend_from_slice(&size);
    file.extend_from_slice(&start);
    file.extend_from_slice(&[0, 0]);
    file
}
