//! Describes bytes that should have been images.

use spotter_engine::picture::unsupported_format;
use spotter_engine::printable::printable;

/// Maximum number of characters that are shown.
const SHOWN: usize = 120;

/// First bytes of image and video streams that [`unsupported_format`] does not recognise.
const STREAMS: [(&[u8], &str); 6] = [
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "WebP or another RIFF file"),
    (b"\x00\x00\x00\x01", "H.264 or H.265"),
    (b"\x00\x00\x01", "H.264, H.265 or MPEG"),
    (b"YUV4MPEG2", "raw video"),
];

/// Describes `bytes` by their start and kind, after the words `before`; empty for no bytes. Text is shown as text with control
/// characters escaped, other data escaped, both cut to fit a line.
pub(super) fn found(before: &str, bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    let text = String::from_utf8_lossy(bytes);
    let odd = text.chars().filter(|c| (c.is_control() && !c.is_whitespace()) || *c == char::REPLACEMENT_CHARACTER);
    // The last character may be incomplete.
    let is_text = odd.count() <= 1;
    let shown: String = if is_text {
        let words: Vec<_> = text.split_whitespace().collect();
        printable(&words.join(" ")).chars().take(SHOWN).collect()
    } else {
        bytes.iter().take(SHOWN / 4).map(|byte| byte.escape_ascii().to_string()).collect()
    };
    let stream = || STREAMS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind);
    let kind = unsupported_format(bytes).map(|foreign| foreign.what).or_else(stream);
    let kind = kind.map_or_else(String::new, |kind| format!(" ({kind})"));
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
            (
                b"<!DOCTYPE html>\n<html>\r\n\t<b>503</b>",
                ", after `<!DOCTYPE html> <html> <b>503</b>` (a web page)".into(),
            ),
            (b"usage: \x1b[1mcamera", ", after `usage: \\u{1b}[1mcamera`".into()),
            ("Größe\u{202e}".as_bytes(), ", after `Größe\\u{202e}`".into()),
            (long.as_bytes(), format!(", after `{}`", &long[..SHOWN])),
            (
                b"\x1f\x8b\x08\0\0\0\0\0\xff",
                ", after `\\x1f\\x8b\\x08\\x00\\x00\\x00\\x00\\x00\\xff` (a gzip file)".into(),
            ),
            (b"\0\0\0\x01\x67\x42", ", after `\\x00\\x00\\x00\\x01gB` (an H.264 video)".into()),
            (b"\0\0\0\x18ftypmp42", ", after `\\x00\\x00\\x00\\x18ftypmp42` (an MP4 or QuickTime video)".into()),
            (b"\x89PNG\r\n", ", after `\u{fffd}PNG` (a PNG image)".into()),
        ] {
            assert_eq!(found(", after", bytes), expected);
        }
        assert!(found(", after", &[0x80; 1000]).len() < 2 * SHOWN);
    }
}
