//! Metrics in a file, in Prometheus's text format, for the textfile collector of its node exporter.
//!
//! A thread of its own replaces the file every few seconds and removes it at the end. The file is meant for a folder in memory,
//! such as `/run/spotter`, so nothing is synced to disk.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::files::folder_of;
use spotter_engine::score::Score;

use super::notify::Counts;
use crate::config;
use crate::process::Stop;
use crate::process::supervise::{Heartbeat, fault_point};
use crate::recognizer::Latency;
use crate::store;

/// Interval between two writes; Prometheus scrapes every 15 seconds to a minute.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Longest write of the file.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(10);

/// Names of the stages, as in JSON.
const STAGES: [&str; 5] = ["capture", "decode", "preprocess", "tower", "score"];

/// The metrics file and its values.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    camera: String,
    values: Mutex<Values>,
}

/// Values of the metrics.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// Frames that the model scored.
    pub(crate) labelled: u64,
    /// Frames that showed the same as an earlier one.
    pub(crate) unchanged: u64,
    /// Broken frames.
    pub(crate) skipped: u64,
    /// Frames that were replaced by newer ones.
    pub(crate) dropped: u64,
    /// Reports that were lost because standard output was too slow.
    pub(crate) reports_lost: u64,
    /// Notices that arrived, and that were lost.
    pub(crate) notices: Counts,
    /// Time spent in each stage.
    pub(crate) stages: [Duration; 5],
    /// Smoothed rate of labelled frames.
    pub(crate) rate_hz: f32,
    /// Limit of the frame rate; `None` for no limit.
    pub(crate) limit_hz: Option<f32>,
    /// True if the governor has lowered the rate.
    pub(crate) held: bool,
    /// True if the source gives frames.
    pub(crate) source_up: bool,
    /// The running bundle.
    pub(crate) bundle: String,
    /// The labels of the last frame's scores.
    pub(crate) labels: Option<Arc<LabelEmbeddings>>,
    pub(crate) scores: Vec<Score>,
}

impl Values {
    /// Adds the stage times of a frame.
    pub(crate) fn add(&mut self, latency: &Latency) {
        let Latency { capture, decode, preprocess, tower, score } = *latency;
        for (sum, time) in self.stages.iter_mut().zip([capture, decode, preprocess, tower, score]) {
            *sum += time;
        }
    }
}

impl Metrics {
    /// The metrics that the configuration asks for, if any.
    pub(crate) fn new(config: &config::Metrics) -> Option<Self> {
        let path = config.file.clone()?;
        Some(Self { path, camera: config.camera.clone(), values: Mutex::default() })
    }

    /// Changes the values.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Values)) {
        change(&mut self.values.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes the file regularly until `stop` is set, then removes it: old metrics would mislead.
    pub(crate) fn run(&self, stop: &Stop, beat: &Heartbeat) {
        let mut text = String::new();
        let mut warned = false;
        loop {
            beat.beat(Instant::now());
            text.clear();
            self.change(|values| {
                // Writing to a String cannot fail.
                let _ = render(&mut text, &self.camera, values);
            });
            if let Err(error) = store::replace_volatile(&self.path, text.as_bytes())
                && !std::mem::replace(&mut warned, true)
            {
                log::warn!("{}: metrics cannot be written: {error}", self.path.display());
            }
            fault_point("metrics");
            beat.pause();
            if stop.sleep(WRITE_EVERY) {
                break;
            }
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{}: {error}", self.path.display());
        }
    }
}

/// Checks, without writing, whether the metrics file could be written; `None` if it could, or if there is none.
pub(crate) fn problem(config: &config::Metrics) -> Option<String> {
    let path = config.file.as_deref()?;
    let folder = folder_of(path);
    let (file, folder_shown) = (path.display(), folder.display());
    match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
            "metrics.file {file}: the folder {folder_shown} does not exist: create it, or name another one (systemd makes \
             /run/spotter while the service runs)"
        )),
        Err(error) => Some(format!("metrics.file {file}: the folder {folder_shown} cannot be used: {error}")),
        Ok(found) if !found.is_dir() => {
            Some(format!("metrics.file {file}: expected a folder in {folder_shown}, found a file: name another one"))
        }
        Ok(_) if path.is_dir() => {
            Some(format!("metrics.file {file}: expected a file, found a folder: name a file in it"))
        }
        Ok(_) => None,
    }
}

fn render(out: &mut String, camera: &str, values: &Values) -> fmt::Result {
    let camera = escaped(camera);
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        writeln!(out, "# HELP spotter_{name} {help}\n# TYPE spotter_{name} {kind}")
    };
    head(out, "info", "gauge", "Version and bundle; always 1.")?;
    let (version, bundle) = (env!("CARGO_PKG_VERSION"), escaped(&values.bundle));
    writeln!(out, "spotter_info{{camera=\"{camera}\",version=\"{version}\",bundle=\"{bundle}\"}} 1")?;
    head(out, "source_up", "gauge", "0 while the source is lost, else 1.")?;
    writeln!(out, "spotter_source_up{{camera=\"{camera}\"}} {}", u8::from(values.source_up))?;
    head(out, "frames_total", "counter", "Frames by result.")?;
    let Values { labelled, unchanged, skipped, dropped, .. } = *values;
    for (result, count) in
        [("labelled", labelled), ("unchanged", unchanged), ("skipped", skipped), ("dropped", dropped)]
    {
        writeln!(out, "spotter_frames_total{{camera=\"{camera}\",result=\"{result}\"}} {count}")?;
    }
    head(out, "reports_lost_total", "counter", "Reports that standard output was too slow for.")?;
    writeln!(out, "spotter_reports_lost_total{{camera=\"{camera}\"}} {}", values.reports_lost)?;
    head(out, "notices_total", "counter", "Notices to programs and servers by result.")?;
    for (result, count) in [("sent", values.notices.sent), ("lost", values.notices.lost)] {
        writeln!(out, "spotter_notices_total{{camera=\"{camera}\",result=\"{result}\"}} {count}")?;
    }
    head(out, "stage_seconds_total", "counter", "Time spent in each stage of labelled frames.")?;
    for (stage, time) in STAGES.iter().zip(values.stages) {
        writeln!(out, "spotter_stage_seconds_total{{camera=\"{camera}\",stage=\"{stage}\"}} {}", time.as_secs_f64())?;
    }
    head(out, "frame_rate_hertz", "gauge", "Smoothed rate of labelled frames.")?;
    writeln!(out, "spotter_frame_rate_hertz{{camera=\"{camera}\"}} {}", values.rate_hz)?;
    head(out, "frame_rate_limit_hertz", "gauge", "Limit of the rate; +Inf for no limit.")?;
    let limit = values.limit_hz.map_or_else(|| "+Inf".to_owned(), |hz| hz.to_string());
    writeln!(out, "spotter_frame_rate_limit_hertz{{camera=\"{camera}\"}} {limit}")?;
    head(out, "frame_rate_held", "gauge", "1 while heat, firmware or CPU quota limit the rate.")?;
    writeln!(out, "spotter_frame_rate_held{{camera=\"{camera}\"}} {}", u8::from(values.held))?;
    if let Some(labels) = &values.labels {
        head(out, "label_probability", "gauge", "Probability of the labels shown for the last frame.")?;
        for score in &values.scores {
            let (label, value) = (escaped(&labels.names()[score.label]), score.probability);
            let question = labels.question(score.label).map(|name| format!("question=\"{}\",", escaped(name)));
            let question = question.unwrap_or_default();
            writeln!(out, "spotter_label_probability{{camera=\"{camera}\",{question}label=\"{label}\"}} {value}")?;
        }
    }
    Ok(())
}

/// Escapes the value of a Prometheus label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use spotter_engine::embedding::Competition;

    use super::*;

    #[test]
    fn values_are_in_the_text_format() {
        let mut values =
            Values { labelled: 7, dropped: 3, reports_lost: 5, rate_hz: 2.5, held: true, ..Values::default() };
        values.bundle = "a \"b\"\\\n".to_owned();
        values.notices = Counts { sent: 9, lost: 2 };
        values.add(&Latency { tower: Duration::from_millis(250), ..Latency::default() });
        let matrix = ndarray::Array2::zeros((2, 1));
        let labels = LabelEmbeddings::new(vec!["cat".to_owned(), "open".to_owned()], matrix);
        let competition = Competition::new(1, vec![("door".to_owned(), 1)], &[0, 0], 0);
        values.labels = Some(Arc::new(labels.with_competition(competition)));
        values.scores = (0..2).map(|label| Score { label, cosine: 0.0, logit: 0.0, probability: 0.5 }).collect();
        let mut text = String::new();
        render(&mut text, "front", &values).unwrap();
        for line in [
            r#"spotter_label_probability{camera="front",label="cat"} 0.5"#,
            r#"spotter_label_probability{camera="front",question="door",label="open"} 0.5"#,
            r#"spotter_frames_total{camera="front",result="labelled"} 7"#,
            r#"spotter_frames_total{camera="front",result="dropped"} 3"#,
            r#"spotter_stage_seconds_total{camera="front",stage="tower"} 0.25"#,
            r#"spotter_frame_rate_hertz{camera="front"} 2.5"#,
            r#"spotter_frame_rate_limit_hertz{camera="front"} +Inf"#,
            r#"spotter_frame_rate_held{camera="front"} 1"#,
            r#"spotter_source_up{camera="front"} 0"#,
            r#"spotter_reports_lost_total{camera="front"} 5"#,
            r#"spotter_notices_total{camera="front",result="sent"} 9"#,
            r#"spotter_notices_total{camera="front",result="lost"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.contains(r#"bundle="a \"b\"\\\n"} 1"#), "{text}");
        for line in text.lines() {
            assert!(line.starts_with("# HELP spotter_") || line.starts_with("# TYPE spotter_") || line.contains("} "));
        }
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        for planted in [".spotter.prom.planted.tmp", "spotter.prom"] {
            std::os::unix::fs::symlink(at("precious"), at(planted)).unwrap();
            store::replace_volatile(&at("spotter.prom"), b"values").unwrap();
            assert_eq!(fs::read_to_string(at("precious")).unwrap(), "precious", "{planted}");
            assert!(at("spotter.prom").symlink_metadata().unwrap().is_file(), "{planted}");
            fs::remove_file(at("spotter.prom")).unwrap();
        }
    }

    #[test]
    fn the_file_exists_while_the_program_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spotter.prom");
        let config = config::Metrics { file: Some(path.clone()), camera: "front".to_owned() };
        assert!(Metrics::new(&config::Metrics::default()).is_none());
        let (metrics, stop) = (Metrics::new(&config).unwrap(), Stop::new());
        std::thread::scope(|scope| {
            let keeper = scope.spawn(|| metrics.run(&stop, &Heartbeat::new(None, Instant::now())));
            while !path.exists() && !keeper.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let found = fs::read_to_string(&path).and_then(|text| Ok((text, path.metadata()?.permissions().mode())));
            // Before anything can fail: the scope waits for the thread.
            stop.set();
            let (text, mode) = found.unwrap();
            assert!(text.contains("spotter_info{"), "{text}");
            assert_eq!(mode & 0o777, 0o644);
        });
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing is left");
    }
}
