//! Source URIs.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::ShapesOptions;
use super::address::{self, Address, percent_decoded};

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
    /// A network camera: `rtsp://camera.local/stream`, `http://camera.local/video.mjpg`.
    Network(Address),
    /// A video file: `video.mp4`, `file:///video.mkv`, `frames:video.mp4`.
    Video(Video),
    /// Drawn shapes: `test://shapes?seed=7&fps=30&size=640x480&frames=100&hold=30`.
    Shapes(ShapesOptions),
}

/// A video file, and how it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Video {
    /// The file.
    pub path: PathBuf,
    /// Every frame, as fast as they are labelled; else in real time, as a camera.
    pub every_frame: bool,
}

/// Endings of the names of video files that are played. Files of other names are taken for images until they are read.
const VIDEO_EXTENSIONS: [&str; 22] = [
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "flv", "wmv", "3gp", "ogv", "h264",
    "264", "h265", "265", "hevc", "y4m", "vob",
];

/// Before the name of a video file of which every frame is wanted.
const EVERY_FRAME: &str = "frames:";

/// Largest camera number: no board has more connectors.
const CSI_MAX: u32 = 15;

/// The supported URIs, for error messages.
const KNOWN: &str = "`auto`, `/dev/video0`, `v4l2:///dev/video0`, `csi://0`, `rtsp://CAMERA/PATH`, \
                     `http://CAMERA/PATH`, `exec:PROGRAM ARGUMENT ...`, `image.jpg`, `folder/`, `file:///folder/image.jpg`, \
                     `video.mp4`, `frames:video.mp4`, `-` (standard input), `test://shapes`";

/// Why a text is no valid source URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The text is empty.
    #[error("the source is empty, expected one of {KNOWN}")]
    Empty,
    /// The scheme is unknown.
    #[error("source `{uri}`: unknown scheme `{scheme}`, expected one of {KNOWN}")]
    Scheme {
        /// The text, without secrets.
        uri: String,
        /// Its scheme.
        scheme: String,
    },
    /// This kind of source has another name here.
    #[error("source `{uri}`: use the source `{instead}`")]
    Elsewhere {
        /// The text, without secrets.
        uri: String,
        /// The URI to use instead.
        instead: &'static str,
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
            Uri::V4l2(_) | Uri::Csi(_) | Uri::Command(_) | Uri::Network(_) => true,
            Uri::Auto | Uri::Images(_) | Uri::Stdin | Uri::Video(_) | Uri::Shapes(_) => false,
        }
    }

    /// Returns whether opening it starts a program or calls another machine, which takes longer than opening a device.
    pub(crate) fn is_slow_to_open(&self) -> bool {
        match self {
            Uri::Csi(_) | Uri::Command(_) | Uri::Network(_) | Uri::Video(_) => true,
            Uri::Auto | Uri::V4l2(_) | Uri::Images(_) | Uri::Stdin | Uri::Shapes(_) => false,
        }
    }

    /// Returns whether its frames come through a pipe.
    pub(crate) fn is_pipe(&self) -> bool {
        match self {
            Uri::Stdin => true,
            Uri::Auto
            | Uri::V4l2(_)
            | Uri::Images(_)
            | Uri::Csi(_)
            | Uri::Command(_)
            | Uri::Network(_)
            | Uri::Video(_)
            | Uri::Shapes(_) => false,
        }
    }

    /// The file or folder that must be there before it is opened: none for cameras, which may be plugged in later.
    pub(crate) fn required_path(&self) -> Option<&Path> {
        match self {
            Uri::Images(path) | Uri::Video(Video { path, .. }) => Some(path),
            Uri::Auto
            | Uri::V4l2(_)
            | Uri::Stdin
            | Uri::Csi(_)
            | Uri::Command(_)
            | Uri::Network(_)
            | Uri::Shapes(_) => None,
        }
    }

    /// The text that names the same source from any working directory, where `text` is how a file in `folder` names this one.
    pub(crate) fn text_in(&self, folder: &Path, text: &str) -> String {
        match self {
            Uri::Images(path) if path.is_relative() => folder.join(path).display().to_string(),
            Uri::Video(Video { path, every_frame }) if path.is_relative() => {
                let before = if *every_frame { EVERY_FRAME } else { "" };
                format!("{before}{}", folder.join(path).display())
            }
            // These have no relative paths.
            Uri::Auto
            | Uri::V4l2(_)
            | Uri::Images(_)
            | Uri::Stdin
            | Uri::Csi(_)
            | Uri::Command(_)
            | Uri::Network(_)
            | Uri::Video(_)
            | Uri::Shapes(_) => text.to_owned(),
        }
    }

    /// The text of a source as it may be shown and stored: the address of a camera without user, password and tokens.
    pub(crate) fn shown(text: &str) -> String {
        match text.parse() {
            Ok(uri @ Uri::Network(_)) => uri.to_string(),
            _ => text.to_owned(),
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
        if let Some(rest) = text.strip_prefix(EVERY_FRAME) {
            return every_frame(text, rest);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let path = PathBuf::from(text);
            return Ok(if path.starts_with("/dev") { Uri::V4l2(path) } else { file(path, text) });
        };
        match scheme {
            "v4l2" | "file" => {
                let path = path(rest).ok_or_else(|| UriError::Part {
                    uri: text.into(),
                    expected: "an absolute path after `://`, percent-encoded if need be",
                    found: rest.into(),
                })?;
                Ok(if scheme == "v4l2" { Uri::V4l2(path) } else { file(path, rest) })
            }
            "test" => shapes(text, rest).map(Uri::Shapes),
            "csi" => {
                let expected = "`csi://` and the number of the camera, 0 for the first";
                let number = rest.trim_end_matches('/').parse().ok().filter(|number| *number <= CSI_MAX);
                number.map(Uri::Csi).ok_or_else(|| UriError::Part { uri: text.into(), expected, found: rest.into() })
            }
            "libcamera" => Err(UriError::Elsewhere { uri: text.into(), instead: "csi://0" }),
            _ => network(text, scheme, rest),
        }
    }
}

/// The network camera that an address names.
fn network(text: &str, scheme: &str, rest: &str) -> Result<Uri, UriError> {
    let lower = scheme.to_ascii_lowercase();
    match lower.as_str() {
        "rtsp" | "rtsps" | "http" | "https" | "rtmp" | "rtmps" | "srt" | "udp" => {
            Address::parse(&lower, rest).map(Uri::Network).map_err(|expected| {
                let shown = address::shown(text);
                let found = shown.split_once("://").map_or_else(String::new, |(_, rest)| rest.to_owned());
                UriError::Part { uri: shown, expected, found }
            })
        }
        _ => Err(UriError::Scheme { uri: address::shown(text), scheme: scheme.into() }),
    }
}

/// A file by its name: a video that is played in real time, or images.
fn file(path: PathBuf, text: &str) -> Uri {
    let is_known = |ending: &str| VIDEO_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(ending));
    // A path that ends with a slash names a folder.
    let is_video = !text.ends_with('/') && path.extension().and_then(|ending| ending.to_str()).is_some_and(is_known);
    if is_video { Uri::Video(Video { path, every_frame: false }) } else { Uri::Images(path) }
}

/// The video file after `frames:`, whatever its name ends in.
fn every_frame(text: &str, rest: &str) -> Result<Uri, UriError> {
    let wrong = || UriError::Part {
        uri: text.into(),
        expected: "the path of a video file after `frames:`",
        found: rest.into(),
    };
    let path = match rest.strip_prefix("file://") {
        Some(rest) => path(rest).ok_or_else(wrong)?,
        None if rest.is_empty() || rest.contains("://") => return Err(wrong()),
        None => PathBuf::from(rest),
    };
    Ok(Uri::Video(Video { path, every_frame: true }))
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
    let bytes = percent_decoded(rest)?;
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
            Uri::Network(address) => address.fmt(f),
            Uri::Video(Video { path, every_frame }) => {
                write!(f, "{}{}", if *every_frame { EVERY_FRAME } else { "" }, path.display())
            }
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
            ("ftp://me:hunter2@x", "source `ftp://x`: unknown scheme `ftp`, expected one of `auto`, `/dev/video0`"),
            ("csi://", "the number of the camera, 0 for the first, found ``"),
            ("csi://x", "found `x`"),
            ("csi://16", "found `16`"),
            ("libcamera://0", "use the source `csi://0`"),
            ("rtsp://", "a host, a port if need be"),
            ("rtsp://me:pass/word@cam/1", "write `/` as `%2F`"),
            ("frames:", "the path of a video file after `frames:`, found ``"),
            ("frames:rtsp://cam", "the path of a video file"),
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
            assert!(!error.contains("hunter2") && !error.contains("pass/word"), "{error}");
        }
    }

    #[test]
    fn videos_and_addresses_are_told_apart_from_images() {
        let network = |text: &str| {
            let (scheme, rest) = text.split_once("://").unwrap();
            Uri::Network(Address::parse(scheme, rest).unwrap())
        };
        let video = |path: &str, every_frame| Uri::Video(Video { path: path.into(), every_frame });
        for (text, expected, displayed) in [
            ("video.mp4", video("video.mp4", false), "video.mp4"),
            ("a b/VIDEO.MKV", video("a b/VIDEO.MKV", false), "a b/VIDEO.MKV"),
            ("file:///a%20b.webm", video("/a b.webm", false), "/a b.webm"),
            ("frames:x.h264", video("x.h264", true), "frames:x.h264"),
            ("frames:x", video("x", true), "frames:x"),
            ("frames:file:///a%20b.ts", video("/a b.ts", true), "frames:/a b.ts"),
            ("folder.ts/", Uri::Images("folder.ts/".into()), "folder.ts/"),
            ("video.mjpeg", Uri::Images("video.mjpeg".into()), "video.mjpeg"),
            ("rtsp://me:hunter2@cam/1", network("rtsp://me:hunter2@cam/1"), "rtsp://cam/1"),
            ("RTSP://cam/1", network("rtsp://cam/1"), "rtsp://cam/1"),
            ("https://cam/?token=hunter2", network("https://cam/?token=hunter2"), "https://cam/?token=…"),
            ("srt://cam:9000", network("srt://cam:9000"), "srt://cam:9000"),
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!((uri.to_string().as_str(), &uri), (displayed, &expected), "{text}");
            assert!(!format!("{uri:?}").contains("hunter2"));
            assert_eq!(Uri::shown(text), if matches!(uri, Uri::Network(_)) { displayed } else { text });
        }
        let in_folder = |text: &str| text.parse::<Uri>().unwrap().text_in(Path::new("/etc"), text);
        assert_eq!(in_folder("frames:x.mp4"), "frames:/etc/x.mp4");
        assert_eq!(in_folder("x.mp4"), "/etc/x.mp4");
        assert_eq!(in_folder("rtsp://me:hunter2@cam/1"), "rtsp://me:hunter2@cam/1");
    }
}
