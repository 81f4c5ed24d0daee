//! The one property of a format that the `v4l` crate does not pass on.

use std::io;
use std::mem;

use v4l::buffer::Type;
use v4l::device::Handle;
use v4l::v4l_sys::v4l2_format;
use v4l::v4l2::{self, vidioc};

/// The `ycbcr_enc` of the current format: `V4L2_YCBCR_ENC_…`, 0 for the colour space's default.
pub(super) fn encoding(handle: &Handle) -> io::Result<u32> {
    #[allow(unsafe_code, reason = "VIDIOC_G_FMT, which fills a structure of plain numbers that is alive meanwhile")]
    unsafe {
        let mut format: v4l2_format = mem::zeroed();
        format.type_ = Type::VideoCapture as u32;
        v4l2::ioctl(handle.fd(), vidioc::VIDIOC_G_FMT, (&raw mut format).cast())?;
        Ok(format.fmt.pix.__bindgen_anon_1.ycbcr_enc)
    }
}
