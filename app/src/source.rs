//! Sources of frames: one file per kind.

mod address;
mod command;
pub(crate) mod csi;
mod error;
pub(crate) mod ffmpeg;
mod found;
#[cfg(feature = "http")]
mod http;
mod images;
mod pipe;
mod shapes;
mod stream;
mod uri;
mod v4l2;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::Stop;
use crate::secret::Login;

pub use address::Address;
pub use error::SourceError;
pub use shapes::{ShapesOptions, draw as draw_shapes};
pub(crate) use stream::FIRST_FRAME;
pub use stream::split_jpegs;
pub use uri::{Uri, UriError, Video};

/// One captured frame. Frames travel between threads by being swapped, so that their buffers are reused.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Counts the captured frames, from 0. Set by the caller of [`Source::next`].
    pub number: u64,
    /// When the frame arrived.
    pub captured: Instant,
    /// Format of `bytes`.
    pub format: PixelFormat,
    /// Columns; 0 for encoded formats, whose data holds the size.
    pub width: usize,
    /// Rows; 0 for encoded formats.
    pub height: usize,
    /// Bytes from one row of plane 0 to the next, for raw formats.
    pub stride: usize,
    /// The pixels or the encoded file.
    pub bytes: Vec<u8>,
    /// Range of sample values, for raw formats.
    pub range: Range,
    /// YUV to RGB matrix, for YUV formats.
    pub matrix: Matrix,
    /// The file that the frame came from.
    pub path: Option<PathBuf>,
    /// Label of the frame, if the source knows it (`test://shapes`).
    pub truth: Option<String>,
    /// Time spent fetching the frame, without the wait for it if that is known.
    pub capture_time: Duration,
}

impl Default for Frame {
    fn default() -> Self {
        Frame {
            number: 0,
            captured: Instant::now(),
            format: PixelFormat::Encoded,
            width: 0,
            height: 0,
            stride: 0,
            bytes: Vec::new(),
            range: Range::Full,
            matrix: Matrix::Bt601,
            path: None,
            truth: None,
            capture_time: Duration::ZERO,
        }
    }
}

impl Frame {
    /// Prepares the frame for the next capture: numbers it, and clears what only some sources set. The buffer keeps its
    /// capacity.
    pub(crate) fn reset(&mut self, number: u64) {
        self.number = number;
        self.path = None;
        self.truth = None;
    }

    /// Marks the frame as encoded; the decoder finds its size.
    fn set_encoded(&mut self, format: PixelFormat) {
        self.format = format;
        (self.width, self.height, self.stride) = (0, 0, 0);
    }
}

/// Pixel format of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    /// A whole image file of any supported kind.
    Encoded,
    /// One JPEG image.
    Mjpeg,
    /// Three bytes per pixel: red, green, blue.
    Rgb24,
    /// Two pixels in four bytes: Y0 U Y1 V.
    Yuyv,
    /// Two pixels in four bytes: U Y0 V Y1.
    Uyvy,
    /// A plane of Y, then a plane of U V pairs at half the width and height.
    Nv12,
    /// One byte of luma per pixel.
    Grey,
}

impl PixelFormat {
    /// Minimum bytes of one row of plane 0 with `width` pixels; 0 for encoded formats.
    pub(crate) fn row_bytes(self, width: usize) -> usize {
        match self {
            PixelFormat::Encoded | PixelFormat::Mjpeg => 0,
            PixelFormat::Rgb24 => width.saturating_mul(3),
            PixelFormat::Yuyv | PixelFormat::Uyvy => width.div_ceil(2).saturating_mul(4),
            PixelFormat::Nv12 => width.next_multiple_of(2),
            PixelFormat::Grey => width,
        }
    }

    /// Minimum bytes of a frame; the last row may lack its padding. 0 for encoded formats.
    pub(crate) fn frame_bytes(self, width: usize, height: usize, stride: usize) -> usize {
        if width == 0 || height == 0 {
            return 0;
        }
        let rows = if self == PixelFormat::Nv12 { height.saturating_add(height.div_ceil(2)) } else { height };
        stride.saturating_mul(rows - 1).saturating_add(self.row_bytes(width))
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PixelFormat::Encoded => "image file",
            PixelFormat::Mjpeg => "MJPEG",
            PixelFormat::Rgb24 => "RGB24",
            PixelFormat::Yuyv => "YUYV",
            PixelFormat::Uyvy => "UYVY",
            PixelFormat::Nv12 => "NV12",
            PixelFormat::Grey => "GREY",
        })
    }
}

/// Range of sample values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// 0 to 255.
    Full,
    /// Luma, red, green and blue 16 to 235, chroma 16 to 240.
    Limited,
}

/// Standard of the YUV to RGB conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601: standard-definition video and JPEG.
    Bt601,
    /// ITU-R BT.709: high-definition video.
    Bt709,
}

/// Requested camera settings; [`Source::describe`] tells what the camera really gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOptions {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// Pixel format; `None` for the one that is cheapest to decode.
    pub format: Option<PixelFormat>,
    /// Longest time for one frame; after that the source counts as hung.
    pub timeout: Duration,
    /// How a network camera knows us, unless its address says it.
    pub login: Option<Login>,
    /// Certificates that a network camera may have in place of those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        // Every webcam gives VGA at full rate, and it is larger than any tower's input.
        CaptureOptions {
            width: 640,
            height: 480,
            fps: 30,
            format: None,
            timeout: Duration::from_secs(5),
            login: None,
            ca_file: None,
        }
    }
}

/// A source of frames.
pub trait Source: Send {
    /// Waits for the next frame and fills `frame`: format, size, layout, bytes and times, and `path` or `truth` if the source
    /// knows them. The number is the caller's, who also clears `path` and `truth` beforehand. `Ok(false)`: there are no more
    /// frames, or `stop` was set.
    ///
    /// # Errors
    /// The source failed. It should be reopened after an error that `is_transient`, and after any error once it gave frames.
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError>;

    /// Describes the broken frames and stray bytes that `next` has skipped since the last call, with the reason for the last
    /// one; `None` if there were none.
    fn skipped(&mut self) -> Option<String> {
        None
    }

    /// Returns whether frames keep coming while none is taken, so that some are dropped. Other sources wait.
    fn is_live(&self) -> bool;

    /// One line for people: the source and what was negotiated with it.
    fn describe(&self) -> String;
}

/// An open source, and the URI that reopens it.
pub struct Opened {
    /// The source.
    pub source: Box<dyn Source>,
    /// Never `Auto`, so that a lost camera is not replaced by drawn shapes.
    pub uri: Uri,
}

/// Opens the source that `uri` names.
///
/// # Errors
/// The source is missing, busy, not permitted, empty, or in no supported format.
pub fn open(uri: &Uri, options: &CaptureOptions) -> Result<Opened, SourceError> {
    let source: Box<dyn Source> = match uri {
        Uri::Auto => return Ok(open_any(options)),
        Uri::V4l2(path) => Box::new(v4l2::Camera::open(path, options)?),
        Uri::Images(path) => Box::new(images::Images::open(path)?),
        Uri::Stdin => Box::new(stream::JpegStream::stdin(options.timeout)),
        Uri::Csi(number) => {
            let words = csi::Stack::find().command(*number, options);
            Box::new(command::CommandSource::open(&words, csi::HINT, options)?)
        }
        Uri::Command(words) => Box::new(command::CommandSource::open(words, "; is it installed?", options)?),
        Uri::Network(address) => open_network(address, options)?,
        Uri::Video(video) => Box::new(command::CommandSource::start(ffmpeg::video(video, options)?)?),
        Uri::Shapes(shapes) => Box::new(shapes::Shapes::new(shapes.clone())),
    };
    Ok(Opened { source, uri: uri.clone() })
}

/// Opens a network camera. What comes by HTTP is read here, unless it has to be decoded.
fn open_network(address: &Address, options: &CaptureOptions) -> Result<Box<dyn Source>, SourceError> {
    let failed = |why| SourceError::Network { name: address.to_string(), why };
    let configured = match address.credentials() {
        Some(_) => None,
        None => options.login.as_ref().map(Login::read).transpose().map_err(failed)?,
    };
    let credentials = address.credentials().or(configured.as_ref());
    #[cfg(feature = "http")]
    if address.is_http() {
        return Ok(Box::new(http::HttpSource::open(address, credentials, options)?));
    }
    Ok(Box::new(command::CommandSource::start(ffmpeg::network(address, credentials, options))?))
}

/// Finds files that a network camera needs and that cannot be read.
pub(crate) fn problems(uri: &Uri, options: &CaptureOptions) -> Vec<String> {
    let Uri::Network(address) = uri else { return Vec::new() };
    let login = options.login.as_ref().filter(|_| address.credentials().is_none());
    let password = login.and_then(|login| login.read().err());
    #[cfg(feature = "http")]
    let certificates = match address.scheme() {
        "https" => crate::http::certificates(options.ca_file.as_deref()).err(),
        _ => None,
    };
    #[cfg(not(feature = "http"))]
    let certificates = None;
    password.into_iter().chain(certificates).map(|why| format!("source {address}: {why}")).collect()
}

/// All V4L2 nodes in the folder, sorted by number. The folder is `/dev` outside of tests.
pub fn camera_nodes(folder: &Path) -> Vec<PathBuf> {
    v4l2::devices(folder)
}

/// Queries a camera's name and formats without changing its settings.
///
/// # Errors
/// It cannot be opened, is no camera, or has no supported format.
pub fn examine_camera(path: &Path, options: &CaptureOptions) -> Result<CameraOffer, SourceError> {
    v4l2::examine(path, options)
}

/// A camera's name and formats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraOffer {
    /// Its name and its driver's.
    pub name: String,
    /// Each supported format, with the size and rate nearest to the requested ones.
    pub formats: Vec<String>,
}

/// Opens the first camera that works, else the drawn shapes.
fn open_any(options: &CaptureOptions) -> Opened {
    for path in v4l2::devices(Path::new("/dev")) {
        match v4l2::Camera::open(&path, options) {
            Ok(camera) => {
                log::info!("using the camera {}", camera.describe());
                return Opened { source: Box::new(camera), uri: Uri::V4l2(path) };
            }
            Err(error @ (SourceError::Permission { .. } | SourceError::Busy { .. })) => log::warn!("{error}"),
            Err(error) => log::debug!("not usable: {error}"),
        }
    }
    log::info!("no camera found, using test://shapes");
    let shapes = ShapesOptions::default();
    Opened { source: Box::new(shapes::Shapes::new(shapes.clone())), uri: Uri::Shapes(shapes) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn formats_have_sizes() {
        for (format, width, height, stride, expected) in [
            (PixelFormat::Rgb24, 4, 2, 12, 24),
            (PixelFormat::Rgb24, 4, 2, 16, 28),
            (PixelFormat::Yuyv, 3, 1, 8, 8),
            (PixelFormat::Nv12, 5, 3, 6, 30),
            (PixelFormat::Nv12, 4, 4, 8, 5 * 8 + 4),
            (PixelFormat::Grey, 7, 0, 7, 0),
            (PixelFormat::Grey, usize::MAX, usize::MAX, usize::MAX, usize::MAX),
            (PixelFormat::Mjpeg, 4, 2, 0, 0),
        ] {
            assert_eq!(format.frame_bytes(width, height, stride), expected, "{format} {width}x{height}/{stride}");
        }
    }

    #[test]
    fn auto_always_gives_a_source() {
        let Opened { source, uri } = open(&Uri::Auto, &CaptureOptions::default()).unwrap();
        assert!(!source.describe().is_empty());
        assert_ne!(uri, Uri::Auto);
    }
}
