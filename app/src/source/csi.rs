//! `csi://0`: cameras on a CSI connector, which only the board's own camera programs turn into pictures.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::CaptureOptions;

/// Said where no camera program is there.
pub(super) const HINT: &str = "; a camera on a CSI connector needs it: `apt install rpicam-apps` (Raspberry Pi), \
                               `apt install gstreamer1.0-tools nvidia-l4t-gstreamer` (Jetson)";

/// The camera programs of boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    /// The Raspberry Pi's, by the name that it has had since 2023.
    Rpicam,
    /// The same, by the name before.
    Libcamera,
    /// NVIDIA's.
    Argus,
}

impl Stack {
    /// The one whose program is there; the first where there is none.
    pub(crate) fn find() -> Self {
        [Self::Rpicam, Self::Libcamera, Self::Argus]
            .into_iter()
            .find(|stack| is_program(stack.program()))
            .unwrap_or(Self::Rpicam)
    }

    /// Name of the program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Rpicam => "rpicam-vid",
            Self::Libcamera => "libcamera-vid",
            Self::Argus => "gst-launch-1.0",
        }
    }

    /// Program and arguments that write what camera `number` sees as MJPEG.
    pub(crate) fn command(self, number: u32, options: &CaptureOptions) -> Vec<String> {
        let CaptureOptions { width, height, fps, .. } = options;
        let arguments = match self {
            Self::Rpicam | Self::Libcamera => format!(
                "--camera {number} --timeout 0 --nopreview --verbose=0 --flush --codec mjpeg \
                 --width {width} --height {height} --framerate {fps} --output -"
            ),
            // The sensor's own picture is 1280 x 720, which all sensors have, and made smaller by the GPU.
            Self::Argus => format!(
                "-q nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),width=1280,height=720,framerate={fps}/1 \
                 ! nvvidconv ! video/x-raw,format=I420,width={width},height={height} ! jpegenc ! fdsink fd=1"
            ),
        };
        std::iter::once(self.program()).chain(arguments.split_whitespace()).map(str::to_owned).collect()
    }
}

/// Whether `$PATH` leads to a program of that name, or the name is the path of one.
pub(crate) fn is_program(name: &str) -> bool {
    let is_file =
        |path: &Path| path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return is_file(Path::new(name));
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| is_file(&folder.join(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_say_what_is_wanted() {
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

    #[test]
    fn programs_are_found() {
        assert!(is_program("sh") && is_program("/bin/sh"));
        assert!(!is_program("/etc/passwd"), "a file that may not be run is none");
        assert!(!is_program("no-such-camera") && !is_program("/bin/no-such-camera") && !is_program("/bin"));
    }
}
