//! Says what bytes are that should have been images.

use spotter_engine::printable::printable;

/// The most characters that are shown.
const SHOWN: usize = 120;

/// The first bytes of what people send by mistake.
const KINDS: [(&[u8], &str); 12] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "AVI or WebP"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (b"FLV\x01", "Flash video"),
    (b"OggS", "Ogg"),
    (b"\x00\x00\x00\x01", "H.264 or H.265"),
    (b"\x00\x00\x01", "H.264, H.265 or MPEG"),
    (b"YUV4MPEG2", "raw video"),
];

/// The first bytes for a message, after the words `before`; nothing for no bytes. Text is shown as such without its
/// control characters, anything else escaped, and both cut to a length that a line has room for.
pub(super) fn found(before: &str, bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    let text = String::from_utf8_lossy(bytes);
    let odd = text.chars().filter(|c| (c.is_control() && !c.is_whitespace()) || *c == char::REPLACEMENT_CHARACTER);
    // The last character may be cut off.
    let is_text = odd.count() <= 1;
    let shown: String = if is_text {
        let words: Vec<_> = text.split_whitespace().collect();
        printable(&words.join(" ")).chars().take(SHOWN).collect()
    } else {
        bytes.iter().take(SHOWN / 4).map(|byte| byte.escape_ascii().to_string()).collect()
    };
    let is_mp4 = bytes.get(4..8) == Some(b"ftyp");
    let kind = KINDS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind);
    let kind = kind.or(is_mp4.then_some("MP4")).map_or_else(String::new, |kind| format!(" ({kind})"));
    format!("{before} `{shown}`{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_one_clean_line() {
        let long = "a".repeat(500);
        for (bytes, expected) in [
            (&b""[..], String::new()),
            (b"<!DOCTYPE html>\n<html>\r\n\t<b>503</b>", ", after `<!DOCTYPE html> <html> <b>503</b>`".into()),
            (b"usage: \x1b[1mcamera", ", after `usage: \\u{1b}[1mcamera`".into()),
            ("Größe\u{202e}".as_bytes(), ", after `Größe\\u{202e}`".into()),
            (long.as_bytes(), format!(", after `{}`", &long[..SHOWN])),
            (b"\x1f\x8b\x08\0\0\0\0\0\xff", ", after `\\x1f\\x8b\\x08\\x00\\x00\\x00\\x00\\x00\\xff` (gzip)".into()),
            (b"\0\0\0\x01\x67\x42", ", after `\\x00\\x00\\x00\\x01gB` (H.264 or H.265)".into()),
            (b"\0\0\0\x18ftypmp42", ", after `\\x00\\x00\\x00\\x18ftypmp42` (MP4)".into()),
            (b"\x89PNG\r\n", ", after `\u{fffd}PNG` (a PNG picture)".into()),
        ] {
            assert_eq!(found(", after", bytes), expected);
        }
        assert!(found(", after", &[0x80; 1000]).len() < 2 * SHOWN);
    }
}
