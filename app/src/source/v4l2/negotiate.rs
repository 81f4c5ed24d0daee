//! Chooses the cheapest of a camera's formats and sizes that fits the request.

use super::driver::{FourCc, FrameSize, Steps};
use crate::source::{CaptureOptions, PixelFormat};

/// A camera's offer in one pixel format, at the size that fits best.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    pub(super) fourcc: FourCc,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The highest rate at this size, if the driver reports it.
    pub(super) fps: Option<f32>,
    /// Converted from another format by software.
    pub(super) emulated: bool,
}

/// Throughput of a USB 2 camera: three quarters of what isochronous transfers can carry.
const USB2_BYTES_PER_SECOND: f32 = 18e6;

/// Supported formats by their V4L2 codes.
const FORMATS: [(FourCc, PixelFormat); 7] = [
    (*b"RGB3", PixelFormat::Rgb24),
    (*b"YUYV", PixelFormat::Yuyv),
    (*b"UYVY", PixelFormat::Uyvy),
    (*b"NV12", PixelFormat::Nv12),
    (*b"MJPG", PixelFormat::Mjpeg),
    (*b"JPEG", PixelFormat::Mjpeg),
    (*b"GREY", PixelFormat::Grey),
];

/// Prefixes of raw sensor codes: 8, 10, 12, 14 and 16 bits, packed, and compressed by the Raspberry Pi 5.
const RAW_SENSOR: [&[u8]; 15] = [
    b"pR", b"pB", b"pG", b"pg", b"RG1", b"BG1", b"GB1", b"GR1", b"BA1", b"BA81", b"BYR2", b"GBRG", b"GRBG", b"RGGB",
    b"PC1",
];

/// The pixel format of a V4L2 code, if it is supported.
pub(super) fn pixel_format(fourcc: FourCc) -> Option<PixelFormat> {
    FORMATS.iter().find(|(code, _)| *code == fourcc).map(|(_, format)| *format)
}

/// Returns whether a V4L2 code stands for raw sensor data.
pub(super) fn is_raw_sensor(fourcc: FourCc) -> bool {
    RAW_SENSOR.iter().any(|start| fourcc.starts_with(start))
}

/// The best supported offer: colour before grey, then nearest to the requested size, then to the requested rate, then with
/// the least work per frame. `is_usb` matters for drivers that report no rates.
pub(super) fn choose<'a>(offers: &'a [Offer], wanted: &CaptureOptions, is_usb: bool) -> Option<&'a Offer> {
    let readable = offers.iter().filter_map(|offer| Some((offer, pixel_format(offer.fourcc)?)));
    let allowed = readable.filter(|(_, format)| wanted.format.is_none_or(|only| only == *format));
    let cost = |(offer, format): &(&Offer, PixelFormat)| {
        let colorless = *format == PixelFormat::Grey;
        let rate = offer.fps.unwrap_or_else(|| match is_usb {
            true => usb_fps(offer, *format),
            false => f32::INFINITY,
        });
        // In tenths, so that 29.97 and 27 count as 30.
        let missing = (10.0 * (1.0 - rate / wanted.fps.max(1) as f32)).max(0.0) as u32;
        (colorless, distance(offer.width, offer.height, wanted), missing, work(offer, *format))
    };
    allowed.min_by_key(cost).map(|(offer, _)| offer)
}

/// Frames per second of a raw format that USB 2 carries.
fn usb_fps(offer: &Offer, format: PixelFormat) -> f32 {
    let stride = format.row_bytes(offer.width as usize);
    match format.frame_bytes(offer.width as usize, offer.height as usize, stride) {
        0 => f32::INFINITY,
        bytes => USB2_BYTES_PER_SECOND / bytes as f32,
    }
}

/// Rough time to convert a frame to RGB, in microseconds on a small board.
fn work(offer: &Offer, format: PixelFormat) -> u64 {
    let ns_per_pixel = match format {
        PixelFormat::Rgb24 | PixelFormat::Grey => 1,
        PixelFormat::Yuyv | PixelFormat::Uyvy | PixelFormat::Nv12 => 3,
        PixelFormat::Mjpeg | PixelFormat::Encoded => 20,
    };
    // The software converter has decoded another format first.
    let emulation = if offer.emulated { 30 } else { 0 };
    u64::from(offer.width) * u64::from(offer.height) * (ns_per_pixel + emulation) / 1000
}

/// Distance of a size from the requested one, in hundredths: the logarithm of the area ratio, doubled where detail is lost.
fn distance(width: u32, height: u32, wanted: &CaptureOptions) -> u32 {
    let side = |has: u32, wants: u32| (has.max(1) as f32 / wants.max(1) as f32).ln();
    let (x, y) = (side(width, wanted.width), side(height, wanted.height));
    let far = |d: f32| if d < 0.0 { -2.0 * d } else { d };
    (100.0 * (far(x) + far(y))) as u32
}

/// The size nearest to the requested one; `None` if the driver lists none.
pub(super) fn best_size(sizes: &[FrameSize], wanted: &CaptureOptions) -> Option<(u32, u32)> {
    let nearest = |size: &FrameSize| match *size {
        FrameSize::Discrete { width, height } => (width, height),
        FrameSize::Stepwise { width, height } => (step(wanted.width, width), step(wanted.height, height)),
    };
    sizes.iter().map(nearest).min_by_key(|(width, height)| distance(*width, *height, wanted))
}

/// The smallest valid value that is at least `wanted`.
fn step(wanted: u32, Steps { min, max, step }: Steps) -> u32 {
    let above = wanted.clamp(min, max.max(min)) - min;
    let stepped = above.div_ceil(step.max(1)).saturating_mul(step.max(1));
    min.saturating_add(stepped).min(max.max(min))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn offer(code: &str, width: u32, height: u32, fps: f32) -> Offer {
        let fourcc = code.as_bytes().try_into().unwrap();
        Offer { fourcc, width, height, fps: (fps > 0.0).then_some(fps), emulated: false }
    }

    fn check(name: &str, offers: &[Offer], (width, height): (u32, u32), is_usb: bool, expected: &str) {
        let wanted = CaptureOptions { width, height, ..CaptureOptions::default() };
        let got =
            choose(offers, &wanted, is_usb).map(|o| format!("{} {}", String::from_utf8_lossy(&o.fourcc), o.width));
        assert_eq!(got.unwrap_or_default(), expected, "{name}");
    }

    #[test]
    fn the_cheapest_offer_wins() {
        let vga = (640, 480);
        let hd = (1280, 720);
        let webcam = [offer("MJPG", 640, 480, 30.0), offer("YUYV", 640, 480, 30.0)];
        check("raw needs no decoder", &webcam, vga, true, "YUYV 640");
        let webcam = [offer("MJPG", 1280, 720, 30.0), offer("YUYV", 1280, 720, 10.0)];
        check("raw is too slow", &webcam, hd, true, "MJPG 1280");
        let webcam = [offer("MJPG", 1280, 720, 0.0), offer("YUYV", 1280, 720, 0.0)];
        check("rates not reported, USB", &webcam, hd, true, "MJPG 1280");
        check("rates not reported, no USB", &webcam, hd, false, "YUYV 1280");
        let webcam = [offer("MJPG", 640, 480, 0.0), offer("YUYV", 640, 480, 0.0)];
        check("rates not reported, small", &webcam, vga, true, "YUYV 640");
        let vivid = ["YUYV", "UYVY", "NV12", "RGB3", "GREY"].map(|code| offer(code, 640, 480, 25.0));
        check("all raw", &vivid, vga, false, "RGB3 640");
        let grey = [offer("GREY", 640, 480, 30.0), offer("MJPG", 320, 240, 5.0)];
        check("colour first", &grey, vga, true, "MJPG 320");
        check("only grey", &grey[..1], vga, true, "GREY 640");
        let unknown = [offer("H264", 640, 480, 30.0), offer("pRAA", 640, 480, 30.0)];
        check("nothing readable", &unknown, vga, true, "");
        let ntsc = [offer("YUYV", 640, 480, 29.97), offer("MJPG", 640, 480, 30.0)];
        check("nearly the rate", &ntsc, vga, true, "YUYV 640");
        let sizes = [offer("YUYV", 160, 120, 30.0), offer("MJPG", 800, 600, 30.0)];
        check("size before work", &sizes, vga, true, "MJPG 800");
        let emulated = Offer { emulated: true, ..offer("RGB3", 640, 480, 30.0) };
        check("emulated", &[emulated, webcam[0].clone()], vga, true, "MJPG 640");
    }

    #[test]
    fn a_requested_format_excludes_the_others() {
        let offers = [offer("YUYV", 640, 480, 30.0), offer("MJPG", 640, 480, 30.0)];
        let wanted = |format| CaptureOptions { format: Some(format), ..CaptureOptions::default() };
        assert_eq!(choose(&offers, &wanted(PixelFormat::Mjpeg), true), Some(&offers[1]));
        assert_eq!(choose(&offers, &wanted(PixelFormat::Nv12), true), None);
    }

    #[test]
    fn the_nearest_size() {
        let fixed = |sizes: &[(u32, u32)]| -> Vec<_> {
            sizes.iter().map(|&(width, height)| FrameSize::Discrete { width, height }).collect()
        };
        let range = |min, max, step| {
            let steps = Steps { min, max, step };
            vec![FrameSize::Stepwise { width: steps, height: steps }]
        };
        for (name, sizes, expected) in [
            ("none", vec![], None),
            ("exact", fixed(&[(320, 240), (640, 480), (1280, 720)]), Some((640, 480))),
            ("larger rather than smaller", fixed(&[(480, 360), (800, 600)]), Some((800, 600))),
            ("far too large", fixed(&[(320, 240), (3840, 2160)]), Some((320, 240))),
            ("range", range(32, 4096, 2), Some((640, 480))),
            ("coarse steps", range(100, 4096, 300), Some((700, 700))),
            ("range below", range(16, 400, 16), Some((400, 400))),
            ("range above", range(1000, 2000, 8), Some((1000, 1000))),
            ("no step", range(16, 4096, 0), Some((640, 480))),
            ("nonsense", range(500, 16, 7), Some((500, 500))),
        ] {
            assert_eq!(best_size(&sizes, &CaptureOptions::default()), expected, "{name}");
        }
    }

    #[test]
    fn raw_sensor_codes() {
        for code in ["pRAA", "pgAA", "BG10", "RG12", "GRBG", "BA81", "BYR2", "PC1M"] {
            assert!(is_raw_sensor(code.as_bytes().try_into().unwrap()), "{code}");
        }
        for (code, _) in FORMATS {
            assert!(!is_raw_sensor(code));
        }
    }
}
