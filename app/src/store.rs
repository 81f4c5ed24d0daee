//! Files that are replaced atomically: a crash at any moment leaves the old content or the new one, never a part.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use spotter_engine::{files, staging};

/// Mode of files in the state folder, which holds no secrets. The folder itself can keep others out.
pub(crate) const FILE_MODE: u32 = 0o644;

/// Mode of files that only their owner may read.
const PRIVATE_MODE: u32 = 0o600;

/// Mode of folders in the state folder.
pub(crate) const FOLDER_MODE: u32 = 0o755;

/// End of the names of temporary files.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Maximum number of attempts to write. Another process may remove a temporary file as a leftover only between its creation
/// and its locking, so a second attempt is rare.
const TRIES_MAX: usize = 5;

/// Replaces the content of the file `path` with `bytes`, synced to disk.
///
/// The bytes are written to a temporary file in the same folder, which is then renamed to `path`. A missing folder is
/// created. Temporary files that killed programs left behind are removed. When several processes write at once, one of
/// their files stays, whole.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Kind::Any)
}

/// As [`replace_file`], for a file with a password: only its owner may read it.
pub(crate) fn replace_private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Kind::Private)
}

/// As [`replace_file`], for the state folder, which a service and its administrators share: regardless of the umask, all may
/// read the file and the folders that are created for it.
pub fn replace_state_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Kind::State)
}

/// As [`replace_file`], for a file that another program reads regularly and that may be lost in a power cut, such as metrics:
/// all may read it, its folder must exist, and nothing is synced to disk.
pub(crate) fn replace_volatile(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Kind::Volatile)
}

/// Kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Private,
    State,
    Volatile,
}

fn replace(path: &Path, bytes: &[u8], kind: Kind) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "path without a file name"))?;
    let folder = files::folder_of(path);
    match kind {
        Kind::Any | Kind::Private => DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?,
        Kind::State => make_state_folder(folder)?,
        Kind::Volatile => {}
    }
    let prefix = temporary_prefix(name);
    // Leftovers that cannot be removed do no harm.
    staging::sweep(folder, |name, kind| kind.is_file() && is_temporary(name, &prefix), |_: &Path| Ok(()));
    let mut tries = 1;
    loop {
        match write_and_rename(folder, &prefix, path, bytes, kind) {
            Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
            done => return done,
        }
    }
}

/// Creates a folder of the state folder and its missing parents, readable by all.
pub(crate) fn make_state_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(around) = folder.parent().filter(|around| *around != Path::new("")) {
        make_state_folder(around)?;
    }
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)),
    }
}

fn write_and_rename(folder: &Path, prefix: &OsStr, path: &Path, bytes: &[u8], kind: Kind) -> io::Result<()> {
    let mut temporary = tempfile::Builder::new()
        .prefix(prefix)
        .suffix(TEMPORARY_SUFFIX)
        .permissions(Permissions::from_mode(if kind == Kind::Private { PRIVATE_MODE } else { FILE_MODE }))
        .tempfile_in(folder)?;
    // The lock ends with this process, and tells others that the file is no leftover. On a file system without locks they
    // leave every temporary file alone.
    let _ = temporary.as_file().lock();
    if matches!(kind, Kind::State | Kind::Volatile) {
        temporary.as_file().set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    temporary.write_all(bytes)?;
    if kind != Kind::Volatile {
        temporary.as_file().sync_all()?;
    }
    temporary.persist(path).map_err(|error| error.error)?;
    if kind == Kind::Volatile { Ok(()) } else { sync_folder(folder) }
}

/// Syncs the entries of `folder` to disk: files that were created, renamed or removed there.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a folder.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// Prefix of the temporary files of a file called `name`.
fn temporary_prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Returns whether `name` is a temporary file with that prefix.
fn is_temporary(name: &OsStr, prefix: &OsStr) -> bool {
    let random = name.as_bytes().strip_prefix(prefix.as_bytes());
    random.is_some_and(|end| end.ends_with(TEMPORARY_SUFFIX.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::ScopedJoinHandle;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn names(folder: &Path) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            folder.read_dir().expect("a folder").map(|e| e.expect("an entry").file_name().into()).collect();
        names.sort();
        names
    }

    #[test]
    fn folders_are_created_and_content_is_replaced() {
        let folder = folder();
        let path = folder.path().join("a/b/cache");
        for content in ["first", "", "second and longer"] {
            replace_file(&path, content.as_bytes()).expect("a written file");
            assert_eq!(files::read(&path, 100).expect("a file"), content.as_bytes());
        }
        assert_eq!(names(path.parent().expect("a folder")), [PathBuf::from("cache")]);
        let mode = |path: &Path| path.metadata().expect("metadata").permissions().mode();
        // The umask may only remove permissions.
        assert_eq!(mode(&path) & 0o133, 0);
        assert_eq!(mode(&folder.path().join("a")) & 0o022, 0);
        let path = folder.path().join("c/d/state");
        replace_state_file(&path, b"for all").expect("a written file");
        assert_eq!(mode(&path) & 0o777, FILE_MODE);
        assert_eq!(mode(&folder.path().join("c")) & 0o777, FOLDER_MODE);
        let path = folder.path().join("metrics");
        for content in ["first", "second"] {
            replace_volatile(&path, content.as_bytes()).expect("a written file");
            assert_eq!(files::read(&path, 100).expect("a file"), content.as_bytes());
        }
        assert_eq!(mode(&path) & 0o777, FILE_MODE);
        assert!(replace_volatile(&folder.path().join("e/figures"), b"x").is_err(), "a missing folder");
        assert_eq!(names(folder.path()), ["a", "c", "metrics"].map(PathBuf::from));
    }

    #[test]
    fn leftovers_are_removed_but_not_other_files_or_writes_in_progress() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        for name in [".cache.k1lled.tmp", ".cachetmp", ".other.k1lled.tmp", "cache.x.tmp", ".cache.busy.tmp"] {
            std::fs::write(at(name), "half").expect("a file");
        }
        std::fs::create_dir(at(".cache.folder.tmp")).expect("a folder");
        let busy = File::open(at(".cache.busy.tmp")).expect("a file");
        busy.lock().expect("a lock");
        replace_file(&at("cache"), b"whole").expect("a written file");
        let stay = [".cache.busy.tmp", ".cache.folder.tmp", ".cachetmp", ".other.k1lled.tmp", "cache", "cache.x.tmp"];
        assert_eq!(names(folder.path()), stay.map(PathBuf::from));
        drop(busy);
        replace_file(&at("cache"), b"whole").expect("a written file");
        assert!(!at(".cache.busy.tmp").exists());
    }

    #[test]
    fn concurrent_writers_leave_whole_files() {
        let folder = folder();
        let path = folder.path().join("cache");
        let contents = [vec![b'a'; 100_000], vec![b'b'; 200_000], vec![b'c'; 50_000]];
        replace_file(&path, &contents[0]).expect("a written file");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let found = files::read(&path, 1 << 20).expect("a file");
                    assert!(contents.contains(&found), "{} bytes that nobody wrote", found.len());
                }
            });
            let writer = |content| {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..30 {
                        replace_file(path, content).expect("a written file");
                    }
                })
            };
            let writers: Vec<_> = contents.iter().map(|content| writer(content)).collect();
            let written: Vec<_> = writers.into_iter().map(ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            assert!(written.iter().all(Result::is_ok));
            reader.join().expect("whole files only");
        });
        assert_eq!(names(folder.path()), [PathBuf::from("cache")]);
    }

    #[test]
    fn unwritable_paths_are_errors() {
        let folder = folder();
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("a file");
        assert!(replace_file(&file.join("cache"), b"x").is_err());
        assert!(replace_file(Path::new("/"), b"x").is_err());
        assert!(replace_file(Path::new("/proc/self/cache"), b"x").is_err());
        std::fs::create_dir(folder.path().join("cache")).expect("a folder");
        assert!(replace_file(&folder.path().join("cache"), b"x").is_err());
        assert_eq!(names(folder.path()), ["cache", "file"].map(PathBuf::from));
    }
}
