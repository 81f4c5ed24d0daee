//! V4L2 through the `v4l` crate. No other file names that crate, so that it can be replaced here.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use v4l::buffer::{Flags as BufferFlags, Type};
use v4l::capability::Flags as CapabilityFlags;
use v4l::device::Handle;
use v4l::format::FieldOrder;
use v4l::format::description::Flags as FormatFlags;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::io::traits::{CaptureStream as _, Stream as _};
use v4l::prelude::MmapStream;
use v4l::v4l_sys::v4l2_format;
use v4l::v4l2::{self, vidioc};
use v4l::video::Capture as _;
use v4l::video::capture::Parameters;

use super::closing::{Closing, Stoppable};

/// The event of `poll` for a frame that is ready.
const POLLIN: i16 = 1;

/// Longest timeout of a read: the crate keeps it as an i32 of milliseconds.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Four-character code of a pixel format.
pub(super) type FourCc = [u8; 4];

/// An open device.
pub(super) struct Device(v4l::Device);

/// Identity and abilities of a device.
pub(super) struct Capabilities {
    pub(super) driver: String,
    pub(super) card: String,
    pub(super) bus: String,
    /// Processes images from memory.
    pub(super) is_processor: bool,
    pub(super) is_capture: bool,
    pub(super) is_multiplanar_capture: bool,
    /// Has memory-mapped buffers.
    pub(super) is_streaming: bool,
}

/// A pixel format of a device.
pub(super) struct FormatOffer {
    pub(super) fourcc: FourCc,
    /// Converted from another format by software.
    pub(super) is_emulated: bool,
}

/// The frame sizes of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameSize {
    Discrete { width: u32, height: u32 },
    Stepwise { width: Steps, height: Steps },
}

/// The values from `min` to `max` in steps of `step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) step: u32,
}

/// A format that the driver has set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) fourcc: FourCc,
    /// Bytes per row; 0 if the driver does not tell.
    pub(super) stride: u32,
    /// Bytes of a buffer; 0 if the driver does not tell.
    pub(super) size: u32,
    /// The order of half images, if buffers hold those.
    pub(super) half_images: Option<&'static str>,
    pub(super) colorspace: Colorspace,
    pub(super) quantization: Quantization,
}

/// Colour spaces that matter for the conversion to RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colorspace {
    Jpeg,
    Rec709,
    DciP3,
    Other,
}

/// Range of sample values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantization {
    /// The default of format and colour space.
    Default,
    Full,
    Limited,
}

/// State of a filled buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    /// Bytes used.
    pub(super) used: u32,
    pub(super) is_damaged: bool,
}

impl Device {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        v4l::Device::with_path(path).map(Self)
    }

    pub(super) fn capabilities(&self) -> io::Result<Capabilities> {
        let found = self.0.query_caps()?;
        let flags = found.capabilities;
        Ok(Capabilities {
            is_processor: flags.intersects(CapabilityFlags::VIDEO_M2M | CapabilityFlags::VIDEO_M2M_MPLANE),
            is_capture: flags.contains(CapabilityFlags::VIDEO_CAPTURE),
            is_multiplanar_capture: flags.contains(CapabilityFlags::VIDEO_CAPTURE_MPLANE),
            is_streaming: flags.contains(CapabilityFlags::STREAMING),
            driver: found.driver,
            card: found.card,
            bus: found.bus,
        })
    }

    pub(super) fn formats(&self) -> io::Result<Vec<FormatOffer>> {
        let found = self.0.enum_formats()?;
        let offer = |format: &v4l::format::Description| FormatOffer {
            fourcc: format.fourcc.repr,
            is_emulated: format.flags.contains(FormatFlags::EMULATED),
        };
        Ok(found.iter().map(offer).collect())
    }

    pub(super) fn frame_sizes(&self, fourcc: FourCc) -> io::Result<Vec<FrameSize>> {
        let found = self.0.enum_framesizes(v4l::FourCC::new(&fourcc))?;
        let size = |size: &FrameSizeEnum| match size {
            FrameSizeEnum::Discrete(size) => FrameSize::Discrete { width: size.width, height: size.height },
            FrameSizeEnum::Stepwise(range) => FrameSize::Stepwise {
                width: Steps { min: range.min_width, max: range.max_width, step: range.step_width },
                height: Steps { min: range.min_height, max: range.max_height, step: range.step_height },
            },
        };
        Ok(found.iter().map(|found| size(&found.size)).collect())
    }

    /// Frame rates at a size; of a range the highest.
    pub(super) fn frame_rates(&self, fourcc: FourCc, width: u32, height: u32) -> io::Result<Vec<f32>> {
        let found = self.0.enum_frameintervals(v4l::FourCC::new(&fourcc), width, height)?;
        let rate = |interval: &FrameIntervalEnum| match interval {
            FrameIntervalEnum::Discrete(shortest) => shortest.denominator as f32 / shortest.numerator.max(1) as f32,
            FrameIntervalEnum::Stepwise(range) => range.min.denominator as f32 / range.min.numerator.max(1) as f32,
        };
        Ok(found.iter().map(|found| rate(&found.interval)).collect())
    }

    /// Requests a format and returns the one that was set.
    pub(super) fn set_format(&self, width: u32, height: u32, fourcc: FourCc) -> io::Result<Format> {
        let set = self.0.set_format(&v4l::Format::new(width, height, v4l::FourCC::new(&fourcc)))?;
        Ok(Format {
            width: set.width,
            height: set.height,
            fourcc: set.fourcc.repr,
            stride: set.stride,
            size: set.size,
            half_images: match set.field_order {
                FieldOrder::Alternate => Some("alternate between fields"),
                FieldOrder::SequentialTB => Some("sequential, top then bottom"),
                FieldOrder::SequentialBT => Some("sequential, bottom then top"),
                _ => None,
            },
            colorspace: match set.colorspace {
                v4l::format::Colorspace::JPEG => Colorspace::Jpeg,
                v4l::format::Colorspace::Rec709 => Colorspace::Rec709,
                v4l::format::Colorspace::DCIP3 => Colorspace::DciP3,
                _ => Colorspace::Other,
            },
            quantization: match set.quantization {
                v4l::format::Quantization::Default => Quantization::Default,
                v4l::format::Quantization::FullRange => Quantization::Full,
                v4l::format::Quantization::LimitedRange => Quantization::Limited,
            },
        })
    }

    /// The `ycbcr_enc` of the current format: `V4L2_YCBCR_ENC_…`, 0 for the colour space's default. The crate does not pass
    /// it on.
    pub(super) fn encoding(&self) -> io::Result<u32> {
        #[allow(unsafe_code, reason = "VIDIOC_G_FMT, which fills a structure of plain numbers that is alive meanwhile")]
        unsafe {
            let mut format: v4l2_format = mem::zeroed();
            format.type_ = Type::VideoCapture as u32;
            v4l2::ioctl(self.0.handle().fd(), vidioc::VIDIOC_G_FMT, (&raw mut format).cast())?;
            Ok(format.fmt.pix.__bindgen_anon_1.ycbcr_enc)
        }
    }

    /// Requests a frame rate and returns the one that was set, if the driver tells it.
    pub(super) fn set_rate(&self, fps: u32) -> io::Result<Option<f32>> {
        self.0.set_params(&Parameters::with_fps(fps)).map(|set| rate(&set))
    }

    /// The current frame rate, if the driver tells it.
    pub(super) fn rate(&self) -> io::Result<Option<f32>> {
        self.0.params().map(|found| rate(&found))
    }

    /// Maps `buffers` buffers. Reads wait at most for `timeout`.
    pub(super) fn stream(&self, buffers: u32, timeout: Duration) -> io::Result<Stream> {
        let mut stream = MmapStream::with_buffers(&self.0, Type::VideoCapture, buffers)?;
        stream.set_timeout(timeout.min(TIMEOUT_MAX));
        Ok(Stream { inner: Closing::new(stream), handle: self.0.handle() })
    }
}

fn rate(parameters: &Parameters) -> Option<f32> {
    let interval = parameters.interval;
    let is_valid = interval.numerator > 0 && interval.denominator > 0;
    is_valid.then(|| interval.denominator as f32 / interval.numerator as f32)
}

/// The buffers of a device.
pub(super) struct Stream {
    inner: Closing<MmapStream<'static>>,
    handle: Arc<Handle>,
}

impl Stream {
    /// Gives a buffer to the driver; an error for an index that is too large.
    pub(super) fn queue(&mut self, index: usize) -> io::Result<()> {
        self.inner.queue(index)
    }

    pub(super) fn start(&mut self) -> io::Result<()> {
        self.inner.start()
    }

    /// Waits until a frame is ready or the device has failed, at most for `limit`. `false`: neither. The crate lends no
    /// descriptor that could be polled together with another one.
    pub(super) fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        self.handle.poll(POLLIN, limit_ms).map(|ready| ready > 0)
    }

    /// Reads the next buffer.
    pub(super) fn next(&mut self) -> io::Result<(&[u8], Filled)> {
        let (bytes, meta) = self.inner.next()?;
        let filled = Filled { used: meta.bytesused, is_damaged: meta.flags.contains(BufferFlags::ERROR) };
        Ok((bytes, filled))
    }
}

impl Stoppable for MmapStream<'static> {
    fn stop(&mut self) -> io::Result<()> {
        v4l::io::traits::Stream::stop(self)
    }
}
