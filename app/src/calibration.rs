//! Calibrations: thresholds that `spotter calibrate` fitted to a camera. They stay in the state folder, and are used while
//! camera, bundle and labels are those for which they were fitted.

pub(crate) mod chart;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use spotter_engine::bundle::Manifest;
use spotter_engine::decide::calibrate::Fitted;
use spotter_engine::decide::{Rules, default_release};
use spotter_engine::files;
use spotter_engine::labels::Key;

use crate::config::Config;
use crate::labels::label_file::LabelFile;
use crate::source::Uri;
use crate::store;

/// Folder of the calibrations in the state folder.
const FOLDER: &str = "calibrations";

/// Version of the format; others are not read.
const FORMAT: u32 = 1;

/// Largest file: ten thousand labels with long names.
const BYTES_MAX: u64 = 4 << 20;

/// Hexadecimal digits of a file's name, enough for the cameras of a board.
const NAME_DIGITS: usize = 16;

/// A calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Calibration {
    format: u32,
    /// The source, as the configuration has it, without secrets.
    camera: String,
    /// Hash of what makes the bundle's scores.
    bundle: String,
    /// Hash of the labels, and of all that decides about them but thresholds.
    labels: String,
    /// When it was made, in ISO 8601.
    pub(crate) time: String,
    /// Minutes that were watched.
    pub(crate) minutes: f64,
    /// The wanted false alarms a day.
    pub(crate) false_alarms_per_day: f64,
    /// One for each label, in the order of the set.
    thresholds: Vec<Threshold>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Threshold {
    label: String,
    threshold: f32,
}

/// The hashes of a bundle and of a label file.
fn hashes(manifest: &Manifest, file: &LabelFile) -> (String, String) {
    let Manifest { logit_scale, logit_bias, scoring, vision, text, preprocess, adapted_labels, .. } = manifest;
    let scores = format!("{:?}", (logit_scale, logit_bias, scoring, preprocess, adapted_labels));
    let bundle = Key::of(&[&vision.file.sha256, &text.file.sha256, &scores]);
    let limits: Vec<_> = file.rules.labels.iter().map(|label| (label.for_s, label.hold_s)).collect();
    let smoothing: Vec<_> = file.rules.questions.iter().map(|question| question.smooth_s).collect();
    let labels = (&file.rows, &file.competition, &file.examples, limits, file.rules.smooth_s, smoothing);
    let labels = format!("{labels:?}");
    (bundle.to_string(), Key::of(&[&labels]).to_string())
}

impl Calibration {
    /// What was fitted to the source of `config` with this bundle and these labels.
    pub(crate) fn new(config: &Config, manifest: &Manifest, file: &LabelFile, found: &Fitted, made: Made) -> Self {
        let (bundle, labels) = hashes(manifest, file);
        let threshold = |(label, fit): (usize, &spotter_engine::decide::calibrate::Fit)| Threshold {
            label: file.full_name(label),
            threshold: fit.threshold,
        };
        Self {
            format: FORMAT,
            camera: Uri::shown(&config.source),
            bundle,
            labels,
            time: jiff::Timestamp::now().to_string(),
            minutes: made.minutes,
            false_alarms_per_day: made.false_alarms_per_day,
            thresholds: found.labels.iter().enumerate().map(threshold).collect(),
        }
    }

    /// Writes it into the state folder, in place of an older one of this camera, and returns its path.
    pub(crate) fn store(&self, state_dir: &Path) -> Result<PathBuf> {
        let path = path(state_dir, &self.camera);
        let bytes = serde_json::to_vec_pretty(self)?;
        store::replace_state_file(&path, &bytes).with_context(|| format!("{}: cannot write", path.display()))?;
        Ok(path)
    }

    /// What has changed since, in words; `None` if it holds for this bundle and these labels.
    fn stale(&self, manifest: &Manifest, file: &LabelFile) -> Option<&'static str> {
        let (bundle, labels) = hashes(manifest, file);
        match (self.bundle == bundle, self.labels == labels) {
            (true, true) if self.thresholds.len() == file.labels().len() => None,
            (true, _) => Some("the labels have"),
            (false, true) => Some("the bundle has"),
            (false, false) => Some("bundle and labels have"),
        }
    }

    /// The rules of `file` with these thresholds, but for labels that have limits of their own.
    fn apply(&self, file: &LabelFile) -> Rules {
        let mut rules = (*file.rules).clone();
        let labels = rules.labels.iter_mut().zip(&file.has_limits).zip(&self.thresholds);
        for ((label, _), found) in labels.filter(|((_, has_limits), _)| !**has_limits) {
            (label.threshold, label.release) = (found.threshold, default_release(found.threshold));
        }
        rules
    }
}

/// How a calibration was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    /// Minutes that were watched.
    pub(crate) minutes: f64,
    /// The wanted false alarms a day.
    pub(crate) false_alarms_per_day: f64,
}

/// The file of a camera's calibration.
fn path(state_dir: &Path, camera: &str) -> PathBuf {
    let name = Key::of(&[camera]).to_string();
    state_dir.join(FOLDER).join(format!("{}.json", &name[..NAME_DIGITS]))
}

/// The calibration of the source of `config`; `None` if there is none.
///
/// # Errors
/// There is a file that is none, or that is another camera's.
pub(crate) fn load(config: &Config) -> Result<Option<Calibration>> {
    let Some(state_dir) = &config.state_dir else { return Ok(None) };
    let camera = Uri::shown(&config.source);
    let path = path(state_dir, &camera);
    let bytes = match files::read_contained(&path, BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes.with_context(|| path.display().to_string())?,
    };
    let found: Calibration = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
    let is_valid = |threshold: &Threshold| (0.0..1.0).contains(&threshold.threshold);
    if found.format != FORMAT {
        bail!("{}: expected format {FORMAT}, found {}", path.display(), found.format);
    }
    if found.camera != camera || !found.thresholds.iter().all(is_valid) {
        bail!("{}: expected thresholds between 0 and 1 for {camera}", path.display());
    }
    Ok(Some(found))
}

/// The calibration that is used, if there is one; else why it is not.
fn usable(config: &Config, manifest: &Manifest, file: &LabelFile) -> Result<Option<Calibration>, String> {
    let found = load(config)
        .map_err(|error| format!("{error:#}; the calibration is not used, run `spotter calibrate` again"))?;
    match found.as_ref().and_then(|found| Some((found, found.stale(manifest, file)?))) {
        None => Ok(found),
        Some((Calibration { camera, time, .. }, changed)) => Err(format!(
            "the calibration of {camera} is stale and not used: {changed} changed since {time}; run `spotter calibrate` \
             again, or live with the default thresholds"
        )),
    }
}

/// What `spotter check` says about a calibration that is not used; `None` if it is, or if there is none.
pub(crate) fn problem(config: &Config, manifest: &Manifest, file: &LabelFile) -> Option<String> {
    usable(config, manifest, file).err()
}

/// The rules of `file`, with the thresholds of the camera's calibration if it has one that holds. One that does not is
/// reported.
pub(crate) fn rules(config: &Config, manifest: &Manifest, file: &LabelFile) -> Arc<Rules> {
    match usable(config, manifest, file) {
        Ok(Some(found)) => {
            let Calibration { camera, time, minutes, .. } = &found;
            log::info!("thresholds: those of the calibration of {camera}, made {time} from {minutes:.1} minutes");
            Arc::new(found.apply(file))
        }
        Ok(None) => Arc::clone(&file.rules),
        Err(problem) => {
            log::warn!("{problem}");
            Arc::clone(&file.rules)
        }
    }
}

#[cfg(all(test, feature = "demo"))]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use spotter_engine::decide::calibrate::{Fit, FitKind};

    use super::*;
    use crate::bundles::demo;
    use crate::labels::label_file;

    const LABELS: &str = "[[label]]\nname = \"cat\"\n[[label]]\nname = \"dog\"\nthreshold = 0.9\n";

    fn parse(text: &str) -> LabelFile {
        label_file::parse("labels.toml", text, &["{}".to_owned()]).unwrap()
    }

    fn fitted(threshold: f32) -> Fitted {
        let fit = Fit { threshold, kind: FitKind::Counted, before_per_day: 9.0, after_per_day: 1.0 };
        Fitted {
            labels: vec![fit; 2],
            before_per_day: 18.0,
            after_per_day: 2.0,
            range_per_day: (1.0, 3.0),
            promise_per_day: 4.0,
        }
    }

    fn config(state: &tempfile::TempDir) -> Config {
        Config { state_dir: Some(state.path().to_owned()), source: "/dev/video7".to_owned(), ..Config::default() }
    }

    #[test]
    fn thresholds_are_used_until_something_changes() {
        let (state, bundle) = (tempfile::tempdir().unwrap(), demo::bundle().unwrap());
        let (config, manifest, file) = (config(&state), bundle.manifest(), parse(LABELS));
        assert_eq!(load(&config).unwrap(), None);
        assert!(Arc::ptr_eq(&rules(&config, manifest, &file), &file.rules));
        let made = Made { minutes: 10.0, false_alarms_per_day: 2.0 };
        let calibration = Calibration::new(&config, manifest, &file, &fitted(0.75), made);
        let path = calibration.store(state.path()).unwrap();
        assert_eq!(load(&config).unwrap(), Some(calibration));
        let used = rules(&config, manifest, &file);
        let limits: Vec<_> = used.labels.iter().map(|label| (label.threshold, label.release)).collect();
        assert_eq!(limits, [(0.75, default_release(0.75)), (0.9, default_release(0.9))], "the file's own come first");
        // A threshold in the label file takes effect without another calibration.
        let edited = parse(&LABELS.replace("0.9", "0.8"));
        assert_eq!(rules(&config, manifest, &edited).labels[1].threshold, 0.8);
        let mut other = manifest.clone();
        other.vision.file.sha256 = "0".repeat(64);
        for (what, manifest, file, expected) in [
            ("another sentence", manifest, parse(&LABELS.replace("cat", "cow")), "the labels have changed"),
            ("another time", manifest, parse(&format!("smooth_s = 2\n{LABELS}")), "the labels have changed"),
            ("another bundle", &other, parse(LABELS), "the bundle has changed"),
            ("both", &other, parse("[[label]]\nname = \"cat\"\n"), "bundle and labels have changed"),
        ] {
            let problem = problem(&config, manifest, &file).unwrap();
            assert!(problem.contains(expected) && problem.contains("/dev/video7"), "{what}: {problem}");
            assert!(Arc::ptr_eq(&rules(&config, manifest, &file), &file.rules), "{what}");
        }
        let elsewhere = Config { source: "/dev/video8".to_owned(), ..config.clone() };
        assert_eq!(load(&elsewhere).unwrap(), None, "it is another camera's");
        for (what, bytes) in [
            ("torn", &std::fs::read(&path).unwrap()[..100]),
            ("another format", br#"{"format": 2}"#),
            ("empty", b""),
            ("a list", b"[]"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(problem(&config, manifest, &file).is_some(), "{what}");
            assert!(Arc::ptr_eq(&rules(&config, manifest, &file), &file.rules), "{what}");
        }
    }

    #[test]
    fn thresholds_out_of_range_and_of_other_cameras_are_refused() {
        let (state, bundle) = (tempfile::tempdir().unwrap(), demo::bundle().unwrap());
        let (config, file) = (config(&state), parse(LABELS));
        let made = Made { minutes: 10.0, false_alarms_per_day: 2.0 };
        for threshold in [1.0, -0.1, 1e30] {
            let found = Calibration::new(&config, bundle.manifest(), &file, &fitted(threshold), made);
            found.store(state.path()).unwrap();
            assert!(load(&config).unwrap_err().to_string().contains("between 0 and 1"), "{threshold}");
        }
        let found = Calibration::new(&config, bundle.manifest(), &file, &fitted(0.7), made);
        let path = found.store(state.path()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace("/dev/video7", "/dev/video8");
        std::fs::write(&path, text).unwrap();
        assert!(load(&config).is_err());
    }
}
