//! Errors of sources.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use spotter_engine::picture;

/// Linux error numbers that drivers return when a device is lost or stuck.
const EIO: i32 = 5;
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EPROTO: i32 = 71;

/// Names a file of JPEG frames.
pub(super) const MJPEG: &str = "an MJPEG video";

/// Advice for a missing file whose name is not that of an image.
const NO_IMAGE: &str = "; expected an image, a folder of them, or another source, such as `auto`, `/dev/video0`, \
                          `csi://0`, `rtsp://CAMERA/PATH` or `-`";

/// Why a source could not be opened or gave no frame.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The device node or file does not exist.
    #[error("{}: not found{hint}", path.display())]
    Missing {
        /// The device or file.
        path: PathBuf,
        /// Advice; may be empty.
        hint: &'static str,
    },
    /// The user may not open the device or file.
    #[error("{}: permission denied{hint}", path.display())]
    Permission {
        /// The device or file.
        path: PathBuf,
        /// Advice; may be empty.
        hint: &'static str,
    },
    /// Another program uses the camera.
    #[error("{}: the camera is busy; close the program that uses it (`fuser {}` names it)", path.display(), path.display())]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// The device is no camera.
    #[error("{}: not a capture device, expected a camera, found {found}", path.display())]
    NotCapture {
        /// The device.
        path: PathBuf,
        /// Description of the device.
        found: String,
    },
    /// The camera gives raw sensor data only.
    #[error(
        "{}: gives raw sensor data ({found}), expected images; \
         use `csi://0` instead, which goes through the board's camera programs",
        path.display()
    )]
    RawSensor {
        /// The device.
        path: PathBuf,
        /// The driver or the formats.
        found: String,
    },
    /// The camera has no supported format, or not the requested one.
    #[error("{}: expected {expected}, the camera offers {found}", path.display())]
    Format {
        /// The device.
        path: PathBuf,
        /// The supported or requested formats.
        expected: String,
        /// The camera's formats.
        found: String,
    },
    /// The driver set an invalid format.
    #[error("{}: the driver set {found}, expected {expected}; choose another size or format", path.display())]
    Layout {
        /// The device.
        path: PathBuf,
        /// The valid values.
        expected: String,
        /// The value that the driver set.
        found: String,
    },
    /// A driver call failed.
    #[error("{}: cannot {action}", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// The failed action.
        action: &'static str,
        /// The driver's error.
        source: io::Error,
    },
    /// A camera gave no frame in time.
    #[error("{}: no frame within {:.1} s", path.display(), limit.as_secs_f32())]
    TimedOut {
        /// The device.
        path: PathBuf,
        /// Time limit for a frame.
        limit: Duration,
    },
    /// A pipe gave no frame in time, and may still give one.
    #[error("{name}: no frame within {:.1} s", limit.as_secs_f32())]
    Silent {
        /// The stream.
        name: String,
        /// Time limit for a frame.
        limit: Duration,
    },
    /// A network camera cannot be reached, or refuses.
    #[error("{name}: {why}")]
    Network {
        /// The address, without secrets.
        name: String,
        /// What happened, and what to do.
        why: String,
    },
    /// A camera program gave no frame in time and was ended.
    #[error("{name}: no frame within {:.1} s{found}{said}", limit.as_secs_f32())]
    Hung {
        /// The program.
        name: String,
        /// Time limit for a frame.
        limit: Duration,
        /// Output instead of a frame, after a comma; may be empty.
        found: String,
        /// The end of its standard error, after a colon; may be empty.
        said: String,
    },
    /// A camera program ended.
    #[error("{name}: ended ({how}){found}{said}")]
    Ended {
        /// The program.
        name: String,
        /// Its exit status.
        how: String,
        /// Output instead of a frame, after a comma; may be empty.
        found: String,
        /// The end of its standard error, after a colon; may be empty.
        said: String,
    },
    /// A camera program could not be started.
    #[error("{name}: cannot be started")]
    Start {
        /// The program.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// Many frames in a row were broken.
    #[error("{}: {count} broken frames in a row, the last because {reason}; check the cable and the power supply", path.display())]
    BrokenFrames {
        /// The device.
        path: PathBuf,
        /// Number of broken frames.
        count: u32,
        /// The reason for the last one.
        reason: String,
    },
    /// A file, folder or stream could not be read.
    #[error("{name}: cannot read")]
    Read {
        /// The file, or `standard input`.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// A file is larger than an image may be.
    #[error("{}: {found_bytes} bytes, expected at most {limit_bytes}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A file is a video.
    #[error(
        "{}: found {what}, expected images; to label every frame: `{command}`", path.display()
    )]
    Video {
        /// The file.
        path: PathBuf,
        /// Kind of video.
        what: &'static str,
        /// The command that labels its frames.
        command: String,
    },
    /// A folder without images.
    #[error("{}: no images in this folder, expected files that end in {expected}", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// Known file extensions.
        expected: String,
    },
    /// A stream without a single frame.
    #[error(
        "{name}: {bytes} bytes without a JPEG frame{found}, expected MJPEG or concatenated JPEG files; \
         try `--codec mjpeg` (rpicam-vid) or `-f mjpeg` (ffmpeg){said}"
    )]
    NoFrames {
        /// The stream.
        name: String,
        /// Bytes read.
        bytes: u64,
        /// The first bytes, after a comma; may be empty.
        found: String,
        /// The end of its program's standard error, after a semicolon; may be empty.
        said: String,
    },
}

impl SourceError {
    /// Returns whether reopening the source may help although it gave no frame yet: the device was lost, reset or stuck. After its
    /// first frame a camera is reopened after any error.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // After a replug the node is missing, then not permitted, until udev is done.
            SourceError::Missing { path, .. } | SourceError::Permission { path, .. } => path.starts_with("/dev"),
            SourceError::Busy { .. }
            | SourceError::TimedOut { .. }
            | SourceError::BrokenFrames { .. }
            | SourceError::Silent { .. }
            | SourceError::Hung { .. }
            | SourceError::Ended { .. } => true,
            SourceError::Device { source, .. } => {
                matches!(source.raw_os_error(), Some(EIO | ENXIO | ENODEV | EINVAL | EPROTO))
            }
            SourceError::NotCapture { .. }
            | SourceError::RawSensor { .. }
            | SourceError::Format { .. }
            | SourceError::Network { .. }
            | SourceError::Layout { .. }
            | SourceError::Start { .. }
            | SourceError::Read { .. }
            | SourceError::TooLarge { .. }
            | SourceError::Video { .. }
            | SourceError::EmptyFolder { .. }
            | SourceError::NoFrames { .. } => false,
        }
    }

    /// The error for a video where images are expected.
    pub(super) fn of_video(path: &std::path::Path, what: &'static str) -> Self {
        let name = path.display().to_string();
        let is_plain = |c: char| c.is_alphanumeric() || "/._-+,=@%:".contains(c);
        let quoted = |name: &str| match name.chars().all(is_plain) {
            true => name.to_owned(),
            false => format!("'{}'", name.replace('\'', r"'\''")),
        };
        let command = match what {
            MJPEG => format!("spotter run --source - < {}", quoted(&name)),
            _ => format!("spotter run --source {}", quoted(&format!("frames:{name}"))),
        };
        SourceError::Video { path: path.to_path_buf(), what, command }
    }

    /// The error for a file that cannot be opened or read.
    pub(super) fn of_file(path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => {
                let hint = if picture::has_image_extension(&path) { "" } else { NO_IMAGE };
                SourceError::Missing { path, hint }
            }
            io::ErrorKind::PermissionDenied => SourceError::Permission { path, hint: "" },
            _ => SourceError::Read { name: path.display().to_string(), source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_comes_with_the_command_that_reads_it() {
        let check = |path: &str, what: &'static str, expected: &str| {
            let message = SourceError::of_video(std::path::Path::new(path), what).to_string();
            let command = format!("`spotter run --source {expected}`");
            assert!(message.starts_with(&format!("{path}: found {what}, ")) && message.contains(&command), "{message}");
        };
        check("a/video.mp4", "an MP4 video", "frames:a/video.mp4");
        check("my video.mkv", "a video", "'frames:my video.mkv'");
        check("it's.avi", "a video", r"'frames:it'\''s.avi'");
        check("-x.mp4", "a video", "frames:-x.mp4");
        check("x.mjpeg", MJPEG, "- < x.mjpeg");
    }

    #[test]
    fn which_errors_are_transient() {
        let path = || PathBuf::from("/dev/video0");
        let device =
            |code| SourceError::Device { path: path(), action: "x", source: io::Error::from_raw_os_error(code) };
        for code in [EIO, ENXIO, ENODEV, EINVAL, EPROTO] {
            assert!(device(code).is_transient(), "{code}");
        }
        assert!(!device(25).is_transient(), "ENOTTY: not a video device");
        assert!(SourceError::TimedOut { path: path(), limit: Duration::from_secs(1) }.is_transient());
        assert!(SourceError::Missing { path: path(), hint: "" }.is_transient());
        assert!(!SourceError::Missing { path: "x.jpg".into(), hint: "" }.is_transient());
        assert!(!SourceError::RawSensor { path: path(), found: "pRAA".into() }.is_transient());
    }
}
