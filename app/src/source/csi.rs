//! `csi://0`: cameras on a CSI connector, whose raw data only the board's own camera programs turn into images.

use super::CaptureOptions;
use crate::process::group::is_program;

/// Advice if no camera program is installed.
pub(super) const HINT: &str = "; a camera on a CSI connector needs it: `apt install rpicam-apps` (Raspberry Pi), \
                               `apt install gstreamer1.0-tools nvidia-l4t-gstreamer` (Jetson)";

/// Camera software of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    /// Raspberry Pi, with program names since 2023.
    Rpicam,
    /// Raspberry Pi, with earlier program names.
    Libcamera,
    /// NVIDIA Jetson.
    Argus,
}

impl Stack {
    /// The first whose program is installed, else the first.
    pub(crate) fn find() -> Self {
        [Self::Rpicam, Self::Libcamera, Self::Argus]
            .into_iter()
            .find(|stack| is_program(stack.program()))
            .unwrap_or(Self::Rpicam)
    }

    /// Name of the camera program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Rpicam => "rpicam-vid",
            Self::Libcamera => "libcamera-vid",
            Self::Argus => "gst-launch-1.0",
        }
    }

    /// Program and arguments that write MJPEG from camera `number` to standard output.
    pub(crate) fn command(self, number: u32, options: &CaptureOptions) -> Vec<String> {
        let CaptureOptions { width, height, fps, .. } = options;
        let arguments = match self {
            Self::Rpicam | Self::Libcamera => format!(
                "--camera {number} --timeout 0 --nopreview --verbose=0 --flush --codec mjpeg \
                 --width {width} --height {height} --framerate {fps} --output -"
            ),
            // All sensors have 1280 x 720, which the GPU scales down.
            Self::Argus => format!(
                "-q nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),width=1280,height=720,framerate={fps}/1 \
                 ! nvvidconv ! video/x-raw,format=I420,width={width},height={height} ! jpegenc ! fdsink fd=1"
            ),
        };
        std::iter::once(self.program()).chain(arguments.split_whitespace()).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_requested_settings() {
        let options = CaptureOptions { width: 320, height: 240, fps: 5, ..CaptureOptions::default() };
        for (stack, program, parts) in [
            (Stack::Rpicam, "rpicam-vid", ["--camera 1 ", "--width 320 --height 240 --framerate 5 "]),
            (Stack::Libcamera, "libcamera-vid", ["--camera 1 ", "--width 320 --height 240 --framerate 5 "]),
            (Stack::Argus, "gst-launch-1.0", [" sensor-id=1 ! ", ",width=320,height=240 ! jpegenc ! "]),
        ] {
            let words = stack.command(1, &options);
            assert_eq!(words[0], program);
            let line = words.join(" ");
            parts.iter().for_each(|part| assert!(line.contains(part), "{part:?} is not in {line}"));
        }
    }
}
