//! Writing a bundle: aside first, then renamed into place whole.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::{BundleError, FileEntry, MANIFEST_FILE, Manifest};
use crate::hash::Hasher;
use crate::staging::StagingDir;

/// Where the new bundle lies in the folder beside its place, and where an old one, which it replaces, waits.
const NEW: &str = "new";
const OLD: &str = "old";

/// The files of a bundle, the manifest excepted.
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
    /// In the order of an archive.
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

/// A bundle that is being written, file by file, to a folder beside its place; dropping it unfinished leaves nothing, and
/// what a killed one left is removed by the next.
#[derive(Debug)]
pub struct Writer {
    out: PathBuf,
    aside: StagingDir,
    folder: PathBuf,
    files: Vec<FileEntry>,
}

impl Writer {
    /// Begins a bundle at `out`: a directory, or one archive where `out` ends in `.tar`.
    ///
    /// A bundle that is already there will be replaced, and stays whole until the new one is complete; other files in it,
    /// such as labels, stay. Anything else in the way is an error.
    pub fn new(out: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: out.to_owned(), source };
        if !is_tar(out) {
            check_place(out).map_err(io)?;
        }
        let aside = StagingDir::new(out, |leftover| rescue(leftover, out)).map_err(io)?;
        let folder = aside.path().join(NEW);
        std::fs::create_dir(&folder).map_err(io)?;
        Ok(Self { out: out.to_owned(), aside, folder, files: Vec::new() })
    }

    /// The folder that the files are in for now; on the file system of the bundle.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins a file; each part is written once.
    pub fn create(&mut self, part: Part) -> Result<NewFile<'_>, BundleError> {
        let path = self.folder.join(part.name());
        let file = File::create(&path).map_err(|source| BundleError::Io { path: path.clone(), source })?;
        Ok(NewFile { writer: self, part, path, file, hasher: Hasher::new(), bytes: 0 })
    }

    /// Writes a file that is in memory.
    pub fn add(&mut self, part: Part, content: &[u8]) -> Result<(), BundleError> {
        let mut file = self.create(part)?;
        let path = file.path.clone();
        file.write_all(content).map_err(|source| BundleError::Io { path, source })?;
        file.finish()
    }

    /// Puts the bundle into its place. Names, sizes and hashes of the files are filled into `manifest`, which is returned.
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
        Manifest::parse(&manifest_path, &json)?;
        write_synced(&self.folder.join(MANIFEST_FILE), &json).map_err(io)?;
        if is_tar(&self.out) { self.pack() } else { self.put() }.map_err(io)?;
        Ok(manifest)
    }

    /// Puts the folder into the place of the bundle; at every moment there is the old one or the new one.
    fn put(&self) -> io::Result<()> {
        let (out, old) = (&self.out, self.aside.path().join(OLD));
        // Somebody may have put something there meanwhile.
        check_place(out)?;
        if !out.exists() {
            return std::fs::rename(&self.folder, out);
        }
        link_others(out, &self.folder)?;
        self.aside.keep(true);
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
        self.aside.keep(false);
        Ok(())
    }

    fn pack(&self) -> io::Result<()> {
        let new = self.aside.path().join("archive");
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

/// A file of a bundle that is being written; hashed on the way.
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
    /// Ends the file, which is on the disk then.
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

/// Writes a bundle whose files are in memory; see [`Writer`].
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

/// Takes what is worth keeping out of a folder that a killed program left beside `out`: the old bundle where it was about
/// to be replaced, and files of others that lay in it.
fn rescue(leftover: &Path, out: &Path) -> io::Result<()> {
    let is_bundle = |folder: &Path| folder.join(MANIFEST_FILE).exists();
    let (old, new) = (leftover.join(OLD), leftover.join(NEW));
    if is_bundle(&old) && !out.exists() {
        return std::fs::rename(&old, out);
    }
    let mut kept = [old, new].into_iter().filter(|folder| is_bundle(folder) && is_bundle(out));
    kept.try_for_each(|folder| move_others(&folder, out))
}

/// Only a bundle, or an empty folder, is replaced.
fn check_place(out: &Path) -> io::Result<()> {
    if out.exists() && !out.join(MANIFEST_FILE).exists() && std::fs::read_dir(out)?.next().is_some() {
        let message = "in the way, and no bundle: name a new folder, or an empty one";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    Ok(())
}

/// Exchanges two folders in one step. `false`: this file system or system cannot, and nothing was done.
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(error) if [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP].contains(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Names in a folder that are no file of a bundle, such as labels.
fn others(folder: &Path) -> io::Result<Vec<OsString>> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| file_names().all(|file| name != file)).collect())
}

/// Has the other files of the old folder in the new one too, before it takes its place. What cannot be in two folders at
/// once, such as a folder, is moved afterwards.
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

/// Moves what is in the old folder only.
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
    fn a_bundle_that_is_replaced_is_there_at_every_moment() {
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
