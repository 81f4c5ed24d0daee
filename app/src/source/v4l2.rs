//! V4L2 cameras: USB webcams and everything else with a `/dev/video` node that gives processed images.

mod closing;
mod device;
mod driver;
mod layout;
mod negotiate;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) use self::device::devices;
use self::device::{ask, identify, offers};
use self::driver::{Device, Filled, Stream};
use self::layout::Layout;
use super::{CameraOffer, CaptureOptions, Frame, PixelFormat, Source, SourceError};
use crate::process::{STOP_CHECK, Stop};

/// Buffers that the driver fills in turn: one being copied, one being filled, two in reserve.
const BUFFERS: u32 = 4;

/// Maximum number of buffers of a V4L2 queue (`VIDEO_MAX_FRAME`).
const MAX_BUFFERS: usize = 32;

/// Broken frames in a row, about a second's worth, after which the camera is reopened.
const MAX_BROKEN: u32 = 30;

/// Error that drivers return for a camera pipeline that is not configured.
const EPIPE: i32 = 32;

/// An open camera.
pub(super) struct Camera {
    path: PathBuf,
    description: String,
    layout: Layout,
    timeout: Duration,
    stream: Stream,
    started: bool,
    /// Broken frames since the last good one.
    broken: u32,
    /// Count of broken frames that were not reported yet, and the reason for the last.
    skipped: Option<(u64, String)>,
}

impl Camera {
    /// Opens the device and sets the format that `negotiate` considers cheapest.
    pub(super) fn open(path: &Path, options: &CaptureOptions) -> Result<Self, SourceError> {
        let device = device::open(path)?;
        let identity = identify(&device, path)?;
        let offers = offers(&device, path, options)?;
        let Some(choice) = negotiate::choose(&offers, options, identity.is_usb) else {
            let found: Vec<_> = offers.iter().map(|offer| offer.fourcc.escape_ascii().to_string()).collect();
            let expected = options.format.map_or_else(String::new, |format| format.to_string());
            return Err(SourceError::Format { path: path.into(), expected, found: found.join(", ") });
        };
        let got = ask(path, "set the format", || device.set_format(choice.width, choice.height, choice.fourcc))?;
        // A driver that fails here has only the default.
        let encoding = device.encoding().unwrap_or_default();
        let layout = Layout::check(&got, encoding, path)?;
        if got.fourcc != choice.fourcc {
            let (wanted, set) = (choice.fourcc.escape_ascii(), got.fourcc.escape_ascii());
            log::warn!("{}: asked for {wanted}, the driver set {set}", path.display());
        }
        let fps = set_rate(&device, path, options.fps);
        let stream = ask(path, "map the buffers", || device.stream(BUFFERS, options.timeout))?;
        let rate = fps.map_or_else(String::new, |fps| format!(" at {} fps", (fps * 100.0).round() / 100.0));
        let description = format!("{}: {} ({}), {layout}{rate}", path.display(), identity.card, identity.driver);
        Ok(Camera {
            path: path.into(),
            description,
            layout,
            timeout: options.timeout,
            stream,
            started: false,
            broken: 0,
            skipped: None,
        })
    }

    /// Queues all buffers but the first, which the stream queues itself before it reads a frame, and starts the stream.
    fn start(&mut self) -> Result<(), SourceError> {
        let stream = &mut self.stream;
        ask(&self.path, "queue a buffer", || stream.queue(1))?;
        // The crate does not tell how many buffers there are: the first index too large is refused.
        let _queued = (2..MAX_BUFFERS).take_while(|index| stream.queue(*index).is_ok()).count();
        ask(&self.path, "start the stream", || stream.start()).map_err(|error| match error {
            SourceError::Device { source, .. } if source.raw_os_error() == Some(EPIPE) => {
                SourceError::RawSensor { path: self.path.clone(), found: "its pipeline is not set up".into() }
            }
            error => error,
        })?;
        self.started = true;
        Ok(())
    }

    /// Waits for a frame, in steps of [`STOP_CHECK`], since the stop signal cannot wake it. Returns `false` when stopped.
    fn wait(&self, stop: &Stop) -> Result<bool, SourceError> {
        let start = Instant::now();
        while !stop.is_set() {
            match self.stream.wait(STOP_CHECK) {
                Ok(false) if start.elapsed() >= self.timeout => {
                    return Err(SourceError::TimedOut { path: self.path.clone(), limit: self.timeout });
                }
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The read that follows reports errors of the device better.
                Ok(true) | Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Fetches the frame that is ready. `Ok(false)`: it was broken and was skipped.
    fn fetch(&mut self, frame: &mut Frame) -> Result<bool, SourceError> {
        let start = Instant::now();
        let stream = &mut self.stream;
        let (bytes, filled) = ask(&self.path, "read a frame", || stream.next()).map_err(|error| match error {
            SourceError::Device { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                SourceError::TimedOut { path: self.path.clone(), limit: self.timeout }
            }
            error => error,
        })?;
        match content(bytes, filled, &self.layout) {
            Ok(content) => {
                frame.bytes.clear();
                frame.bytes.extend_from_slice(content);
            }
            Err(reason) => {
                self.broken += 1;
                if self.broken >= MAX_BROKEN {
                    return Err(SourceError::BrokenFrames { path: self.path.clone(), count: self.broken, reason });
                }
                let before = self.skipped.take().map_or(0, |(count, _)| count);
                self.skipped = Some((before + 1, reason));
                return Ok(false);
            }
        }
        self.broken = 0;
        frame.captured = start;
        frame.capture_time = start.elapsed();
        Ok(true)
    }
}

impl Source for Camera {
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError> {
        if !self.started {
            self.start()?;
        }
        loop {
            if !self.wait(stop)? {
                return Ok(false);
            }
            if self.fetch(frame)? {
                break;
            }
        }
        let layout = &self.layout;
        frame.format = layout.format;
        (frame.width, frame.height, frame.stride) = (layout.width, layout.height, layout.stride);
        (frame.range, frame.matrix) = (layout.range, layout.matrix);
        Ok(true)
    }

    fn skipped(&mut self) -> Option<String> {
        let (count, reason) = self.skipped.take()?;
        Some(format!("{}: {count} broken frames, the last because {reason}", self.path.display()))
    }

    fn is_live(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

/// Queries a device's name and formats without changing its settings.
pub(super) fn examine(path: &Path, options: &CaptureOptions) -> Result<CameraOffer, SourceError> {
    let device = device::open(path)?;
    let identity = identify(&device, path)?;
    let offers = offers(&device, path, options)?;
    let describe = |offer: &negotiate::Offer| {
        let fps = offer.fps.map_or_else(String::new, |fps| format!(" at {} fps", (fps * 100.0).round() / 100.0));
        format!("{} {}x{}{fps}", offer.fourcc.escape_ascii(), offer.width, offer.height)
    };
    Ok(CameraOffer {
        name: format!("{} ({})", identity.card, identity.driver),
        formats: offers.iter().map(describe).collect(),
    })
}

/// Requests a frame rate and returns the one that was set. Cameras with a fixed rate refuse, which is no error.
fn set_rate(device: &Device, path: &Path, fps: u32) -> Option<f32> {
    let set = ask(path, "set the frame rate", || device.set_rate(fps.max(1)));
    set.or_else(|_| ask(path, "read the frame rate", || device.rate())).ok().flatten()
}

/// The part of a buffer that is the frame, or the reason why it is broken.
fn content<'a>(bytes: &'a [u8], filled: Filled, layout: &Layout) -> Result<&'a [u8], String> {
    if filled.is_damaged {
        return Err("the driver marked it as damaged".into());
    }
    let used = filled.used as usize;
    let content = bytes.get(..used).ok_or_else(|| format!("{used} bytes in a buffer of {}", bytes.len()))?;
    if layout.format == PixelFormat::Mjpeg {
        return if content.starts_with(&[0xFF, 0xD8]) {
            Ok(content)
        } else {
            Err(format!("{used} bytes that are no JPEG"))
        };
    }
    let needed = layout.frame_bytes();
    content.get(..needed).ok_or_else(|| format!("{used} bytes, expected {needed} for {layout}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;
    use crate::source::{Matrix, Range};

    #[test]
    fn only_whole_frames_pass() {
        let layout = |format: PixelFormat| Layout {
            format,
            width: 4,
            height: 2,
            stride: format.row_bytes(4),
            range: Range::Limited,
            matrix: Matrix::Bt601,
        };
        let (yuyv, mjpeg) = (layout(PixelFormat::Yuyv), layout(PixelFormat::Mjpeg));
        let jpeg = [0xFF, 0xD8, 0xFF, 0xD9, 0, 0, 0, 0];
        for (layout, bytes, used, is_damaged, expected) in [
            (&yuyv, &[1; 20][..], 16, false, Ok(16)),
            (&yuyv, &[1; 20], 20, false, Ok(16)),
            (&yuyv, &[1; 20], 15, false, Err("15 bytes, expected 16 for 4x2 YUYV")),
            (&yuyv, &[1; 20], 21, false, Err("21 bytes in a buffer of 20")),
            (&yuyv, &[1; 20], 16, true, Err("the driver marked it as damaged")),
            (&mjpeg, &jpeg, 4, false, Ok(4)),
            (&mjpeg, &jpeg, 0, false, Err("0 bytes that are no JPEG")),
            (&mjpeg, &[0; 8], 8, false, Err("8 bytes that are no JPEG")),
            (&mjpeg, &jpeg, u32::MAX, false, Err("4294967295 bytes in a buffer of 8")),
        ] {
            let got = content(bytes, Filled { used, is_damaged }, layout).map(<[u8]>::len);
            assert_eq!(got, expected.map_err(String::from));
        }
    }
}
