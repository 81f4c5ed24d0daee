//! Installs an archive as a slot.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use spotter_engine::bundle::Archive;
use spotter_engine::files;
use spotter_engine::printable::printable_path;
use spotter_engine::staging::StagingDir;

use super::archive;
use super::error::SlotError;
use super::signature::{SignatureError, SignatureFile, Signed, signature_path};
use super::slots::{ARCHIVE_FILE, Slots, check_release, slot_name};
use super::state::{SLOT_FILE, SlotFile};
use crate::store;

/// Space that an installation needs beside the archive: folders, the slot's file, the state.
const SPARE_BYTES: u64 = 256 << 10;

/// Result of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The slot.
    pub name: String,
    /// True if the slot existed before, with the same content.
    pub before: bool,
    /// True if its signature names a release; `None` if no signature was checked.
    pub has_release: Option<bool>,
}

/// Conditions of an installation.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Largest size in bytes, of the archive and of its files.
    pub bytes_max: u64,
    /// True if the release may be older than the newest accepted one.
    pub older: bool,
    /// Time of the installation.
    pub now: jiff::Timestamp,
}

impl Slots {
    /// Installs an archive as a slot: copies it to a temporary folder, checks the copy's signature and all hashes, and renames
    /// the folder. Without a `name` the slot gets the archive's, without its extension.
    ///
    /// A slot that holds the same archive is repaired: archive and signature are replaced.
    pub fn install(&self, archive: &Path, name: Option<&str>, terms: Terms) -> Result<Installed, SlotError> {
        let name = slot_name(archive, name)?;
        let file = files::open_contained(archive).map_err(|source| match archive::instead_of(archive, &source) {
            Some(refused) => SlotError::Archive(refused),
            None => SlotError::Io { path: archive.to_owned(), action: "cannot be opened", source },
        })?;
        self.install_opened(archive, &file, name, terms)
    }

    /// As [`Self::install`], for an open file. Its signature lies beside `archive`, which names it in messages.
    fn install_opened(&self, archive: &Path, file: &File, name: String, terms: Terms) -> Result<Installed, SlotError> {
        archive::check_size(archive, file, terms.bytes_max)?;
        let signature = match &self.key {
            Some(_) => Some(SignatureFile::beside(archive)?),
            // Kept in case a key is configured later. One that cannot be read counts as none.
            None => SignatureFile::beside(archive).ok(),
        };
        let aside = self.aside()?;
        let io = |source| SlotError::Io { path: archive.to_owned(), action: "cannot be read", source };
        self.check_room(file.metadata().map_err(io)?.len())?;
        let copy = aside.path().join(ARCHIVE_FILE);
        let (copied, archive_sha256) = archive::copy(archive, file, &copy, terms.bytes_max)?;
        let signed = self.check_copy(archive, &copied, signature.as_ref(), terms)?;
        let io = |source| SlotError::Io { path: aside.path().to_owned(), action: "cannot be written", source };
        if let Some(signature) = &signature {
            store::replace_state_file(&signature_path(&copy), signature.text.as_bytes()).map_err(io)?;
        }
        let about = SlotFile { installed: format!("{:.0}", terms.now), archive_sha256 };
        let json = serde_json::to_vec_pretty(&about).map_err(|error| io(error.into()))?;
        store::replace_state_file(&aside.path().join(SLOT_FILE), &json).map_err(io)?;
        let has_release = signed.as_ref().map(|signed| signed.release.is_some());
        let before = self.put(aside, archive, &name, &about, signed.as_ref(), terms)?;
        Ok(Installed { name, before, has_release })
    }

    /// Checks the copy: signature, entries and all hashes. Nothing in it is parsed before its signature was checked.
    fn check_copy(
        &self,
        archive: &Path,
        copied: &File,
        signature: Option<&SignatureFile>,
        terms: Terms,
    ) -> Result<Option<Signed>, SlotError> {
        let io = |source| SlotError::Io { path: archive.to_owned(), action: "cannot be read", source };
        let again = copied.try_clone().map_err(io)?;
        let (unopened, signed) = match (&self.key, signature) {
            (None, _) => (Archive::read(archive, again, |_| ())?, None),
            (Some(key), Some(signature)) => {
                let (unopened, signed) = signature.check(archive, again, &key.key)?;
                check_release(&printable_path(archive), Some(&signed), &self.state()?, terms.older)?;
                (unopened, Some(signed))
            }
            (Some(_), None) => {
                let (path, signature) = (archive.to_owned(), signature_path(archive));
                return Err(SignatureError::Missing { path, signature }.into());
            }
        };
        archive::check(archive, copied, terms.bytes_max)?;
        unopened.open()?.verify()?;
        Ok(signed)
    }

    /// Moves the finished folder into its place, and returns whether the same slot existed before. A crash at any moment leaves
    /// the old slot or the new one.
    fn put(
        &self,
        aside: StagingDir,
        archive: &Path,
        name: &str,
        about: &SlotFile,
        signed: Option<&Signed>,
        terms: Terms,
    ) -> Result<bool, SlotError> {
        let place = self.path(name);
        let io = |source| SlotError::Io { path: place.clone(), action: "cannot be installed", source };
        let _lock = self.lock()?;
        let exists = place.symlink_metadata().is_ok();
        if exists && !self.about(name).is_ok_and(|found| found.archive_sha256 == about.archive_sha256) {
            return Err(SlotError::Taken { name: name.to_owned() });
        }
        if let Some(signed) = signed {
            // First, so that older releases are refused as soon as the slot exists. Other programs may have changed the state.
            let state = self.state()?;
            check_release(&printable_path(archive), Some(signed), &state, terms.older)?;
            let after = state.with_release(signed.release, terms.older);
            if after != state {
                self.write_state(&after)?;
            }
        }
        if exists {
            repair(aside.path(), &place).map_err(io)?;
            return Ok(true);
        }
        let rename = || {
            fs::set_permissions(aside.path(), Permissions::from_mode(store::FOLDER_MODE))?;
            store::sync_folder(aside.path())?;
            fs::rename(aside.path(), &place)?;
            store::sync_folder(&self.folder())
        };
        rename().map_err(io)?;
        aside.keep(true);
        Ok(false)
    }

    fn check_room(&self, archive_bytes: u64) -> Result<(), SlotError> {
        let path = self.folder();
        // If the system does not say, a full disk shows when the copy is written.
        let Ok(found) = rustix::fs::statvfs(&path) else { return Ok(()) };
        let (free, needed) = (found.f_bavail.saturating_mul(found.f_frsize), archive_bytes + SPARE_BYTES);
        if free < needed { Err(SlotError::Full { path, needed, free }) } else { Ok(()) }
    }
}

/// Replaces archive and signature of a slot that holds the same archive. The signature comes first: it is valid for the old
/// archive too, if that is undamaged.
fn repair(aside: &Path, place: &Path) -> io::Result<()> {
    let archive = PathBuf::from(ARCHIVE_FILE);
    let signature = signature_path(&archive);
    match fs::rename(aside.join(&signature), place.join(&signature)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        done => done?,
    }
    fs::rename(aside.join(&archive), place.join(&archive))?;
    store::sync_folder(place)?;
    // Unpacked files of the same bundle are not needed beside its archive.
    let kept = [archive, signature, PathBuf::from(SLOT_FILE)];
    for entry in place.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_file() && !kept.iter().any(|kept| entry.file_name() == kept.as_os_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use minisign::KeyPair;
    use spotter_engine::bundle::{self, Bundle, Contents};

    use super::*;
    use crate::config::SigningKey;

    const TERMS: Terms = Terms { bytes_max: 64 << 20, older: false, now: jiff::Timestamp::UNIX_EPOCH };

    /// The demo bundle under another name, as an archive.
    fn write(path: &Path, name: &str) {
        let demo =
            Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/demo")).expect("the demo bundle");
        let mut manifest = demo.manifest().clone();
        manifest.name = name.to_owned();
        let files = demo.manifest().files().map(|file| demo.read(file).expect("a file"));
        let contents = Contents { vision: &files[0], text: &files[1], tokenizer: &files[2], model_card: &files[3] };
        bundle::write(path, manifest, &contents).expect("writes");
    }

    fn sign(keys: &KeyPair, archive: &Path, to: &Path) {
        let file = File::open(archive).expect("opens");
        let signature = minisign::sign(Some(&keys.pk), &keys.sk, file, Some("release 7"), None).expect("signs");
        fs::write(signature_path(to), signature.into_string()).expect("writes");
    }

    #[test]
    fn the_checked_bytes_are_the_installed_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let keys = KeyPair::generate_unencrypted_keypair().expect("keys");
        let key = SigningKey::parse(&keys.pk.to_base64()).expect("a key");
        let (good, other, named) = (at("good.tar"), at("other.tar"), at("named.tar"));
        write(&good, "good");
        write(&other, "other");
        let bytes = fs::read(&good).expect("reads");
        let renamed = |from: &Path| {
            fs::copy(from, at("next.tar")).expect("copies");
            fs::rename(at("next.tar"), &named).expect("renames");
        };
        let in_place = |from: &Path| {
            fs::copy(from, &named).expect("copies");
        };
        type Change<'a> = &'a dyn Fn(&Path);
        // What was signed, what was opened, and what takes the name before it is read.
        let cases: [(&str, &Path, &Path, Change<'_>, &Path, bool); 5] = [
            ("nothing is changed", &good, &good, &|_| (), &good, true),
            ("another file takes the name", &good, &good, &renamed, &other, true),
            ("the signed file takes the name", &good, &other, &renamed, &good, false),
            ("the file is changed", &good, &good, &in_place, &other, false),
            ("the file becomes the signed one", &good, &other, &in_place, &good, true),
        ];
        for (number, (what, signed, opened, change, then, is_taken)) in cases.into_iter().enumerate() {
            let slots = Slots::new(&at(&format!("state{number}")), Some(key.clone()));
            let _ = fs::remove_file(&named);
            fs::copy(opened, &named).expect("copies");
            sign(&keys, signed, &named);
            let file = files::open_contained(&named).expect("opens");
            change(then);
            let installed = slots.install_opened(&named, &file, "slot".to_owned(), TERMS);
            assert_eq!(installed.is_ok(), is_taken, "{what}: {installed:?}");
            assert_eq!(slots.names().expect("names"), if is_taken { vec!["slot"] } else { vec![] }, "{what}");
            if is_taken {
                let kept = fs::read(slots.path("slot").join(ARCHIVE_FILE)).expect("reads");
                assert!(kept == bytes, "{what}");
                assert_eq!(slots.open("slot").expect("opens").manifest().name, "good", "{what}");
            }
        }
    }

    #[test]
    fn the_copy_is_checked_and_not_the_original() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let keys = KeyPair::generate_unencrypted_keypair().expect("keys");
        let key = SigningKey::parse(&keys.pk.to_base64()).expect("a key");
        let slots = Slots::new(&at("state"), Some(key));
        write(&at("good.tar"), "good");
        sign(&keys, &at("good.tar"), &at("good.tar"));
        let signature = SignatureFile::beside(&at("good.tar")).expect("a signature");
        write(&at("other.tar"), "other");
        for (copied, signature, is_taken) in
            [("good.tar", Some(&signature), true), ("other.tar", Some(&signature), false), ("good.tar", None, false)]
        {
            let file = File::open(at(copied)).expect("opens");
            let checked = slots.check_copy(&at("good.tar"), &file, signature, TERMS);
            assert_eq!(checked.is_ok(), is_taken, "{copied}: {checked:?}");
        }
    }

    #[test]
    fn a_slot_is_repaired_only_by_its_own_archive() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let slots = Slots::new(&at("state"), None);
        write(&at("good.tar"), "good");
        write(&at("other.tar"), "other");
        let install = |archive: &str| slots.install(&at(archive), Some("slot"), TERMS);
        assert!(!install("good.tar").expect("installs").before);
        let good = fs::read(at("good.tar")).expect("reads");
        let slot = slots.path("slot");
        // A file of an unpacked bundle.
        fs::write(slot.join("vision.onnx"), "unpacked").expect("writes");
        for damaged in [&good[..good.len() / 2], b"", b"another"] {
            fs::write(slot.join(ARCHIVE_FILE), damaged).expect("writes");
            assert!(matches!(install("other.tar"), Err(SlotError::Taken { .. })));
            assert!(install("good.tar").expect("installs").before);
            assert!(fs::read(slot.join(ARCHIVE_FILE)).expect("reads") == good);
        }
        let mut left: Vec<_> =
            fs::read_dir(&slot).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
        left.sort();
        assert_eq!(left, [ARCHIVE_FILE, SLOT_FILE]);
        // No temporary folders are left.
        let left: Vec<_> =
            fs::read_dir(slots.folder()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(left.len(), 2, "the slot and the lock: {left:?}");
    }
}
