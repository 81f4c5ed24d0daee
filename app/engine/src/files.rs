//! Opening and reading untrusted files: images, bundles, checkpoints, label files and state.
//!
//! Only regular files are opened: a pipe or a device could block or never end. In a folder that came from elsewhere, a
//! link may lead to a file of the same folder only; files that are written to must not be links. Sizes are compared with
//! the caller's limit before memory is allocated, and no more than the limit is read, whatever the file system reports.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::printable::printable_path;

/// Why a file was refused; the inner error of the [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a regular file. The kind of the `io::Error` is `IsADirectory` or `InvalidInput`.
    #[error("expected a file, found {found}")]
    NotAFile {
        /// The file type with its article, such as `a named pipe`.
        found: &'static str,
    },
    /// A link that leads out of its folder. The kind of the `io::Error` is `InvalidInput`.
    #[error(
        "a link to {}, which is outside of its folder: name that file, or put it into the folder", printable_path(.target)
    )]
    Outside {
        /// Target of the link.
        target: PathBuf,
    },
    /// Larger than the reader's limit. The kind of the `io::Error` is `FileTooLarge`.
    #[error("larger than {bytes_max} bytes: {found} found")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
        /// Size of the file, or the number of bytes that were read.
        found: u64,
    },
}

impl Refusal {
    /// The refusal in an error of this module; `None` for an error of the system.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match &refusal {
            Refusal::NotAFile { found } if *found == DIRECTORY => ErrorKind::IsADirectory,
            Refusal::NotAFile { .. } | Refusal::Outside { .. } => ErrorKind::InvalidInput,
            Refusal::TooLarge { .. } => ErrorKind::FileTooLarge,
        };
        Self::new(kind, refusal)
    }
}

const DIRECTORY: &str = "a directory";

/// Opens a file that the user named: a regular file, or a link to any regular file.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open(path: &Path) -> io::Result<File> {
    // Checked before opening, since opening a device can have side effects.
    check_kind(&std::fs::metadata(path)?)?;
    open_file(OpenOptions::new().read(true), path, OFlags::empty())
}

/// Opens a file of an untrusted folder: a regular file, or a link within that folder. In a snapshot of the Hugging Face
/// cache, links may lead to the blobs of the same model.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open_contained(path: &Path) -> io::Result<File> {
    check_kind(&std::fs::metadata(path)?)?;
    let folder = folder_of(path).canonicalize()?;
    let target = path.canonicalize()?;
    if !target.starts_with(model_of_cache(&folder).unwrap_or(&folder)) {
        return Err(Refusal::Outside { target }.into());
    }
    // A link that takes its place meanwhile is not followed.
    open_no_link(&target)
}

/// Opens a regular file that is not a link.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open_no_link(path: &Path) -> io::Result<File> {
    check_kind(&path.symlink_metadata()?)?;
    open_file(OpenOptions::new().read(true), path, OFlags::NOFOLLOW)
}

/// Opens a regular file that is not a link, for reading and appending; creates it with `mode`, less the umask, if it does
/// not exist.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open_or_make(path: &Path, mode: u32) -> io::Result<File> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => check_kind(&found?)?,
    }
    open_file(OpenOptions::new().read(true).append(true).create(true).mode(mode), path, OFlags::NOFOLLOW)
}

/// Opens a file or folder of any type that is not a link, in order to lock it.
pub(crate) fn open_any(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((unwaiting() | OFlags::NOFOLLOW).bits() as i32).open(path)
}

fn open_file(options: &mut OpenOptions, path: &Path, flags: OFlags) -> io::Result<File> {
    let file = options.custom_flags((unwaiting() | flags).bits() as i32).open(path)?;
    check_kind(&file.metadata()?)?;
    Ok(file)
}

/// Flags for the case that something else takes the file's place meanwhile: opening does not wait for the other end of a
/// pipe, and a terminal does not become the controlling one.
fn unwaiting() -> OFlags {
    OFlags::NONBLOCK | OFlags::NOCTTY
}

/// Reads a file that the user named, of at most `bytes_max` bytes.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(&open(path)?, bytes_max, &mut bytes)?;
    Ok(bytes)
}

/// Reads a file of an untrusted folder ([`open_contained`]), of at most `bytes_max` bytes.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn read_contained(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(&open_contained(path)?, bytes_max, &mut bytes)?;
    Ok(bytes)
}

/// Replaces `bytes` by the rest of an open file of at most `bytes_max` bytes; the buffer is reused.
///
/// # Errors
/// Those of the system, or [`Refusal::TooLarge`].
pub fn read_into(file: &File, bytes_max: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let size = file.metadata()?.len();
    if size > bytes_max {
        return Err(Refusal::TooLarge { bytes_max, found: size }.into());
    }
    reserve(bytes, size)?;
    // The file may grow, or report no size.
    file.take(bytes_max.saturating_add(1)).read_to_end(bytes)?;
    let found = bytes.len() as u64;
    if found > bytes_max { Err(Refusal::TooLarge { bytes_max, found }.into()) } else { Ok(()) }
}

/// The parent folder of a path; `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Reserves exactly `size` bytes; an error if there is not enough memory.
pub(crate) fn reserve(bytes: &mut Vec<u8>, size: u64) -> io::Result<()> {
    let size = usize::try_from(size).map_err(|_| ErrorKind::OutOfMemory)?;
    bytes.try_reserve_exact(size).map_err(|_| ErrorKind::OutOfMemory.into())
}

fn check_kind(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let found = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        DIRECTORY
    } else if kind.is_symlink() {
        "a link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Refusal::NotAFile { found }.into())
}

/// The folder `models--OWNER--NAME` of the Hugging Face cache, if `folder` is one of its snapshots or within one.
fn model_of_cache(folder: &Path) -> Option<&Path> {
    let snapshots = folder.ancestors().find(|folder| folder.ends_with("snapshots"))?;
    let model = snapshots.parent()?;
    model.file_name()?.to_str()?.starts_with("models--").then_some(model)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    const BYTES_MAX: u64 = 100;

    /// The function that opens a file.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Reader {
        Named,
        Contained,
        NoLink,
    }

    fn read_by(reader: Reader, path: &Path) -> io::Result<Vec<u8>> {
        match reader {
            Reader::Named => read(path, BYTES_MAX),
            Reader::Contained => read_contained(path, BYTES_MAX),
            Reader::NoLink => {
                let mut bytes = Vec::new();
                read_into(&open_no_link(path)?, BYTES_MAX, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        struct Case {
            what: &'static str,
            make: fn(&Path),
            /// The content, or a part of the message, if the file is named by the user and if it is in an untrusted folder.
            named: Result<&'static str, &'static str>,
            contained: Result<&'static str, &'static str>,
        }
        let refused = |what: &'static str, make: fn(&Path), message: &'static str| Case {
            what,
            make,
            named: Err(message),
            contained: Err(message),
        };
        let read = |what: &'static str, make: fn(&Path), content: &'static str| Case {
            what,
            make,
            named: Ok(content),
            contained: Ok(content),
        };
        let cases = [
            read("a file", |path| std::fs::write(path, "content").expect("a file"), "content"),
            read("nothing", |path| std::fs::write(path, "").expect("a file"), ""),
            read("a link beside", |path| symlink("beside", path).expect("a link"), "beside"),
            read("a link that winds", |path| symlink("./../inside/beside", path).expect("a link"), "beside"),
            Case {
                what: "a link outside",
                make: |path| symlink("../outside", path).expect("a link"),
                named: Ok("outside"),
                contained: Err("outside of its folder"),
            },
            Case {
                what: "a link to a link outside",
                make: |path| {
                    symlink("../outside", path.with_file_name("far")).expect("a link");
                    symlink("far", path).expect("a link");
                },
                named: Ok("outside"),
                contained: Err("outside of its folder"),
            },
            refused(
                "a link to a pipe",
                |path| {
                    let pipe = path.with_file_name("pipe");
                    mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("a pipe");
                    symlink("pipe", path).expect("a link");
                },
                "found a named pipe",
            ),
            refused("a folder", |path| std::fs::create_dir(path).expect("a folder"), "found a directory"),
            refused(
                "a pipe",
                |path| mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a pipe"),
                "found a named pipe",
            ),
            refused("a socket", |path| drop(UnixListener::bind(path).expect("a socket")), "found a socket"),
            refused("an endless device", |path| symlink("/dev/zero", path).expect("a link"), "found a device"),
            refused(
                "4 GB of nothing",
                |path| File::create(path).and_then(|file| file.set_len(4 << 30)).expect("a file"),
                "larger than 100 bytes: 4294967296 found",
            ),
            refused("a byte too many", |path| std::fs::write(path, [0_u8; 101]).expect("a file"), "101 found"),
            refused("itself", |path| symlink("file", path).expect("a link"), ""),
            refused("a link to nothing", |path| symlink("nothing", path).expect("a link"), ""),
            refused("not there", |_| {}, ""),
        ];
        let folder = tempfile::tempdir().expect("a folder");
        for (number, Case { what, make, named, contained }) in cases.into_iter().enumerate() {
            let root = folder.path().join(number.to_string());
            std::fs::create_dir_all(root.join("inside")).expect("a folder");
            std::fs::write(root.join("outside"), "outside").expect("a file");
            std::fs::write(root.join("inside/beside"), "beside").expect("a file");
            let path = root.join("inside/file");
            make(&path);
            let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
            let no_link = if is_link { Err("found a link") } else { contained };
            for (reader, expected) in
                [(Reader::Named, named), (Reader::Contained, contained), (Reader::NoLink, no_link)]
            {
                match (read_by(reader, &path), expected) {
                    (Ok(found), Ok(content)) => assert_eq!(found, content.as_bytes(), "{what}, {reader:?}"),
                    (Err(error), Err(part)) => {
                        assert!(error.to_string().contains(part), "{what}, {reader:?}: {error}");
                        assert!(part.is_empty() || Refusal::of(&error).is_some(), "{what}, {reader:?}: {error:?}");
                    }
                    (found, _) => panic!("{what}, {reader:?}: {found:?}"),
                }
            }
        }
    }

    #[test]
    fn every_path_has_a_parent_folder() {
        for (path, expected) in [("a", "."), ("./a", "."), ("b/a", "b"), ("/a", "/"), ("/", "."), ("", ".")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(expected), "{path:?}");
        }
    }

    #[test]
    fn errors_have_a_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").expect("a file");
        for (path, bytes_max, expected) in [
            (path.as_path(), 5, None),
            (path.as_path(), 4, Some(ErrorKind::FileTooLarge)),
            (Path::new("/dev/zero"), 5, Some(ErrorKind::InvalidInput)),
            (folder.path(), 5, Some(ErrorKind::IsADirectory)),
            (Path::new("/proc/self/no/file"), 5, Some(ErrorKind::NotFound)),
        ] {
            for found in [read(path, bytes_max), read_contained(path, bytes_max)] {
                assert_eq!(found.err().map(|error| error.kind()), expected, "{}", path.display());
            }
        }
    }

    #[test]
    fn only_regular_files_are_written_or_created() {
        const MODE: u32 = 0o600;
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "first").expect("a file");
        std::fs::create_dir(at("folder")).expect("a folder");
        symlink("file", at("link")).expect("a link");
        symlink("nothing", at("dangling")).expect("a link");
        symlink("/dev/null", at("device")).expect("a link");
        mkfifoat(CWD, at("pipe"), Mode::RUSR | Mode::WUSR).expect("a pipe");
        for (name, expected) in [
            ("file", Ok("first, second")),
            ("new", Ok(", second")),
            ("link", Err("found a link")),
            ("dangling", Err("found a link")),
            ("device", Err("found a link")),
            ("folder", Err("found a directory")),
            ("pipe", Err("found a named pipe")),
            ("no/folder", Err("")),
        ] {
            let written = open_or_make(&at(name), MODE).and_then(|mut file| file.write_all(b", second"));
            match (written, expected) {
                (Ok(()), Ok(content)) => {
                    assert_eq!(read(&at(name), BYTES_MAX).expect("a file"), content.as_bytes(), "{name}");
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
        assert_eq!(at("new").metadata().expect("a file").permissions().mode() & 0o777, MODE);
        assert!(!at("nothing").exists(), "created the target of a link");
    }

    #[test]
    fn missing_permission_is_an_error_of_the_system() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "secret").expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).expect("a mode");
        // Root may read everything.
        if let Err(error) = read(&path, BYTES_MAX) {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(Refusal::of(&error), None);
        }
    }

    #[test]
    fn a_file_that_reports_no_size_is_read_up_to_the_limit() {
        // The system reports 0 bytes, and returns more.
        let error = read(Path::new("/proc/self/status"), BYTES_MAX).expect_err("more than 100 bytes");
        assert_eq!(Refusal::of(&error), Some(&Refusal::TooLarge { bytes_max: BYTES_MAX, found: BYTES_MAX + 1 }));
    }

    #[test]
    fn snapshots_may_link_to_blobs_of_their_model_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["models--a--b/blobs", "models--a--b/snapshots/01/inner", "models--c--d/blobs"] {
            std::fs::create_dir_all(at(name)).expect("a folder");
        }
        for name in ["models--a--b/blobs/x", "models--c--d/blobs/x", "x"] {
            std::fs::write(at(name), name).expect("a file");
        }
        let check = |place: &str, target: &str, expected: Option<&str>| {
            symlink(target, at(place)).expect("a link");
            let found = read_by(Reader::Contained, &at(place)).ok();
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{place} -> {target}");
        };
        let snapshot = "models--a--b/snapshots/01";
        check(&format!("{snapshot}/own"), "../../blobs/x", Some("models--a--b/blobs/x"));
        check(&format!("{snapshot}/inner/own"), "../../../blobs/x", Some("models--a--b/blobs/x"));
        check(&format!("{snapshot}/other"), "../../../models--c--d/blobs/x", None);
        check(&format!("{snapshot}/far"), "../../../x", None);
    }
}
