//! Paths that are passed by mistake instead of a bundle: what they are and what to do.

use std::io::Read as _;
use std::path::Path;

use super::BundleError;
use crate::files;
use crate::magic::{self, Packed};

/// Bytes at the start of a file that identify its kind.
pub(super) const START_BYTES: u64 = 512;

/// File name extensions of weights.
const WEIGHTS_EXTENSIONS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];

/// The error for a path that is no bundle.
pub(super) fn not_a_bundle(path: &Path, found: String) -> BundleError {
    BundleError::NotABundle { path: path.display().to_string(), found }
}

/// Describes what is at `path` instead of a bundle, and what to do; `None` if it may be a bundle.
pub fn describe_non_bundle(path: &Path) -> Option<String> {
    if path.is_dir() {
        return if path.join(super::MANIFEST_FILE).exists() { None } else { Some(folder(path)) };
    }
    let mut start = Vec::new();
    files::open(path).ok()?.take(START_BYTES).read_to_end(&mut start).ok()?;
    file(&start, path)
}

/// Describes the folder `path`, which has no manifest.
pub(super) fn folder(path: &Path) -> String {
    let shown = path.display();
    let has = |name: &str| path.join(name).exists();
    let entries = || path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let weights =
        ["model.safetensors", "pytorch_model.bin", "adapter_config.json", "open_clip_config.json", "snapshots"];
    let cached =
        || entries().any(|entry| entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--")));
    if has("config.json") || weights.iter().any(|name| has(name)) || cached() {
        return format!("a checkpoint: export it with `model-prep export {shown} --out BUNDLE` and name BUNDLE");
    }
    let mut inner: Vec<_> = entries().filter(|inner| inner.join(super::MANIFEST_FILE).exists()).collect();
    inner.sort();
    match inner.as_slice() {
        [] => "a directory without one".to_owned(),
        [only] => format!("one in a folder below: name {}", only.display()),
        [first, ..] => format!("several in folders below: name one of them, such as {}", first.display()),
    }
}

/// Describes a file that begins with `start`; `None` if it may be a tar archive.
pub(super) fn file(start: &[u8], path: &Path) -> Option<String> {
    let shown = path.display();
    // The magic number of a tar archive; before it is the name of the first file, which may look like another format.
    if start.get(257..262) == Some(b"ustar") {
        return None;
    }
    if let Some(Packed { what, command }) = magic::packed(start) {
        return Some(format!("{what}: unpack it (`{command} {shown}`) and name the .tar"));
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    if WEIGHTS_EXTENSIONS.contains(&extension) {
        let advice = "a weights file: export its checkpoint with `model-prep export CHECKPOINT --out BUNDLE`";
        return Some(advice.to_owned());
    }
    if magic::is_zip(start) {
        return Some(format!("a zip archive: unpack it (`unzip {shown} -d FOLDER`) and name FOLDER"));
    }
    if start.starts_with(magic::LFS) {
        return Some(format!("a Git LFS pointer: {}", magic::LFS_ADVICE));
    }
    if path.file_name().is_some_and(|name| name == super::MANIFEST_FILE) {
        return Some("only its manifest: name its folder".to_owned());
    }
    if extension == "onnx" {
        return Some("one tower: name the folder of its bundle, or make one with `model-prep export`".to_owned());
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
    fn mistaken_paths_are_described() {
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
