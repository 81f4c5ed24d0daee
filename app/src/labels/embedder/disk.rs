//! The label cache on flash: a file that is replaced whole, and a journal of what was added since. A new sentence costs only
//! its own bytes; the file is rewritten once the journal is longer than it.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use spotter_engine::files;
use spotter_engine::labels::{Cache, JournalEnd};
use spotter_engine::printable::printable_path;

use crate::store::{self, FILE_MODE};

/// Name of the cache's file in the state folder.
pub(crate) const CACHE_FILE: &str = "label-cache.safetensors";

/// Name of the cache's journal in the state folder.
pub(super) const JOURNAL_FILE: &str = "label-cache.journal";

/// Largest file or journal that is read: as many sentences as a cache holds, with embeddings of 1024 values.
pub(crate) const CACHE_BYTES_MAX: u64 = 64 << 20;

/// The files of a cache, and how much of it they hold.
#[derive(Debug)]
pub(super) struct Disk {
    file: PathBuf,
    journal: PathBuf,
    /// Length of the file; 0 where there is none that can be read.
    file_bytes: u64,
    /// Length of the journal's valid part.
    journal_bytes: u64,
    /// Something was added and is not yet synced to disk.
    is_changed: bool,
    /// The last write failed, and was reported.
    is_failing: bool,
}

impl Disk {
    /// Reads the cache in the folder `state`; damaged parts are reported and ignored.
    pub(super) fn open(state: &Path) -> (Self, Cache) {
        let (file, journal) = (state.join(CACHE_FILE), state.join(JOURNAL_FILE));
        let (mut cache, file_bytes) = read_file(&file);
        let journal_bytes = replay(&journal, &mut cache);
        (Self { file, journal, file_bytes, journal_bytes, is_changed: false, is_failing: false }, cache)
    }

    /// The file; `None` after a failed write.
    pub(super) fn path(&self) -> Option<&Path> {
        (!self.is_failing).then_some(&self.file)
    }

    /// Appends what was added to the journal, so that it survives a crash of this program; a power cut may still lose it
    /// until [`Self::finish`].
    pub(super) fn append(&mut self, cache: &mut Cache) {
        let additions = cache.take_additions();
        if additions.is_empty() {
            return;
        }
        self.is_changed = true;
        // After a failure everything is written to the file at the end.
        if !self.is_failing {
            let done = self.write(&additions);
            self.report(done);
        }
    }

    /// Syncs what was added to disk, or reports that it cannot; for long work before [`Self::finish`]. The file is left
    /// alone where the journal has everything.
    pub(super) fn keep(&mut self, cache: &mut Cache) {
        self.append(cache);
        if !self.is_changed {
            return;
        }
        let done = if self.is_failing {
            let done = self.replace(cache);
            self.is_changed = done.is_err();
            done
        } else {
            self.sync()
        };
        self.report(done);
    }

    /// Syncs the whole cache to disk, or reports that it cannot.
    pub(super) fn finish(&mut self, cache: &mut Cache) {
        self.append(cache);
        if !self.is_changed {
            return;
        }
        let whole = self.is_failing || self.file_bytes == 0 || self.journal_bytes > self.file_bytes;
        let done = if whole { self.replace(cache) } else { self.sync() };
        // After a failure the next change tries again.
        self.is_changed = done.is_err();
        self.report(done);
    }

    fn report(&mut self, done: io::Result<()>) {
        match done {
            Ok(()) if self.is_failing => {
                log::info!("{}: the label cache can be written again", self.file.display());
                self.is_failing = false;
            }
            Err(error) if !self.is_failing => {
                let file = self.file.display();
                log::warn!(
                    "{file}: the label cache cannot be written ({error}); the next change tries again, and until that works \
                     labels are embedded again at every start"
                );
                self.is_failing = true;
            }
            _ => {}
        }
    }

    /// Appends records after the journal's valid part.
    fn write(&mut self, records: &[u8]) -> io::Result<()> {
        if let Some(folder) = self.journal.parent() {
            store::make_state_folder(folder)?;
        }
        let mut file = files::open_or_make(&self.journal, FILE_MODE)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", printable_path(&self.journal))))?;
        // Other programs append too, one at a time. On a file system without locks they may damage each other's records,
        // which are then ignored.
        let _ = file.lock();
        let length = file.metadata()?.len();
        if length != self.journal_bytes {
            let mut content = Vec::new();
            (&file).take(CACHE_BYTES_MAX).read_to_end(&mut content)?;
            self.journal_bytes = Cache::default().replay(&content).0 as u64;
            file.set_len(self.journal_bytes)?;
        }
        let mark = if self.journal_bytes == 0 { Cache::JOURNAL_MARK } else { &[] };
        if !mark.is_empty() {
            // Regardless of the umask, as for the file.
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        }
        let bytes = [mark, records].concat();
        file.write_all(&bytes)?;
        self.journal_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Syncs the journal to disk.
    fn sync(&self) -> io::Result<()> {
        files::open_no_link(&self.journal)?.sync_all()?;
        self.journal.parent().map_or(Ok(()), store::sync_folder)
    }

    /// Writes the whole cache to the file and removes the journal.
    fn replace(&mut self, cache: &mut Cache) -> io::Result<()> {
        let bytes = cache.encode().map_err(io::Error::other)?;
        store::replace_state_file(&self.file, &bytes)?;
        cache.mark_saved();
        self.file_bytes = bytes.len() as u64;
        match fs::remove_file(&self.journal) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => {
                self.journal_bytes = 0;
                Ok(())
            }
        }
    }
}

/// Reads a cache file and its length; an empty cache and 0 where there is none that can be read.
fn read_file(path: &Path) -> (Cache, u64) {
    let bytes = match files::read(path, CACHE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return (Cache::default(), 0),
        Err(error) => {
            log::warn!("{}: the label cache cannot be read ({error}) and is rebuilt", path.display());
            return (Cache::default(), 0);
        }
    };
    match Cache::decode(&bytes) {
        Ok(cache) => (cache, bytes.len() as u64),
        Err(error) => {
            log::warn!("{}: the label cache is ignored and rebuilt: {error}", path.display());
            (Cache::default(), 0)
        }
    }
}

/// Adds the records of a journal; returns the length of its valid part.
fn replay(path: &Path, cache: &mut Cache) -> u64 {
    let bytes = match files::read(path, CACHE_BYTES_MAX) {
        Ok(bytes) => bytes,
        // A folder that is none was reported with the cache file.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return 0,
        Err(error) => {
            log::warn!("{}: the label cache's journal cannot be read ({error})", path.display());
            return 0;
        }
    };
    let (whole, ending) = cache.replay(&bytes);
    let path = path.display();
    match ending {
        JournalEnd::Whole => {}
        JournalEnd::Torn => log::debug!("{path}: {} bytes of an incomplete record", bytes.len() - whole),
        JournalEnd::Damaged => {
            log::warn!("{path}: the label cache's journal is damaged after {whole} bytes; the rest is embedded again");
        }
    }
    whole as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use spotter_engine::labels::Key;

    use super::*;

    const WIDTH: usize = 64;

    fn key(number: usize) -> Key {
        Key::of(&[&number.to_string()])
    }

    fn add(disk: &mut Disk, cache: &mut Cache, number: usize) {
        cache.insert(key(number), vec![number as f32; WIDTH]);
        disk.append(cache);
    }

    fn kept(folder: &Path) -> usize {
        Disk::open(folder).1.len()
    }

    fn size(path: &Path) -> u64 {
        fs::metadata(path).map_or(0, |data| data.len())
    }

    #[test]
    fn additions_survive_a_crash_and_a_finish() {
        let folder = tempfile::tempdir().unwrap();
        let (mut disk, mut cache) = Disk::open(folder.path());
        for number in 0..10 {
            add(&mut disk, &mut cache, number);
            assert_eq!(kept(folder.path()), number + 1, "a kill now keeps everything that was embedded");
        }
        disk.finish(&mut cache);
        assert_eq!((kept(folder.path()), size(&disk.journal)), (10, 0));
        add(&mut disk, &mut cache, 10);
        let whole = fs::read(&disk.file).unwrap();
        disk.finish(&mut cache);
        assert!(size(&disk.journal) > 0 && fs::read(&disk.file).unwrap() == whole, "the file is left alone");
        assert_eq!(kept(folder.path()), 11);
    }

    #[test]
    fn bytes_written_grow_with_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let (mut disk, mut cache) = Disk::open(folder.path());
        let (mut written, mut last) = (0, (0, 0));
        const EDITS: usize = 2000;
        for number in 0..EDITS {
            add(&mut disk, &mut cache, number);
            disk.finish(&mut cache);
            let (file, journal) = (size(&disk.file), size(&disk.journal));
            written += if file == last.0 { journal - last.1 } else { file };
            last = (file, journal);
        }
        let new = (EDITS * WIDTH * 4) as u64;
        assert!(written < 6 * new, "{written} bytes for {new} of embeddings");
        assert_eq!(kept(folder.path()), EDITS);
    }

    #[test]
    fn keeping_syncs_the_journal_and_finishing_writes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (mut disk, mut cache) = Disk::open(folder.path());
        disk.keep(&mut cache);
        assert!(!disk.journal.exists(), "nothing was added");
        add(&mut disk, &mut cache, 0);
        disk.keep(&mut cache);
        assert_eq!((size(&disk.file), kept(folder.path())), (0, 1));
        disk.finish(&mut cache);
        assert!(!disk.journal.exists() && kept(folder.path()) == 1, "it is in the file");
        // What cannot be appended is written to the file, once.
        fs::create_dir(&disk.journal).unwrap();
        add(&mut disk, &mut cache, 1);
        assert_eq!(kept(folder.path()), 1);
        disk.keep(&mut cache);
        assert_eq!(kept(folder.path()), 2);
        fs::remove_dir(&disk.journal).unwrap();
        disk.keep(&mut cache);
        let written = disk.file.metadata().unwrap().ino();
        disk.keep(&mut cache);
        disk.finish(&mut cache);
        assert_eq!(disk.file.metadata().unwrap().ino(), written, "nothing was added");
        assert!(disk.path().is_some());
    }

    #[test]
    fn a_torn_journal_loses_only_its_last_record() {
        let folder = tempfile::tempdir().unwrap();
        let (mut disk, mut cache) = Disk::open(folder.path());
        add(&mut disk, &mut cache, 0);
        disk.finish(&mut cache);
        add(&mut disk, &mut cache, 1);
        add(&mut disk, &mut cache, 2);
        let journal = fs::read(&disk.journal).unwrap();
        fs::write(&disk.journal, &journal[..journal.len() - 5]).unwrap();
        let (mut disk, mut cache) = Disk::open(folder.path());
        assert_eq!(cache.len(), 2);
        add(&mut disk, &mut cache, 3);
        assert_eq!(kept(folder.path()), 3);
        let (_, cache) = Disk::open(folder.path());
        assert_eq!(cache.get(&key(3), WIDTH), Some(&[3.0; WIDTH][..]));
    }

    #[test]
    fn concurrent_programs_keep_both_additions() {
        let folder = tempfile::tempdir().unwrap();
        let (mut one, mut first) = Disk::open(folder.path());
        add(&mut one, &mut first, 0);
        one.finish(&mut first);
        let (mut other, mut second) = Disk::open(folder.path());
        for number in 1..5 {
            add(&mut one, &mut first, number);
            add(&mut other, &mut second, number + 10);
        }
        assert_eq!(kept(folder.path()), 9);
    }

    #[test]
    fn a_failed_write_is_retried() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::write(&state, "a file in the place of the folder").unwrap();
        let (mut disk, mut cache) = Disk::open(&state);
        add(&mut disk, &mut cache, 0);
        disk.finish(&mut cache);
        assert_eq!(disk.path(), None);
        fs::remove_file(&state).unwrap();
        add(&mut disk, &mut cache, 1);
        disk.finish(&mut cache);
        assert!(disk.path().is_some());
        assert_eq!(kept(&state), 2, "what failed before is there too");
    }
}
