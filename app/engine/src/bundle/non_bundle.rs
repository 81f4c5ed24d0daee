//! What people name in the place of a bundle, and what to do about it.

use std::io::Read as _;
use std::path::Path;

use super::BundleError;
use crate::files;
use crate::magic::{self, Packed};

/// Bytes at the start of a file by which its kind is told.
pub(super) const START_BYTES: u64 = 512;

/// Ends of the names of weights files.
const WEIGHTS_ENDINGS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];

/// The error that says so.
pub(super) fn not_a_bundle(path: &Path, found: String) -> BundleError {
    BundleError::NotABundle { path: path.display().to_string(), found }
}

/// What lies at `path` in the place of a bundle, and what to do; nothing where it may be one.
pub fn describe_non_bundle(path: &Path) -> Option<String> {
    if path.is_dir() {
        return if path.join(super::MANIFEST_FILE).exists() { None } else { Some(folder(path)) };
    }
    let mut start = Vec::new();
    files::open(path).ok()?.take(START_BYTES).read_to_end(&mut start).ok()?;
    file(&start, path)
}

/// What the folder `path` is, which has no manifest.
pub(super) fn folder(path: &Path) -> String {
    let shown = path.display();
    let has = |name: &str| path.join(name).exists();
    let entries = || path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let weights =
        ["model.safetensors", "pytorch_model.bin", "adapter_config.json", "open_clip_config.json", "snapshots"];
    let cached =
        || entries().any(|entry| entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--")));
    if has("config.json") || weights.iter().any(|name| has(name)) || cached() {
        return format!("a checkpoint: make a bundle of it by `model-prep export {shown} --out BUNDLE`, and name that");
    }
    let mut inner: Vec<_> = entries().filter(|inner| inner.join(super::MANIFEST_FILE).exists()).collect();
    inner.sort();
    match inner.as_slice() {
        [] => "a directory without one".to_owned(),
        [only] => format!("one that lies deeper: name {}", only.display()),
        [first, ..] => format!("several that lie deeper: name one, such as {}", first.display()),
    }
}

/// What a file is that begins with `start`; nothing where it may be a tar archive.
pub(super) fn file(start: &[u8], path: &Path) -> Option<String> {
    let shown = path.display();
    // Where a tar archive has its mark, whatever the name of its first file begins with.
    if start.get(257..262) == Some(b"ustar") {
        return None;
    }
    if let Some(Packed { what, command }) = magic::packed(start) {
        return Some(format!("{what}: unpack it (`{command} {shown}`), and name the .tar that comes of it"));
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    if WEIGHTS_ENDINGS.contains(&ending) {
        return Some(
            "a file of weights: make a bundle of its checkpoint by `model-prep export CHECKPOINT --out BUNDLE`"
                .to_owned(),
        );
    }
    if magic::is_zip(start) {
        return Some(format!("a zip archive: unpack it into a folder (`unzip {shown} -d FOLDER`), and name that"));
    }
    if start.starts_with(magic::LFS) {
        return Some(format!("a Git LFS pointer: {}", magic::LFS_ADVICE));
    }
    if path.file_name().is_some_and(|name| name == super::MANIFEST_FILE) {
        return Some("the manifest of one: name its folder".to_owned());
    }
    if ending == "onnx" {
        return Some("one tower: name the folder of its bundle, or make one by `model-prep export`".to_owned());
    }
    if start.is_empty() {
        return Some("an empty file: copy it again".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_name_is_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let check = |name: &str, content: &[u8], named: &str, expected: Option<&str>| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, content).expect("a file");
            let found = describe_non_bundle(&folder.path().join(named));
            match (&found, expected) {
                (None, None) => {}
                (Some(found), Some(part)) if found.contains(part) => {}
                _ => panic!("{name}: {found:?}"),
            }
        };
        for (mark, Packed { what, command }) in magic::all_packed() {
            check("a.tar.x", mark, "a.tar.x", Some(what));
            check("a.tar.x", &[mark, b"\0\xff\x1b[31m"].concat(), "a.tar.x", Some(command));
        }
        check("a.zip", b"PK\x03\x04", "a.zip", Some("unzip"));
        check("a.bin", b"PK\x03\x04", "a.bin", Some("model-prep export"));
        check("a.tar", b"version https://git-lfs.github.com/spec/v1\n", "a.tar", Some("git lfs pull"));
        check("a.safetensors", b"x", "a.safetensors", Some("model-prep export"));
        check("bundle.json", b"{}", "bundle.json", Some("name its folder"));
        check("vision.onnx", b"x", "vision.onnx", Some("one tower"));
        check("empty.tar", b"", "empty.tar", Some("an empty file"));
        check("other.tar", b"x", "other.tar", None);
        let mut tar = vec![0; 512];
        tar[..3].copy_from_slice(b"BZh");
        tar[257..262].copy_from_slice(b"ustar");
        check("odd.tar", &tar, "odd.tar", None);
        check("b/bundle.json", b"{}", "b", None);
        check("c/config.json", b"{}", "c", Some("model-prep export "));
        check("h/models--a--b/refs/main", b"", "h", Some("model-prep export "));
        check("d/e/bundle.json", b"{}", "d", Some("d/e"));
        check("f/notes", b"", "f", Some("a directory without one"));
    }
}
