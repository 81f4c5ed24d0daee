//! Magic numbers of files that people pass by mistake: compressed files, archives and Git LFS pointers.

/// A compressed file or an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Name of the format, with its article.
    pub(crate) what: &'static str,
    /// The command that unpacks it, without the file name.
    pub(crate) command: &'static str,
}

/// First bytes of a Git LFS pointer, which Git checks out instead of a file that is stored in Git LFS.
pub const LFS: &[u8] = b"version https://git-lfs";

/// A Git LFS pointer is smaller than this.
pub(crate) const LFS_BYTES_MAX: u64 = 1024;

/// Advice for a Git LFS pointer.
pub(crate) const LFS_ADVICE: &str = "run `git lfs pull` in the repository that it came from";

/// First bytes of a zip archive with files, and of an empty one.
const ZIP: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

const PACKED: [(&[u8], Packed); 10] = [
    (b"\x1f\x8b", Packed { what: "a gzip file", command: "gunzip" }),
    (b"\x1f\x9d", Packed { what: "a compress file", command: "uncompress" }),
    (b"BZh", Packed { what: "a bzip2 file", command: "bunzip2" }),
    (b"\xfd7zXZ\0", Packed { what: "an xz file", command: "unxz" }),
    (b"\x5d\0\0", Packed { what: "an LZMA file", command: "unlzma" }),
    (b"\x28\xb5\x2f\xfd", Packed { what: "a Zstandard file", command: "unzstd" }),
    (b"\x04\x22\x4d\x18", Packed { what: "an LZ4 file", command: "unlz4" }),
    (b"LZIP", Packed { what: "an lzip file", command: "lunzip" }),
    (b"7z\xbc\xaf\x27\x1c", Packed { what: "a 7z archive", command: "7z x" }),
    (b"Rar!\x1a\x07", Packed { what: "a RAR archive", command: "unrar x" }),
];

/// Returns the kind of packed file that begins with `start`. Zip archives are left out: they unpack into a folder.
pub(crate) fn packed(start: &[u8]) -> Option<Packed> {
    PACKED.iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, packed)| *packed)
}

/// Returns true if a zip archive begins with `start`.
pub(crate) fn is_zip(start: &[u8]) -> bool {
    ZIP.iter().any(|mark| start.starts_with(mark))
}

/// Lists every format of [`packed`] with its first bytes.
#[cfg(test)]
pub(crate) fn all_packed() -> impl Iterator<Item = (&'static [u8], Packed)> {
    PACKED.into_iter()
}
