//! Recognises files that are not images, or images of unsupported formats, and says what to do.

use crate::magic::{self, Packed};

/// Bytes at the start of a file that [`unsupported_format`] needs.
pub const START_BYTES: u64 = 1024;

/// Advice for an image of another format.
pub(super) const CONVERT: &str = "save it as PNG or JPEG";

const FRAMES: &str =
    "extract images from it, or label them all: `ffmpeg -i VIDEO -f mjpeg -q:v 3 - | spotter run --source -`";

const UNPACK: &str = "unpack it first";

const DOWNLOAD: &str = "look at it in an editor, and download the image itself";

/// A format that is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsupportedFormat {
    /// Name of the format, with its article.
    pub what: &'static str,
    /// Advice for the user.
    pub advice: &'static str,
    /// True if it is a video.
    pub is_video: bool,
}

/// Offset and bytes of a magic number.
type Mark = (usize, &'static [u8]);

const VIDEOS: [(&str, &[Mark]); 15] = [
    ("a Matroska or WebM video", &[(0, b"\x1a\x45\xdf\xa3")]),
    ("an AVI video", &[(0, b"RIFF"), (8, b"AVI ")]),
    ("a Flash video", &[(0, b"FLV\x01")]),
    ("an Ogg video", &[(0, b"OggS")]),
    ("a Windows Media video", &[(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")]),
    ("an MPEG video", &[(0, b"\0\0\x01\xba")]),
    ("an MPEG video", &[(0, b"\0\0\x01\xb3")]),
    ("an MPEG transport stream", &[(0, b"\x47"), (188, b"\x47"), (376, b"\x47")]),
    ("an MPEG transport stream", &[(4, b"\x47"), (196, b"\x47"), (388, b"\x47")]),
    ("an H.264 video", &[(0, b"\0\0\0\x01\x67")]),
    ("an H.264 video", &[(0, b"\0\0\0\x01\x27")]),
    ("an H.265 video", &[(0, b"\0\0\0\x01\x40\x01")]),
    ("a QuickTime video", &[(4, b"moov")]),
    ("a QuickTime video", &[(4, b"mdat")]),
    ("a QuickTime video", &[(4, b"wide")]),
];

const OTHERS: [(&str, &[Mark]); 6] = [
    ("a JPEG XL image", &[(0, b"\xff\x0a")]),
    ("a JPEG XL image", &[(0, b"\0\0\0\x0cJXL ")]),
    ("a JPEG 2000 image", &[(0, b"\0\0\0\x0cjP  ")]),
    ("a JPEG 2000 image", &[(0, b"\xff\x4f\xff\x51")]),
    ("a Photoshop file", &[(0, b"8BPS")]),
    ("a PDF file", &[(0, b"%PDF")]),
];

/// Brands of ISO base media files that are images.
const PICTURE_BRANDS: [(&[u8; 4], &str); 8] = [
    (b"heic", "an HEIC image"),
    (b"heix", "an HEIC image"),
    (b"heim", "an HEIC image"),
    (b"heis", "an HEIC image"),
    (b"mif1", "an HEIF image"),
    (b"msf1", "an HEIF image"),
    (b"avif", "an AVIF image"),
    (b"avis", "an AVIF image"),
];

/// Identifies the format of a file that starts with `bytes`; `None` if it is unknown, or a supported image format.
pub fn unsupported_format(bytes: &[u8]) -> Option<UnsupportedFormat> {
    // Checked first, since some magic numbers below are short.
    if image::guess_format(bytes).is_ok_and(|format| format.reading_enabled()) {
        return None;
    }
    let has =
        |marks: &[Mark]| marks.iter().all(|(at, mark)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    if has(&[(4, b"ftyp")]) {
        let picture = PICTURE_BRANDS.iter().find(|(brand, _)| has(&[(8, brand.as_slice())]));
        return Some(match picture {
            Some((_, what)) => UnsupportedFormat { what, advice: CONVERT, is_video: false },
            None => UnsupportedFormat { what: "an MP4 or QuickTime video", advice: FRAMES, is_video: true },
        });
    }
    if let Some((what, _)) = VIDEOS.iter().find(|(_, marks)| has(marks)) {
        return Some(UnsupportedFormat { what, advice: FRAMES, is_video: true });
    }
    let other = |what, advice| Some(UnsupportedFormat { what, advice, is_video: false });
    if let Some((what, _)) = OTHERS.iter().find(|(_, marks)| has(marks)) {
        return other(what, CONVERT);
    }
    if let Some(Packed { what, .. }) = magic::packed(bytes) {
        return other(what, UNPACK);
    }
    if magic::is_zip(bytes) {
        return other("a zip archive", UNPACK);
    }
    if bytes.starts_with(magic::LFS) {
        return other("a Git LFS pointer instead of the image", magic::LFS_ADVICE);
    }
    markup(bytes)
}

/// A web page, as servers send instead of an image, or an SVG drawing.
fn markup(bytes: &[u8]) -> Option<UnsupportedFormat> {
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let start = start[..start.len().min(START_BYTES as usize)].to_ascii_lowercase();
    let is_xml = start.starts_with(b"<?xml") || start.starts_with(b"<!--");
    let holds = |mark: &[u8]| start.windows(mark.len()).any(|window| window == mark);
    if start.starts_with(b"<svg") || start.starts_with(b"<!doctype svg") || is_xml && holds(b"<svg") {
        return Some(UnsupportedFormat { what: "an SVG drawing", advice: CONVERT, is_video: false });
    }
    if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") || is_xml && holds(b"<html") {
        return Some(UnsupportedFormat { what: "a web page", advice: DOWNLOAD, is_video: false });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_identified_by_their_start() {
        let check = |bytes: &[u8], expected: Option<(&str, bool)>| {
            let found = unsupported_format(bytes).map(|found| (found.what, found.is_video));
            assert_eq!(found, expected, "{}", bytes.escape_ascii());
        };
        let video = |what| Some((what, true));
        let other = |what| Some((what, false));
        check(b"\0\0\0\x1cftypisom\0\0\x02\0", video("an MP4 or QuickTime video"));
        check(b"\0\0\0\x14ftypqt  ", video("an MP4 or QuickTime video"));
        check(b"\0\0\0\x18ftypheic", other("an HEIC image"));
        check(b"\0\0\0\x20ftypavif", other("an AVIF image"));
        check(b"\x1a\x45\xdf\xa3\x01", video("a Matroska or WebM video"));
        check(b"RIFF\0\0\0\0AVI LIST", video("an AVI video"));
        check(b"RIFF\0\0\0\0WEBPVP8 ", None);
        check(b"\0\0\0\x01\x67\x64", video("an H.264 video"));
        let mut stream = vec![0; 600];
        for at in [0, 188, 376, 564] {
            stream[at] = 0x47;
        }
        check(&stream, video("an MPEG transport stream"));
        check(&stream[..100], None);
        check(b"GIF89a", None);
        check(b"\xff\xd8\xff\xe0", None);
        check(b"\x89PNG\r\n\x1a\n", None);
        check(b"II*\0", None);
        check(b"%PDF-1.7", other("a PDF file"));
        check(b"\x1f\x8b\x08", other("a gzip file"));
        check(b"PK\x03\x04", other("a zip archive"));
        check(b"version https://git-lfs.github.com/spec/v1\n", other("a Git LFS pointer instead of the image"));
        check(b"\xef\xbb\xbf\n <!DOCTYPE HTML><html>", other("a web page"));
        check(b"<?xml version=\"1.0\"?>\n<svg xmlns=\"x\">", other("an SVG drawing"));
        check(b"<?xml version=\"1.0\"?>\n<x>", None);
        check(b"hello", None);
        check(b"", None);
    }
}
