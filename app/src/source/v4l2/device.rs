//! Opens V4L2 devices and queries what they can do.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::driver::{Device, FormatOffer};
use super::negotiate::{Offer, best_size, is_raw_sensor, pixel_format};
use crate::source::{CaptureOptions, SourceError};

/// Linux error numbers.
const EBUSY: i32 = 16;
const ENOTTY: i32 = 25;

/// Drivers whose nodes list formats that work only after other programs have set up the sensor.
const RAW_DRIVERS: [&str; 1] = ["rp1-cfe"];

/// Drivers that process images from memory and have no camera.
const PROCESSORS: [&str; 1] = ["bcm2835-isp"];

/// Identity of a device, by its driver.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub(super) driver: String,
    pub(super) card: String,
    pub(super) is_usb: bool,
}

/// All V4L2 nodes in the folder, sorted by number. The folder is `/dev` outside of tests.
pub(crate) fn devices(folder: &Path) -> Vec<PathBuf> {
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Makes a driver call; `action` names it in the error.
pub(super) fn ask<T>(
    path: &Path,
    action: &'static str,
    call: impl FnOnce() -> io::Result<T>,
) -> Result<T, SourceError> {
    // The `v4l` crate panics at values that V4L2 does not define, and at names that are no UTF-8.
    let answer = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(io::Error::other("the driver returned a value that V4L2 does not define")));
    answer.map_err(|source| match source.raw_os_error() {
        Some(EBUSY) => SourceError::Busy { path: path.into() },
        _ => SourceError::Device { path: path.into(), action, source },
    })
}

/// Opens a device node.
pub(super) fn open(path: &Path) -> Result<Device, SourceError> {
    let missing = || SourceError::Missing {
        path: path.into(),
        hint: "; plug the camera in, or use another one of `ls /dev/video*`",
    };
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(missing());
    }
    let opened = fs::metadata(path).and_then(|data| {
        if !data.file_type().is_char_device() {
            return Ok(None);
        }
        Device::open(path).map(Some)
    });
    match opened {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(SourceError::NotCapture { path: path.into(), found: "a file or folder".into() }),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => missing(),
            io::ErrorKind::PermissionDenied => SourceError::Permission {
                path: path.into(),
                hint: "; add the user to the group `video` (`sudo usermod -aG video $USER`) and log in again",
            },
            _ if error.raw_os_error() == Some(EBUSY) => SourceError::Busy { path: path.into() },
            _ => SourceError::Device { path: path.into(), action: "open the device", source: error },
        }),
    }
}

/// Queries the identity of a device; refuses devices that are no cameras.
pub(super) fn identify(device: &Device, path: &Path) -> Result<Identity, SourceError> {
    let refuse = |found: String| SourceError::NotCapture { path: path.into(), found };
    if has_broken_name(path) {
        return Ok(Identity { driver: "unknown".into(), card: "a camera".into(), is_usb: true });
    }
    let caps = match ask(path, "ask what the device can do", || device.capabilities()) {
        Err(SourceError::Device { source, .. }) if source.raw_os_error() == Some(ENOTTY) => {
            return Err(refuse("a device of another kind".into()));
        }
        answer => answer?,
    };
    let driver = caps.driver;
    if RAW_DRIVERS.contains(&driver.as_str()) {
        return Err(SourceError::RawSensor { path: path.into(), found: format!("driver {driver}") });
    }
    if PROCESSORS.contains(&driver.as_str()) || caps.is_processor {
        return Err(refuse(format!("an image processor (driver {driver})")));
    }
    if !caps.is_capture {
        return Err(refuse(match caps.is_multiplanar_capture {
            true => format!(
                "a multi-planar one (driver {driver}); run `gst-launch-1.0 -q v4l2src device={} ! videoconvert \
                 ! jpegenc ! fdsink | spotter run --source -`",
                path.display()
            ),
            false => format!("one without images (driver {driver})"),
        }));
    }
    if !caps.is_streaming {
        return Err(refuse(format!("one without memory-mapped buffers (driver {driver})")));
    }
    Ok(Identity { driver, card: caps.card, is_usb: caps.bus.starts_with("usb-") })
}

/// Returns whether the kernel cut the device's name within a character, at which the `v4l` crate panics.
fn has_broken_name(path: &Path) -> bool {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let Some(node) = real.file_name() else { return false };
    fs::read(Path::new("/sys/class/video4linux").join(node).join("name"))
        .is_ok_and(|name| str::from_utf8(&name).is_err())
}

/// The device's offers, one for each supported pixel format.
pub(super) fn offers(device: &Device, path: &Path, wanted: &CaptureOptions) -> Result<Vec<Offer>, SourceError> {
    let formats = ask(path, "list the formats", || device.formats())?;
    let codes: Vec<_> = formats.iter().map(|format| format.fourcc).collect();
    let names = || codes.iter().map(|code| code.escape_ascii().to_string()).collect::<Vec<_>>().join(", ");
    let supported = formats.iter().filter(|format| pixel_format(format.fourcc).is_some());
    let offers: Vec<_> = supported.map(|format| offer(device, format, wanted)).collect();
    if !offers.is_empty() {
        return Ok(offers);
    }
    Err(if codes.iter().any(|code| is_raw_sensor(*code)) {
        SourceError::RawSensor { path: path.into(), found: names() }
    } else {
        let found = if codes.is_empty() { "no format".into() } else { names() };
        SourceError::Format { path: path.into(), expected: "MJPG, YUYV, UYVY, NV12, RGB3 or GREY".into(), found }
    })
}

/// The offer in one format; where the driver lists no sizes, the requested one.
fn offer(device: &Device, format: &FormatOffer, wanted: &CaptureOptions) -> Offer {
    let FormatOffer { fourcc, is_emulated } = *format;
    let sizes = device.frame_sizes(fourcc).unwrap_or_default();
    let (width, height) = best_size(&sizes, wanted).unwrap_or((wanted.width, wanted.height));
    let rates = device.frame_rates(fourcc, width, height).unwrap_or_default();
    Offer { fourcc, width, height, fps: rates.into_iter().reduce(f32::max), emulated: is_emulated }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn other_devices_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        // qemu-user knows none of the V4L2 calls.
        let emulated = std::env::var_os("SPOTTER_TEST_RUNNER").is_some();
        for (path, part) in [
            (dir.path().join("video0"), "not found; plug the camera in"),
            (dir.path().into(), "not a capture device, expected a camera, found a file or folder"),
            (PathBuf::from("/dev/null"), "found a device of another kind"),
            (PathBuf::from("/dev/vid\0eo"), "not found"),
        ] {
            if emulated && path == Path::new("/dev/null") {
                continue;
            }
            let opened = open(&path).and_then(|device| identify(&device, &path));
            let error = opened.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_panic_of_the_crate_becomes_an_error() {
        let error = ask(Path::new("v"), "x", || -> io::Result<()> { panic!("expected by this test") }).unwrap_err();
        assert!(error.to_string().contains("v: cannot x"));
        let busy = ask(Path::new("v"), "x", || -> io::Result<()> { Err(io::Error::from_raw_os_error(EBUSY)) });
        assert!(matches!(busy, Err(SourceError::Busy { .. })));
    }
}
