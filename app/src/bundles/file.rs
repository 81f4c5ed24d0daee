//! Files that somebody else may have put there: opened without waiting, read within bounds.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use spotter_engine::printable::printable_path;

/// Opens a file that may be anything: a pipe is not waited for, and a link must lead to a file of its own folder.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if path.symlink_metadata()?.is_symlink() { open_no_link(&target(path)?) } else { open_no_link(path) }
}

/// Opens a file that is no link.
pub(super) fn open_no_link(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    File::options().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Reads a regular file of at most `bytes_max` bytes; a larger one is an error of the kind `FileTooLarge`.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    if found.len() <= bytes_max {
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if found.len() > bytes_max || bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// The file that a link leads to, in the end.
fn target(link: &Path) -> io::Result<PathBuf> {
    let folder = match link.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let (target, folder) = (link.canonicalize()?, folder.canonicalize()?);
    if target.starts_with(&folder) {
        return Ok(target);
    }
    let message = format!("a link out of its folder, to {}: name that file itself", printable_path(&target));
    Err(io::Error::new(ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_regular_files_within_bounds_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("inner")).expect("a folder");
        std::fs::write(at("inner/file"), "12345").expect("a file");
        std::fs::write(at("outside"), "12345").expect("a file");
        File::create(at("inner/sparse")).and_then(|file| file.set_len(4 << 30)).expect("a sparse file");
        assert!(Command::new("mkfifo").arg(at("inner/pipe")).status().expect("mkfifo").success());
        for (link, to) in [
            ("near", "file"),
            ("far", "../outside"),
            ("twice", "far"),
            ("zero", "/dev/zero"),
            ("gone", "nothing"),
            ("round", "round"),
            ("piped", "pipe"),
        ] {
            symlink(to, at("inner").join(link)).expect("a link");
        }
        for (name, expected) in [
            ("inner/file", Ok("12345")),
            ("inner/near", Ok("12345")),
            ("inner/far", Err("a link out of its folder, to ")),
            ("inner/twice", Err("a link out of its folder, to ")),
            ("inner/zero", Err("a link out of its folder, to /dev/zero")),
            ("inner/gone", Err("No such file")),
            ("inner/round", Err("")),
            ("inner/pipe", Err("not a regular file")),
            ("inner/piped", Err("not a regular file")),
            ("inner/sparse", Err("larger than 5 bytes")),
            ("inner/nothing", Err("No such file")),
            ("inner", Err("not a regular file")),
            ("/dev/zero", Err("not a regular file")),
        ] {
            match (read_bounded(&at(name), 5), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected.as_bytes(), "{name}"),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{name}: {error}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
        assert_eq!(read_bounded(&at("outside"), 4).expect_err("too large").kind(), ErrorKind::FileTooLarge);
        assert!(open_no_link(&at("inner/near")).is_err(), "a link");
    }
}
