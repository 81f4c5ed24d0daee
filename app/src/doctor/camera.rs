//! The cameras, what they offer, and by which name they stay the same.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use serde::Serialize;

use super::Findings;
use crate::config::Config;
use crate::source::{self, SourceError, Uri};

/// Names that follow the camera and not the order in which cameras were found.
const BY_ID: &str = "/dev/v4l/by-id";

/// A V4L2 node.
#[derive(Debug, Serialize)]
pub struct Camera {
    path: PathBuf,
    /// A name that stays the same when it is plugged in anew.
    by_id: Option<PathBuf>,
    /// What it is, and the formats that it gives.
    name: Option<String>,
    formats: Vec<String>,
    /// Why it gives no pictures.
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

pub(super) fn cameras(config: &Config, findings: &mut Findings) -> Vec<Camera> {
    let options = config.capture.options();
    let mut cameras = Vec::new();
    for path in source::camera_nodes() {
        let by_id = by_id(Path::new(BY_ID), &path);
        let (name, formats, problem) = match source::examine_camera(&path, &options) {
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
    wanted(config, &cameras, findings);
    cameras
}

/// Whether the camera that the configuration wants is there.
fn wanted(config: &Config, cameras: &[Camera], findings: &mut Findings) {
    match Uri::from_str(&config.source) {
        Err(error) => findings.problem(error.to_string(), "mend `source` in the configuration"),
        Ok(Uri::V4l2(path)) => {
            let real = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            match cameras.iter().find(|camera| camera.path == real) {
                None => findings.problem(
                    format!("{}: the configured camera is not there", path.display()),
                    "plug it in, or name another one in `source`; cameras that are there are listed above",
                ),
                Some(Camera { problem: Some(problem), .. }) => {
                    findings.problem(format!("the configured camera cannot be used: {problem}"), "as it says");
                }
                Some(Camera { by_id: Some(by_id), .. }) if path == real => findings.note(
                    format!("{} may be another camera after a restart", path.display()),
                    format!("write `source = \"{}\"`, which follows the camera", by_id.display()),
                ),
                Some(_) => {}
            }
        }
        Ok(Uri::Auto) if cameras.iter().all(|camera| camera.problem.is_some()) => findings.note(
            "there is no camera that can be used, so drawn shapes would be shown",
            "plug in a USB camera; for a camera on a CSI connector see the file for your board in config/boards",
        ),
        Ok(_) => {}
    }
}

/// The link in `folder` that leads to the node `path`; of several, the one for pictures.
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
    use crate::doctor::Severity;

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
    fn the_wanted_camera() {
        let there = || vec![camera("/dev/video90", Some("/dev/v4l/by-id/usb-x"), None)];
        let broken = || vec![camera("/dev/video90", None, Some("is busy"))];
        for (source, cameras, expected) in [
            ("auto", there(), None),
            ("auto", Vec::new(), Some((Severity::Note, "there is no camera that can be used"))),
            ("auto", broken(), Some((Severity::Note, "there is no camera that can be used"))),
            ("-", Vec::new(), None),
            ("/dev/video90", there(), Some((Severity::Note, "may be another camera"))),
            ("/dev/video90", broken(), Some((Severity::Problem, "cannot be used: is busy"))),
            ("/dev/video91", there(), Some((Severity::Problem, "/dev/video91: the configured camera is not there"))),
            ("gopher://x", there(), Some((Severity::Problem, "unknown scheme"))),
        ] {
            let mut findings = Findings::default();
            wanted(&Config { source: source.to_owned(), ..Config::default() }, &cameras, &mut findings);
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
    fn links_that_follow_a_camera() {
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
