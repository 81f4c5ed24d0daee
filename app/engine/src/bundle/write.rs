//! Writing a bundle: aside first, then renamed into place whole.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::read::sha256_hex;
use super::{BundleError, FileEntry, MANIFEST_FILE, Manifest};

/// The bytes of a bundle's files, the manifest excepted.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// `vision.onnx`.
    pub vision: &'a [u8],
    /// `text.onnx`.
    pub text: &'a [u8],
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `MODEL_CARD.md`.
    pub model_card: &'a [u8],
}

/// Writes a bundle to `out`: a directory, or one archive where `out` ends in `.tar`.
///
/// Names, sizes and hashes of the files are filled into `manifest`. A bundle that is already there is replaced, and
/// stays whole until the new one is complete; other files beside it, such as labels, stay. Anything else in the way is
/// an error.
pub fn write(out: &Path, mut manifest: Manifest, contents: &Contents<'_>) -> Result<Manifest, BundleError> {
    manifest.vision.file = entry("vision.onnx", contents.vision);
    manifest.text.file = entry("text.onnx", contents.text);
    manifest.tokenizer.file = entry("tokenizer.json", contents.tokenizer);
    manifest.model_card = entry("MODEL_CARD.md", contents.model_card);
    let manifest_path = out.join(MANIFEST_FILE).display().to_string();
    let mut json = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| BundleError::Json { path: manifest_path.clone(), source })?;
    json.push(b'\n');
    Manifest::parse(&manifest_path, &json)?;

    let files = [
        (MANIFEST_FILE, json.as_slice()),
        ("vision.onnx", contents.vision),
        ("text.onnx", contents.text),
        ("tokenizer.json", contents.tokenizer),
        ("MODEL_CARD.md", contents.model_card),
    ];
    let io = |source| BundleError::Io { path: out.to_owned(), source };
    if out.extension().is_some_and(|e| e == "tar") {
        write_tar(out, &files).map_err(io)?;
    } else {
        write_directory(out, &files).map_err(io)?;
    }
    Ok(manifest)
}

fn entry(name: &str, bytes: &[u8]) -> FileEntry {
    FileEntry { name: name.to_owned(), bytes: bytes.len() as u64, sha256: sha256_hex(bytes) }
}

/// A path beside `out`, on the same file system, for what is not complete yet.
fn aside(out: &Path, suffix: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{suffix}-{}", std::process::id()))
}

fn write_directory(out: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    if out.exists() && !out.join(MANIFEST_FILE).exists() && std::fs::read_dir(out)?.next().is_some() {
        let message = "in the way, and no bundle: name a new folder, or an empty one";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let new = aside(out, "new");
    let old = aside(out, "old");
    let build = || {
        std::fs::create_dir_all(&new)?;
        for (name, bytes) in files {
            write_synced(&new.join(name), bytes)?;
        }
        if out.exists() {
            std::fs::rename(out, &old)?;
        }
        std::fs::rename(&new, out)
    };
    if let Err(error) = build() {
        let _ = std::fs::remove_dir_all(&new);
        if old.exists() && !out.exists() {
            let _ = std::fs::rename(&old, out);
        }
        return Err(error);
    }
    if old.exists() {
        keep_others(&old, out, files)?;
        std::fs::remove_dir_all(&old)?;
    }
    Ok(())
}

/// Moves what is no file of the bundle from the old folder to the new one.
fn keep_others(old: &Path, out: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    for entry in std::fs::read_dir(old)? {
        let name = entry?.file_name();
        if files.iter().all(|(file, _)| name != *file) {
            std::fs::rename(old.join(&name), out.join(&name))?;
        }
    }
    Ok(())
}

fn write_tar(out: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    let new = aside(out, "new");
    let build = || {
        if let Some(parent) = out.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut archive = tar::Builder::new(io::BufWriter::new(File::create(&new)?));
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *bytes)?;
        }
        archive.into_inner()?.into_inner()?.sync_all()?;
        std::fs::rename(&new, out)
    };
    build().inspect_err(|_| drop(std::fs::remove_file(&new)))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
