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
        refused("a pipe", |path| mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a pipe"), "found a named pipe"),
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
        for (reader, expected) in [(Reader::Named, named), (Reader::Contained, contained), (Reader::NoLink, no_link)] {
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
