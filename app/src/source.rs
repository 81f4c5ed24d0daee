//! Where frames come from: one file per kind of source.

pub(crate) mod command;
pub(crate) mod csi;
mod error;
mod found;
mod pictures;
mod pipe;
mod shapes;
mod stop;
mod stream;
mod uri;
mod v4l2;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use error::SourceError;
pub use shapes::{ShapesOptions, draw as draw_shapes};
pub use stop::Stop;
pub use stream::split_jpegs;
pub use uri::{Uri, UriError};

/// One captured frame. Its buffer is reused: a frame travels between threads by swapping it with another.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Counts the frames that this source captured, from 0.
    pub number: u64,
    /// When the frame arrived.
    pub captured: Instant,
    /// How `bytes` are to be read.
    pub format: PixelFormat,
    /// Columns; 0 for formats that say so themselves (`Encoded`, `Mjpeg`).
    pub width: usize,
    /// Rows; 0 for formats that say so themselves.
    pub height: usize,
    /// Bytes from one row of plane 0 to the next, for raw formats.
    pub stride: usize,
    /// The pixels, or the encoded file.
    pub bytes: Vec<u8>,
    /// Range of the values of raw formats.
    pub range: Range,
    /// Conversion matrix, for YUV formats.
    pub matrix: Matrix,
    /// The file a picture came from.
    pub path: Option<PathBuf>,
    /// What the frame shows, where the source knows it (`test://shapes`).
    pub truth: Option<String>,
    /// What fetching the frame cost, without the waiting for it where that is known.
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
    /// Says what an encoded frame is; the decoder finds its size.
    fn set_encoded(&mut self, format: PixelFormat) {
        self.format = format;
        (self.width, self.height, self.stride) = (0, 0, 0);
    }
}

/// How the bytes of a frame are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    /// A whole picture file of any known kind.
    Encoded,
    /// One JPEG image.
    Mjpeg,
    /// Three bytes a pixel: red, green, blue.
    Rgb24,
    /// Two pixels in four bytes: Y0 U Y1 V.
    Yuyv,
    /// Two pixels in four bytes: U Y0 V Y1.
    Uyvy,
    /// A plane of Y, then a plane of U V pairs at half the width and height.
    Nv12,
    /// One byte of luma a pixel.
    Grey,
}

impl PixelFormat {
    /// The fewest bytes that `width` pixels of one row of plane 0 need; 0 for encoded formats.
    pub(crate) fn row_bytes(self, width: usize) -> usize {
        match self {
            PixelFormat::Encoded | PixelFormat::Mjpeg => 0,
            PixelFormat::Rgb24 => width.saturating_mul(3),
            PixelFormat::Yuyv | PixelFormat::Uyvy => width.div_ceil(2).saturating_mul(4),
            PixelFormat::Nv12 => width.next_multiple_of(2),
            PixelFormat::Grey => width,
        }
    }

    /// The fewest bytes that a picture of this size needs; the last row may lack its padding. 0 for encoded formats.
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
            PixelFormat::Encoded => "picture file",
            PixelFormat::Mjpeg => "MJPEG",
            PixelFormat::Rgb24 => "RGB24",
            PixelFormat::Yuyv => "YUYV",
            PixelFormat::Uyvy => "UYVY",
            PixelFormat::Nv12 => "NV12",
            PixelFormat::Grey => "GREY",
        })
    }
}

/// Which values samples take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// 0 to 255.
    Full,
    /// Luma, red, green and blue 16 to 235, chroma 16 to 240.
    Limited,
}

/// Which standard relates YUV to RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601, of standard-definition video and JPEG.
    Bt601,
    /// ITU-R BT.709, of high-definition video.
    Bt709,
}

/// What is asked of a camera; it may give something else, which `Source::describe` then tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOptions {
    /// Wanted columns.
    pub width: u32,
    /// Wanted rows.
    pub height: u32,
    /// Wanted frames per second.
    pub fps: u32,
    /// The pixel format to use; `None` takes the cheapest.
    pub format: Option<PixelFormat>,
    /// How long a frame may take before the source is taken for stuck.
    pub timeout: Duration,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        // VGA is what every webcam gives at full rate, and more than any tower's input.
        CaptureOptions { width: 640, height: 480, fps: 30, format: None, timeout: Duration::from_secs(5) }
    }
}

/// Something that gives frames.
pub trait Source: Send {
    /// Waits for the next frame and fills `frame`. `Ok(false)`: there are no more, or `stop` was set.
    ///
    /// # Errors
    /// The source failed. It should be opened again after an error that `is_transient`, and after any once it gave frames.
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError>;

    /// How many broken frames, or bytes that are none, `next` left out since this was last asked, and why the last one;
    /// nothing where none was.
    fn skipped(&mut self) -> Option<String> {
        None
    }

    /// Live sources drop frames that nobody takes; the others wait.
    fn is_live(&self) -> bool;

    /// One line for people: what was really negotiated.
    fn describe(&self) -> String;
}

/// An open source, and what to open when it is lost.
pub struct Opened {
    /// The source.
    pub source: Box<dyn Source>,
    /// Names this very source; never `Auto`, so that a lost camera is not replaced by drawn shapes.
    pub uri: Uri,
}

/// Opens the source that `uri` names.
///
/// # Errors
/// The source is missing, busy, not permitted, empty, or gives nothing that can be read.
pub fn open(uri: &Uri, options: &CaptureOptions) -> Result<Opened, SourceError> {
    let source: Box<dyn Source> = match uri {
        Uri::Auto => return Ok(open_any(options)),
        Uri::V4l2(path) => Box::new(v4l2::Camera::open(path, options)?),
        Uri::Pictures(path) => Box::new(pictures::Pictures::open(path)?),
        Uri::Stdin => Box::new(stream::JpegStream::stdin(options.timeout)),
        Uri::Csi(number) => {
            let words = csi::Stack::find().command(*number, options);
            Box::new(command::CommandSource::open(&words, csi::HINT, options)?)
        }
        Uri::Command(words) => Box::new(command::CommandSource::open(words, "; is it installed?", options)?),
        Uri::Shapes(shapes) => Box::new(shapes::Shapes::new(shapes.clone())),
    };
    Ok(Opened { source, uri: uri.clone() })
}

/// All V4L2 nodes in the folder, which is `/dev` but for tests, by number.
pub fn camera_nodes(folder: &Path) -> Vec<PathBuf> {
    v4l2::devices(folder)
}

/// Asks a camera what it is and what it gives, without changing anything about it.
///
/// # Errors
/// It cannot be opened, is no camera, or gives no pictures that can be read.
pub fn examine_camera(path: &Path, options: &CaptureOptions) -> Result<CameraOffer, SourceError> {
    v4l2::examine(path, options)
}

/// What a camera says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraOffer {
    /// Its name, and its driver's.
    pub name: String,
    /// Each format that can be read, with the size and rate that come nearest to what is wanted.
    pub formats: Vec<String>,
}

/// Opens the first camera that gives pictures, else the drawn shapes.
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
    fn sizes_of_formats() {
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
