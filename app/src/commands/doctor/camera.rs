//! Lists the cameras with their formats and stable names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use serde::Serialize;
use spotter_engine::printable::serialize_path;

use super::{Findings, below};
use crate::config::Config;
use crate::process::group::is_program;
use crate::source::csi::Stack;
use crate::source::{self, SourceError, Uri, ffmpeg};

/// Folder of stable names, which do not depend on the order of detection.
const BY_ID: &str = "/dev/v4l/by-id";

/// A V4L2 node.
#[derive(Debug, Serialize)]
pub struct Camera {
    #[serde(serialize_with = "serialize_path")]
    path: PathBuf,
    /// A name that stays the same after a replug.
    #[serde(serialize_with = "serialize_path")]
    by_id: Option<PathBuf>,
    /// Name and formats.
    name: Option<String>,
    formats: Vec<String>,
    /// Why it cannot be used.
    problem: Option<String>,
}

impl fmt::Display for Camera {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => {
                let name = self.name.as_deref().unwrap_or("a camera");
                write!(f, "{}: {name}, {}", self.path.display(), self.formats.join(", "))?;
            }
            Some(problem) => write!(f, "not usable: {problem}")?,
        }
        self.by_id.as_ref().map_or(Ok(()), |by_id| write!(f, "; always {}", by_id.display()))
    }
}

pub(super) fn cameras(root: &Path, config: &Config, findings: &mut Findings) -> Vec<Camera> {
    let options = config.capture.options();
    let mut cameras = Vec::new();
    for node in source::camera_nodes(&root.join("dev")) {
        let path = Path::new("/").join(node.strip_prefix(root).unwrap_or(&node));
        let by_id = by_id(&below(root, Path::new(BY_ID)), &node);
        let by_id = by_id.and_then(|link| Some(Path::new(BY_ID).join(link.file_name()?)));
        let (name, formats, problem) = match source::examine_camera(&node, &options) {
            Ok(offer) => (Some(offer.name), offer.formats, None),
            Err(error) => {
                if let SourceError::Permission { .. } = error {
                    let todo = "add the user to the group `video` (`sudo usermod -aG video $USER`) and log in again";
                    findings.problem(format!("{} may not be opened", path.display()), todo);
                }
                (None, Vec::new(), Some(error.to_string()))
            }
        };
        cameras.push(Camera { path, by_id, name, formats, problem });
    }
    wanted(root, config, &cameras, findings);
    cameras
}

/// Checks that the configured camera exists.
fn wanted(root: &Path, config: &Config, cameras: &[Camera], findings: &mut Findings) {
    match Uri::from_str(&config.source) {
        Err(error) => findings.problem(error.to_string(), "correct `source` in the configuration"),
        Ok(Uri::V4l2(path)) => wanted_device(root, &path, cameras, findings),
        Ok(Uri::Auto) if cameras.iter().all(|camera| camera.problem.is_some()) => findings.note(
            "there is no usable camera, so drawn shapes would be used",
            "plug in a USB camera; for a camera on a CSI connector write `source = \"csi://0\"`",
        ),
        Ok(Uri::Csi(_)) => {
            let stacks = [Stack::Rpicam, Stack::Libcamera, Stack::Argus].map(Stack::program);
            if !stacks.into_iter().any(is_program) {
                findings.problem(
                    format!("{} needs one of the programs {}, and none is installed", config.source, stacks.join(", ")),
                    "install it: `apt install rpicam-apps` (Raspberry Pi), or NVIDIA's gstreamer packages (Jetson)",
                );
            }
        }
        Ok(Uri::Command(words)) => {
            let program = words.first().map_or("", String::as_str);
            if !is_program(program) {
                findings
                    .problem(format!("{program}: the program of the configured source is not installed"), "install it");
            }
        }
        Ok(uri @ (Uri::Network(_) | Uri::Video(_))) if !ffmpeg::is_installed() => {
            let (what, todo) = (format!("{uri}: ffmpeg is not installed"), "install it: `apt install ffmpeg`");
            match &uri {
                // Pictures and MJPEG are read without it.
                Uri::Network(address) if address.is_http() && cfg!(feature = "http") => {
                    findings
                        .note(format!("{what}; it is needed if the camera sends anything but pictures or MJPEG"), todo);
                }
                _ => findings.problem(what, todo),
            }
        }
        Ok(Uri::Auto | Uri::Stdin | Uri::Images(_) | Uri::Network(_) | Uri::Video(_) | Uri::Shapes(_)) => {}
    }
}

fn wanted_device(root: &Path, path: &Path, cameras: &[Camera], findings: &mut Findings) {
    let real = std::fs::canonicalize(below(root, path)).ok();
    let real = real.as_ref().and_then(|real| real.strip_prefix(root).ok()).map(|rest| Path::new("/").join(rest));
    let real = real.as_deref().unwrap_or(path);
    match cameras.iter().find(|camera| camera.path == real) {
        None => findings.problem(
            format!("{}: the configured camera does not exist", path.display()),
            "plug it in, or name another one in `source`; the existing cameras are listed above",
        ),
        Some(Camera { problem: Some(problem), .. }) => {
            findings.problem(
                format!("the configured camera cannot be used: {problem}"),
                "follow the advice in that message",
            );
        }
        Some(Camera { by_id: Some(by_id), .. }) if path == real => findings.note(
            format!("{} may be another camera after a restart", path.display()),
            format!("write `source = \"{}\"`, which follows the camera", by_id.display()),
        ),
        Some(_) => {}
    }
}

/// The link in `folder` to the node `path`; of several, the first by name, which is the one for images.
fn by_id(folder: &Path, path: &Path) -> Option<PathBuf> {
    let links = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        links.filter(|link| std::fs::canonicalize(link).is_ok_and(|target| target == path)).collect();
    found.sort();
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Severity;

    fn camera(path: &str, by_id: Option<&str>, problem: Option<&str>) -> Camera {
        Camera {
            path: path.into(),
            by_id: by_id.map(PathBuf::from),
            name: None,
            formats: Vec::new(),
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn the_configured_camera_is_checked() {
        let there = || vec![camera("/dev/video90", Some("/dev/v4l/by-id/usb-x"), None)];
        let broken = || vec![camera("/dev/video90", None, Some("is busy"))];
        for (source, cameras, expected) in [
            ("auto", there(), None),
            ("auto", Vec::new(), Some((Severity::Note, "there is no usable camera"))),
            ("auto", broken(), Some((Severity::Note, "there is no usable camera"))),
            ("-", Vec::new(), None),
            ("/dev/video90", there(), Some((Severity::Note, "may be another camera"))),
            ("/dev/video90", broken(), Some((Severity::Problem, "cannot be used: is busy"))),
            ("/dev/video91", there(), Some((Severity::Problem, "/dev/video91: the configured camera does not exist"))),
            ("exec:sh -c x", Vec::new(), None),
            ("exec:no-such-camera -o -", there(), Some((Severity::Problem, "no-such-camera: the program of the"))),
            ("gopher://me:hunter2@x", there(), Some((Severity::Problem, "unknown scheme"))),
        ] {
            let mut findings = Findings::default();
            wanted(Path::new("/"), &Config { source: source.to_owned(), ..Config::default() }, &cameras, &mut findings);
            let found: Vec<_> = findings.0.iter().map(|finding| (finding.severity, finding.what.as_str())).collect();
            match expected {
                None => assert_eq!(found, [], "{source}"),
                Some((severity, part)) => {
                    assert!(
                        found.len() == 1 && found[0].0 == severity && found[0].1.contains(part),
                        "{source}: {found:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn nodes_below_another_root_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a folder");
        std::fs::create_dir_all(root.join("dev/v4l/by-id")).expect("a folder");
        for name in ["video10", "video2", "videos", "null"] {
            std::fs::write(root.join("dev").join(name), "").expect("a file");
        }
        let link = "/dev/v4l/by-id/usb-a-index0";
        std::os::unix::fs::symlink("../../video2", below(&root, Path::new(link))).expect("a link");
        let mut findings = Findings::default();
        let config = Config { source: link.to_owned(), ..Config::default() };
        let found = cameras(&root, &config, &mut findings);
        let paths: Vec<_> = found.iter().map(|camera| camera.path.as_path()).collect();
        assert_eq!(paths, ["/dev/video2", "/dev/video10"].map(Path::new));
        assert_eq!((found[0].by_id.as_deref(), found[1].by_id.as_deref()), (Some(Path::new(link)), None));
        let problem = found[0].problem.as_deref().expect("a file is no camera");
        assert!(problem.contains("not a capture device"), "{problem}");
        assert_eq!(findings.0.len(), 1, "{findings:?}");
        assert!(findings.0[0].what.starts_with("the configured camera cannot be used: "), "{findings:?}");
    }

    #[test]
    fn stable_names_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a folder");
        let (node, other) = (root.join("video0"), root.join("video1"));
        std::fs::write(&node, "").expect("a file");
        std::fs::write(&other, "").expect("a file");
        let links = root.join("by-id");
        assert_eq!(by_id(&links, &node), None);
        std::fs::create_dir(&links).expect("a folder");
        for (name, target) in [("usb-b-index1", "../video1"), ("usb-b-index0", "../video0"), ("usb-gone", "../video7")]
        {
            std::os::unix::fs::symlink(target, links.join(name)).expect("a link");
        }
        assert_eq!(by_id(&links, &node), Some(links.join("usb-b-index0")));
        assert_eq!(by_id(&links, &other), Some(links.join("usb-b-index1")));
        assert_eq!(by_id(&links, &root.join("video2")), None);
    }
}
