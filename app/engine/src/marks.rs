//! How files begin that people name in the place of others: packed ones, and what Git leaves of large ones.

/// A file that holds others, or another, in fewer bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// What it is, with its article.
    pub what: &'static str,
    /// The command that unpacks it, up to the file's name.
    pub command: &'static str,
}

/// How the file begins that Git leaves in the place of one that Git LFS keeps.
pub const LFS: &[u8] = b"version https://git-lfs";

/// Such a file is smaller than this.
pub const LFS_BYTES_MAX: u64 = 1024;

/// How zip archives begin, empty ones last.
pub const ZIP: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

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

/// The kind of packed file that begins with `start`; zip archives, which are unpacked into a folder, are left out.
pub fn packed(start: &[u8]) -> Option<Packed> {
    PACKED.iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, packed)| *packed)
}

/// Whether a zip archive begins with `start`.
pub fn is_zip(start: &[u8]) -> bool {
    ZIP.iter().any(|mark| start.starts_with(mark))
}

/// The marks of [`packed`], for tests that try them all.
#[cfg(test)]
pub(crate) fn all_packed() -> impl Iterator<Item = (&'static [u8], Packed)> {
    PACKED.into_iter()
}
