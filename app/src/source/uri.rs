//! Source URIs.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::ShapesOptions;

/// Names a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uri {
    /// The first camera that works, else the drawn shapes.
    Auto,
    /// A V4L2 camera: `/dev/video0`, `v4l2:///dev/video0`, or in the ways of other programs: `0`, `video0`, `usb:0`,
    /// `v4l2:/dev/video0`.
    V4l2(PathBuf),
    /// An image file or a folder of them: `file:///x.jpg`, `x.jpg`, `folder/`.
    Images(PathBuf),
    /// MJPEG or concatenated JPEG files on standard input: `-`.
    Stdin,
    /// A camera on a CSI connector, through the board's camera programs: `csi://0`.
    Csi(u32),
    /// Program and arguments that write MJPEG to standard output: `exec:rpicam-vid --timeout 0 --codec mjpeg -o -`.
    Command(Vec<String>),
    /// Drawn shapes: `test://shapes?seed=7&fps=30&size=640x480&frames=100&hold=30`.
    Shapes(ShapesOptions),
}

/// Largest camera number: no board has more connectors.
const CSI_MAX: u32 = 15;

/// The supported URIs, for error messages.
const KNOWN: &str = "`auto`, `/dev/video0`, `v4l2:///dev/video0`, `csi://0`, `exec:PROGRAM ARGUMENT ...`, `image.jpg`, \
                     `folder/`, `file:///folder/image.jpg`, `-` (standard input), `test://shapes`";

/// Why a text is no valid source URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The text is empty.
    #[error("the source is empty, expected one of {KNOWN}")]
    Empty,
    /// The scheme is unknown.
    #[error("source `{uri}`: unknown scheme `{scheme}`, expected one of {KNOWN}")]
    Scheme {
        /// The whole text.
        uri: String,
        /// Its scheme.
        scheme: String,
    },
    /// This kind of source needs another program.
    #[error("source `{uri}`: `{scheme}` sources come through another program; use the source `{command}`")]
    Elsewhere {
        /// The whole text.
        uri: String,
        /// Its scheme.
        scheme: String,
        /// The URI to use instead.
        command: String,
    },
    /// The part after the scheme is invalid.
    #[error("source `{uri}`: expected {expected}, found `{found}`")]
    Part {
        /// The whole text.
        uri: String,
        /// The expected part.
        expected: &'static str,
        /// The part that was found.
        found: String,
    },
}

impl Uri {
    /// Returns whether it names a camera, which continues when it is reopened; a pipe cannot be reopened, and files would start over.
    pub(crate) fn is_camera(&self) -> bool {
        match self {
            Uri::V4l2(_) | Uri::Csi(_) | Uri::Command(_) => true,
            Uri::Auto | Uri::Images(_) | Uri::Stdin | Uri::Shapes(_) => false,
        }
    }

    /// Returns whether opening it starts a program, which takes longer than opening a device.
    pub(crate) fn starts_program(&self) -> bool {
        match self {
            Uri::Csi(_) | Uri::Command(_) => true,
            Uri::Auto | Uri::V4l2(_) | Uri::Images(_) | Uri::Stdin | Uri::Shapes(_) => false,
        }
    }

    /// Returns whether its frames come through a pipe.
    pub(crate) fn is_pipe(&self) -> bool {
        match self {
            Uri::Stdin => true,
            Uri::Auto | Uri::V4l2(_) | Uri::Images(_) | Uri::Csi(_) | Uri::Command(_) | Uri::Shapes(_) => false,
        }
    }

    /// The file or folder that must be there before it is opened: none for cameras, which may be plugged in later.
    pub(crate) fn required_path(&self) -> Option<&Path> {
        match self {
            Uri::Images(path) => Some(path),
            Uri::Auto | Uri::V4l2(_) | Uri::Stdin | Uri::Csi(_) | Uri::Command(_) | Uri::Shapes(_) => None,
        }
    }

    /// The text that names the same source from any working directory, where `text` is how a file in `folder` names this one.
    pub(crate) fn text_in(&self, folder: &Path, text: &str) -> String {
        match self {
            Uri::Images(path) if path.is_relative() => folder.join(path).display().to_string(),
            // These have no relative paths.
            Uri::Auto | Uri::V4l2(_) | Uri::Images(_) | Uri::Stdin | Uri::Csi(_) | Uri::Command(_) | Uri::Shapes(_) => {
                text.to_owned()
            }
        }
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        match text {
            "" => return Err(UriError::Empty),
            "-" => return Ok(Uri::Stdin),
            "auto" => return Ok(Uri::Auto),
            _ => {}
        }
        if let Some(camera) = camera(text)? {
            return Ok(camera);
        }
        if let Some(rest) = text.strip_prefix("exec:") {
            return command(text, rest).map(Uri::Command);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let path = PathBuf::from(text);
            return Ok(if path.starts_with("/dev") { Uri::V4l2(path) } else { Uri::Images(path) });
        };
        let elsewhere = |command: String| UriError::Elsewhere { uri: text.into(), scheme: scheme.into(), command };
        match scheme {
            "v4l2" | "file" => {
                let path = path(rest).ok_or_else(|| UriError::Part {
                    uri: text.into(),
                    expected: "an absolute path after `://`, percent-encoded if need be",
                    found: rest.into(),
                })?;
                Ok(if scheme == "v4l2" { Uri::V4l2(path) } else { Uri::Images(path) })
            }
            "test" => shapes(text, rest).map(Uri::Shapes),
            "csi" => {
                let expected = "`csi://` and the number of the camera, 0 for the first";
                let number = rest.trim_end_matches('/').parse().ok().filter(|number| *number <= CSI_MAX);
                number.map(Uri::Csi).ok_or_else(|| UriError::Part { uri: text.into(), expected, found: rest.into() })
            }
            "libcamera" => Err(elsewhere("csi://0".into())),
            "rtsp" | "rtsps" | "rtmp" | "http" | "https" | "udp" | "srt" => {
                Err(elsewhere(format!("exec:ffmpeg -loglevel error -i {text} -f mjpeg -q:v 3 -")))
            }
            _ => Err(UriError::Scheme { uri: text.into(), scheme: scheme.into() }),
        }
    }
}

/// The camera that `text` names in the way of another program; `None` if it names none. A folder with such a name is written
/// as `./0`.
fn camera(text: &str) -> Result<Option<Uri>, UriError> {
    if let Some(path) = camera_node(text) {
        return Ok(Some(Uri::V4l2(path)));
    }
    let Some((scheme, rest)) = text.split_once(':') else { return Ok(None) };
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let rest = rest.strip_prefix("device=").unwrap_or(rest);
    match scheme.as_str() {
        "usb" | "uvc" | "v4l" | "v4l2" | "video" | "camera" | "cam" | "webcam" => {}
        "csi" if !text.contains("://") => return format!("csi://{rest}").parse().map(Some),
        _ => return Ok(None),
    }
    if let Some(path) = camera_node(rest) {
        return Ok(Some(Uri::V4l2(path)));
    }
    // The rest is parsed by the scheme's own rules: a percent-encoded path, or an image of that name.
    if rest.starts_with('/') && !text.contains("://") {
        return Ok(Some(Uri::V4l2(rest.into())));
    }
    if matches!(scheme.as_str(), "camera" | "cam" | "video" | "webcam") || (scheme == "v4l2" && text.contains("://")) {
        return Ok(None);
    }
    let expected = "a camera's number or path, as in `/dev/video0`";
    Err(UriError::Part { uri: text.into(), expected, found: rest.into() })
}

/// The device node for `0`, `video0`, `dev/video0` or `/dev/video0`.
fn camera_node(text: &str) -> Option<PathBuf> {
    let number = text.trim_start_matches('/');
    let number = number.strip_prefix("dev/").unwrap_or(number);
    let number = number.strip_prefix("video").unwrap_or(number);
    // Longer numbers are folders: of a year, or of a memory card.
    let is_number = (1..=2).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let is_node = !text.starts_with('/') || text.starts_with("/dev/video");
    let number = number.parse::<u8>().ok().filter(|_| is_number && is_node)?;
    Some(PathBuf::from(format!("/dev/video{number}")))
}

/// The words of a command, separated by whitespace that is neither in single or double quotes nor after a backslash.
fn command(uri: &str, text: &str) -> Result<Vec<String>, UriError> {
    let wrong = |expected| UriError::Part { uri: uri.into(), expected, found: text.into() };
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = letters.next().ok_or_else(|| wrong("something after the last backslash"))?;
                word.get_or_insert_default().push(next);
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err(wrong("a second quotation mark for each"));
    }
    words.extend(word);
    if words.first().is_none_or(String::is_empty) {
        return Err(wrong("a program and its arguments after `exec:`"));
    }
    Ok(words)
}

/// The path of a `file:` or `v4l2:` URI; `None` if it is not absolute, of another host, or badly encoded.
fn path(rest: &str) -> Option<PathBuf> {
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    if !rest.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(rest.len());
    let mut encoded = rest.bytes();
    while let Some(byte) = encoded.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(encoded.next()?)? * 16 + digit(encoded.next()?)?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

fn shapes(uri: &str, rest: &str) -> Result<ShapesOptions, UriError> {
    let wrong = |expected, found: &str| UriError::Part { uri: uri.into(), expected, found: found.into() };
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    if name.trim_end_matches('/') != "shapes" {
        return Err(wrong("`test://shapes`, the only test source", name));
    }
    let mut options = ShapesOptions::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |expected| wrong(expected, pair);
        match key {
            "seed" => options.seed = value.parse().map_err(|_| bad("`seed=` and a whole number"))?,
            "fps" => {
                let fps = value.parse().ok().filter(|fps| *fps <= ShapesOptions::MAX_FPS);
                options.fps = fps.ok_or_else(|| bad("`fps=` and a whole number of at most 1000; 0 does not wait"))?;
            }
            "frames" => options.frames = Some(value.parse().map_err(|_| bad("`frames=` and a whole number"))?),
            "hold" => {
                let hold = value.parse().ok().filter(|hold| *hold > 0);
                options.hold = hold.ok_or_else(|| bad("`hold=` and the frames per object, 1 or more"))?;
            }
            "size" => {
                let size = value.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
                let size = size.filter(|(w, h)| [w, h].iter().all(|side| ShapesOptions::SIDES.contains(side)));
                (options.width, options.height) =
                    size.ok_or_else(|| bad("`size=WIDTHxHEIGHT`, each from 16 to 4096"))?;
            }
            _ => return Err(bad("one of `seed=`, `fps=`, `size=`, `frames=`, `hold=`")),
        }
    }
    Ok(options)
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uri::Auto => f.write_str("auto"),
            Uri::V4l2(path) | Uri::Images(path) => path.display().fmt(f),
            Uri::Stdin => f.write_str("standard input"),
            Uri::Csi(number) => write!(f, "csi://{number}"),
            // Without the arguments, which may hold a password.
            Uri::Command(words) => write!(f, "exec:{} ...", words.first().map_or("", String::as_str)),
            Uri::Shapes(options) => options.fmt(f),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn valid_uris() {
        let shapes = |change: fn(&mut ShapesOptions)| {
            let mut options = ShapesOptions::default();
            change(&mut options);
            Uri::Shapes(options)
        };
        let words = |words: &[&str]| Uri::Command(words.iter().map(ToString::to_string).collect());
        for (text, expected) in [
            ("auto", Uri::Auto),
            ("-", Uri::Stdin),
            ("/dev/video0", Uri::V4l2("/dev/video0".into())),
            ("/dev/v4l/by-id/usb-cam", Uri::V4l2("/dev/v4l/by-id/usb-cam".into())),
            ("v4l2:///dev/video2", Uri::V4l2("/dev/video2".into())),
            ("0", Uri::V4l2("/dev/video0".into())),
            ("12", Uri::V4l2("/dev/video12".into())),
            ("video1", Uri::V4l2("/dev/video1".into())),
            ("dev/video1", Uri::V4l2("/dev/video1".into())),
            ("usb:0", Uri::V4l2("/dev/video0".into())),
            ("USB:0", Uri::V4l2("/dev/video0".into())),
            ("usb://2", Uri::V4l2("/dev/video2".into())),
            ("usb:/dev/video3", Uri::V4l2("/dev/video3".into())),
            ("camera:0", Uri::V4l2("/dev/video0".into())),
            ("webcam://1", Uri::V4l2("/dev/video1".into())),
            ("v4l2:0", Uri::V4l2("/dev/video0".into())),
            ("v4l2://0", Uri::V4l2("/dev/video0".into())),
            ("v4l2:video0", Uri::V4l2("/dev/video0".into())),
            ("v4l2:/dev/video0", Uri::V4l2("/dev/video0".into())),
            ("v4l2://dev/video0", Uri::V4l2("/dev/video0".into())),
            ("v4l2:device=/dev/video4", Uri::V4l2("/dev/video4".into())),
            ("v4l2:/dev/v4l/by-id/usb-cam", Uri::V4l2("/dev/v4l/by-id/usb-cam".into())),
            ("csi:0", Uri::Csi(0)),
            ("./0", Uri::Images("./0".into())),
            ("0/", Uri::Images("0/".into())),
            ("/0", Uri::Images("/0".into())),
            ("2024", Uri::Images("2024".into())),
            ("0.jpg", Uri::Images("0.jpg".into())),
            ("video1/", Uri::Images("video1/".into())),
            ("camera:front.jpg", Uri::Images("camera:front.jpg".into())),
            ("x.jpg", Uri::Images("x.jpg".into())),
            ("folder/", Uri::Images("folder/".into())),
            ("a b%20c", Uri::Images("a b%20c".into())),
            ("file:///x%20y.jpg", Uri::Images("/x y.jpg".into())),
            ("file://localhost/x.jpg", Uri::Images("/x.jpg".into())),
            ("csi://0", Uri::Csi(0)),
            ("csi://1/", Uri::Csi(1)),
            ("exec:camera", words(&["camera"])),
            ("exec: camera  -o\t- ", words(&["camera", "-o", "-"])),
            (r#"exec:/a\ b/c 'd e' "f 'g' \"" h'i'j '' \\"#, words(&["/a b/c", "d e", "f 'g' \"", "hij", "", "\\"])),
            (
                "exec:gst ! video/x-raw(memory:NVMM),width=1 !",
                words(&["gst", "!", "video/x-raw(memory:NVMM),width=1", "!"]),
            ),
            ("exec:ffmpeg -i rtsp://x", words(&["ffmpeg", "-i", "rtsp://x"])),
            ("test://shapes", shapes(|_| {})),
            ("test://shapes/?", shapes(|_| {})),
            ("test://shapes?seed=7&fps=0&size=320x240&frames=100&hold=1", {
                shapes(|o| *o = ShapesOptions { seed: 7, fps: 0, width: 320, height: 240, frames: Some(100), hold: 1 })
            }),
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(uri, expected, "{text}");
            if let Uri::Shapes(_) = uri {
                assert_eq!(uri.to_string().parse(), Ok(uri), "{text}");
            }
        }
    }

    #[test]
    fn invalid_uris_say_what_to_do() {
        for (text, part) in [
            ("", "expected one of `auto`"),
            ("ftp://x", "unknown scheme `ftp`, expected one of `auto`, `/dev/video0`"),
            ("csi://", "the number of the camera, 0 for the first, found ``"),
            ("csi://x", "found `x`"),
            ("csi://16", "found `16`"),
            ("libcamera://0", "use the source `csi://0`"),
            ("rtsp://cam/1", "use the source `exec:ffmpeg -loglevel error -i rtsp://cam/1 -f mjpeg"),
            ("exec:", "a program and its arguments after `exec:`"),
            ("exec: ''", "a program and its arguments after `exec:`"),
            ("exec:a 'b", "a second quotation mark"),
            ("exec:a b\\", "something after the last backslash"),
            ("file://x.jpg", "an absolute path"),
            ("file:///x%2", "percent-encoded"),
            ("v4l2://front", "an absolute path"),
            ("v4l2:front", "a camera's number or path, as in `/dev/video0`, found `front`"),
            ("usb:", "a camera's number or path"),
            ("csi:x", "the number of the camera, 0 for the first, found `x`"),
            ("test://bars", "found `bars`"),
            ("test://shapes?seed=x", "found `seed=x`"),
            ("test://shapes?fps=1001", "at most 1000"),
            ("test://shapes?size=640", "`size=WIDTHxHEIGHT`"),
            ("test://shapes?size=8x480", "from 16 to 4096"),
            ("test://shapes?hold=0", "1 or more"),
            ("test://shapes?frames=-1", "whole number"),
            ("test://shapes?sed=1", "expected one of `seed=`"),
        ] {
            let error = text.parse::<Uri>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
