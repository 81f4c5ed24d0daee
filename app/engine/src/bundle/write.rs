//! Writing a bundle: first to a staging folder, which is then renamed into place.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::archive::MANIFEST_BYTES_MAX;
use super::{BundleError, FileEntry, FileProperty, MANIFEST_FILE, Manifest};
use crate::hash::Hasher;
use crate::staging::StagingDir;

/// Names in the staging folder of the new bundle and of the old one that it replaces.
const NEW: &str = "new";
const OLD: &str = "old";

/// The files of a bundle, without the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The image tower.
    Vision,
    /// The text tower.
    Text,
    /// The tokenizer.
    Tokenizer,
    /// The model card.
    ModelCard,
}

impl Part {
    /// In the order of archives.
    const ALL: [Self; 4] = [Self::Vision, Self::Text, Self::Tokenizer, Self::ModelCard];

    /// Name of the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision.onnx",
            Self::Text => "text.onnx",
            Self::Tokenizer => "tokenizer.json",
            Self::ModelCard => "MODEL_CARD.md",
        }
    }

    fn entry(self, manifest: &mut Manifest) -> &mut FileEntry {
        match self {
            Self::Vision => &mut manifest.vision.file,
            Self::Text => &mut manifest.text.file,
            Self::Tokenizer => &mut manifest.tokenizer.file,
            Self::ModelCard => &mut manifest.model_card,
        }
    }
}

/// Writes a bundle, file by file, to a staging folder. Dropping it unfinished removes the folder; what a killed program
/// left is removed by the next writer.
#[derive(Debug)]
pub struct Writer {
    out: PathBuf,
    staging: StagingDir,
    folder: PathBuf,
    files: Vec<FileEntry>,
}

impl Writer {
    /// Starts a bundle at `out`: a directory, or an archive if `out` ends in `.tar`.
    ///
    /// An existing bundle stays as it is until the new one is complete, and is then replaced; other files in its folder,
    /// such as labels, are kept.
    ///
    /// # Errors
    /// `out` is something else than a bundle or an empty folder, or the staging folder cannot be created.
    pub fn new(out: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: out.to_owned(), source };
        if !is_tar(out) {
            check_place(out).map_err(io)?;
        }
        let staging = StagingDir::new(out, |leftover| rescue(leftover, out)).map_err(io)?;
        let folder = staging.path().join(NEW);
        std::fs::create_dir(&folder).map_err(io)?;
        Ok(Self { out: out.to_owned(), staging, folder, files: Vec::new() })
    }

    /// The staging folder with the files; on the file system of the bundle.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a file; each part is written once.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(&mut self, part: Part) -> Result<NewFile<'_>, BundleError> {
        let path = self.folder.join(part.name());
        let file = File::create(&path).map_err(|source| BundleError::Io { path: path.clone(), source })?;
        Ok(NewFile { writer: self, part, path, file, hasher: Hasher::new(), bytes: 0 })
    }

    /// Writes a file from memory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, part: Part, content: &[u8]) -> Result<(), BundleError> {
        let mut file = self.create(part)?;
        let path = file.path.clone();
        file.write_all(content).map_err(|source| BundleError::Io { path, source })?;
        file.finish()
    }

    /// Moves the bundle into place. Returns `manifest` with the names, sizes and hashes of the files.
    ///
    /// # Errors
    /// A part was not written, the manifest is invalid, or the bundle cannot be moved.
    pub fn finish(self, mut manifest: Manifest) -> Result<Manifest, BundleError> {
        let io = |source| BundleError::Io { path: self.out.clone(), source };
        for part in Part::ALL {
            let entry = self.files.iter().find(|file| file.name == part.name());
            let missing = || io(io::Error::new(io::ErrorKind::NotFound, format!("{} was not written", part.name())));
            *part.entry(&mut manifest) = entry.ok_or_else(missing)?.clone();
        }
        let manifest_path = self.out.join(MANIFEST_FILE).display().to_string();
        let mut json = serde_json::to_vec_pretty(&manifest)
            .map_err(|source| BundleError::Json { path: manifest_path.clone(), source })?;
        json.push(b'\n');
        if json.len() as u64 > MANIFEST_BYTES_MAX {
            let (what, found) = (FileProperty::Size, format!("{} bytes", json.len()));
            let expected = format!("at most {MANIFEST_BYTES_MAX} bytes");
            return Err(BundleError::Content { path: manifest_path, what, expected, found });
        }
        Manifest::parse(&manifest_path, &json)?;
        write_synced(&self.folder.join(MANIFEST_FILE), &json).map_err(io)?;
        if is_tar(&self.out) { self.pack() } else { self.put() }.map_err(io)?;
        Ok(manifest)
    }

    /// Moves the folder into place; at every moment either the old or the new bundle is there.
    fn put(&self) -> io::Result<()> {
        let (out, old) = (&self.out, self.staging.path().join(OLD));
        // The place may have been taken meanwhile.
        check_place(out)?;
        if !out.exists() {
            return std::fs::rename(&self.folder, out);
        }
        link_others(out, &self.folder)?;
        self.staging.keep(true);
        if exchange(&self.folder, out)? {
            std::fs::rename(&self.folder, &old)?;
        } else {
            std::fs::rename(out, &old)?;
            if let Err(error) = std::fs::rename(&self.folder, out) {
                let _ = std::fs::rename(&old, out);
                return Err(error);
            }
        }
        move_others(&old, out)?;
        self.staging.keep(false);
        Ok(())
    }

    fn pack(&self) -> io::Result<()> {
        let new = self.staging.path().join("archive");
        let mut archive = tar::Builder::new(io::BufWriter::new(File::create(&new)?));
        for name in file_names() {
            let file = File::open(self.folder.join(name))?;
            let mut header = tar::Header::new_ustar();
            header.set_size(file.metadata()?.len());
            header.set_mode(0o644);
            archive.append_data(&mut header, name, file)?;
        }
        archive.into_inner()?.into_inner()?.sync_all()?;
        std::fs::rename(&new, &self.out)
    }
}

/// A file of a bundle that is being written; it is hashed on the way.
#[derive(Debug)]
pub struct NewFile<'a> {
    writer: &'a mut Writer,
    part: Part,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    bytes: u64,
}

impl NewFile<'_> {
    /// Finishes the file and syncs it to disk.
    ///
    /// # Errors
    /// The file cannot be synced.
    pub fn finish(self) -> Result<(), BundleError> {
        self.file.sync_all().map_err(|source| BundleError::Io { path: self.path.clone(), source })?;
        let (name, sha256) = (self.part.name().to_owned(), self.hasher.finish_hex());
        self.writer.files.push(FileEntry { name, bytes: self.bytes, sha256 });
        Ok(())
    }
}

impl Write for NewFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The content of a bundle's files, without the manifest.
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

/// Writes a bundle from memory; see [`Writer`].
///
/// # Errors
/// Those of [`Writer`].
pub fn write(out: &Path, manifest: Manifest, contents: &Contents<'_>) -> Result<Manifest, BundleError> {
    let mut writer = Writer::new(out)?;
    writer.add(Part::Vision, contents.vision)?;
    writer.add(Part::Text, contents.text)?;
    writer.add(Part::Tokenizer, contents.tokenizer)?;
    writer.add(Part::ModelCard, contents.model_card)?;
    writer.finish(manifest)
}

fn is_tar(out: &Path) -> bool {
    out.extension().is_some_and(|extension| extension == "tar")
}

fn file_names() -> impl Iterator<Item = &'static str> {
    [MANIFEST_FILE].into_iter().chain(Part::ALL.map(Part::name))
}

/// Restores from the staging folder of a killed program the old bundle, if it was about to be replaced, and other files
/// that were in its folder.
fn rescue(leftover: &Path, out: &Path) -> io::Result<()> {
    let is_bundle = |folder: &Path| folder.join(MANIFEST_FILE).exists();
    let (old, new) = (leftover.join(OLD), leftover.join(NEW));
    if is_bundle(&old) && !out.exists() {
        return std::fs::rename(&old, out);
    }
    let mut kept = [old, new].into_iter().filter(|folder| is_bundle(folder) && is_bundle(out));
    kept.try_for_each(|folder| move_others(&folder, out))
}

/// Refuses to replace anything but a bundle or an empty folder.
fn check_place(out: &Path) -> io::Result<()> {
    if out.exists() && !out.join(MANIFEST_FILE).exists() && std::fs::read_dir(out)?.next().is_some() {
        let message = "exists and is no bundle: name a new folder, or an empty one";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    Ok(())
}

/// Exchanges two folders atomically. Returns false and does nothing if the file system or the kernel cannot.
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(error) if [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP].contains(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Names of entries of a folder that do not belong to a bundle, such as labels.
fn others(folder: &Path) -> io::Result<Vec<OsString>> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| file_names().all(|file| name != file)).collect())
}

/// Hard-links the other files of the old folder into the new one before it is moved into place. What cannot be linked, such
/// as a folder, is moved afterwards.
fn link_others(old: &Path, new: &Path) -> io::Result<()> {
    for name in others(old)? {
        let (from, to) = (old.join(&name), new.join(&name));
        if !from.symlink_metadata()?.is_dir() {
            // Some file systems have no hard links.
            let _ = std::fs::hard_link(from, to);
        }
    }
    Ok(())
}

/// Moves the other files that are only in the old folder.
fn move_others(old: &Path, new: &Path) -> io::Result<()> {
    for name in others(old)? {
        let to = new.join(&name);
        if to.symlink_metadata().is_err() {
            std::fs::rename(old.join(&name), to)?;
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::bundle::Bundle;
    use crate::bundle::tests::manifest;

    #[test]
    fn a_bundle_is_replaced_atomically() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, other) = (folder.path().join("bundle"), folder.path().join("other"));
        for probe in [&path, &other] {
            std::fs::create_dir(probe).expect("a folder");
        }
        if !exchange(&path, &other).expect("exchanges") {
            return println!("skipped: this file system exchanges no folders");
        }
        let write = |name: &str| {
            let contents = Contents { vision: b"a", text: b"b", tokenizer: b"{}", model_card: b"c" };
            super::write(&path, Manifest { name: name.to_owned(), ..manifest(4) }, &contents).expect("writes");
        };
        write("first");
        std::fs::write(path.join("labels.toml"), "mine").expect("a file");
        std::fs::create_dir(path.join("pictures")).expect("a folder");
        std::fs::write(path.join("pictures/a.png"), "mine too").expect("a file");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(path.is_dir(), "there was a moment without a bundle");
                }
            });
            for number in 0..40 {
                write(&number.to_string());
            }
            done.store(true, Ordering::Relaxed);
            watching.join().expect("a bundle at every moment");
        });
        assert_eq!(Bundle::open(&path).expect("opens").manifest().name, "39");
        for (name, expected) in [("labels.toml", "mine"), ("pictures/a.png", "mine too")] {
            assert_eq!(std::fs::read_to_string(path.join(name)).expect("is kept"), expected);
        }
        let mut left: Vec<_> = others(folder.path()).expect("a folder");
        left.sort();
        assert_eq!(left, ["bundle", "other"], "nothing is left beside it");
    }
}
