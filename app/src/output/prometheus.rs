//! Figures of the running loop in a file, in Prometheus's text format, for the textfile collector of its node exporter.
//!
//! The file is written whole, every few seconds, by a thread of its own, and removed at the end. It is meant for a folder
//! in memory, such as `/run/spotter`, so nothing is synced to a disk.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use spotter_engine::files::folder_of;
use spotter_engine::labels::LabelEmbeddings;
use spotter_engine::score::Score;

use crate::config;
use crate::recognizer::Latency;
use crate::source::Stop;
use crate::store;
use crate::process::supervise::{Heartbeat, fault_point};

/// Prometheus asks every 15 seconds to a minute.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Writing the file takes less.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(10);

/// The names of the stages, as in a report.
const STAGES: [&str; 5] = ["capture", "decode", "preprocess", "tower", "score"];

/// The file, and what is to be in it.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    camera: String,
    figures: Mutex<Figures>,
}

/// How the loop is doing.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Frames that were looked at.
    pub(crate) labelled: u64,
    /// Frames that showed the same as the one before.
    pub(crate) unchanged: u64,
    /// Frames that were broken.
    pub(crate) skipped: u64,
    /// Frames that came too soon after another.
    pub(crate) dropped: u64,
    /// Reports that standard output was too slow for.
    pub(crate) reports_lost: u64,
    /// Time spent in each stage.
    pub(crate) stages: [Duration; 5],
    /// Labelled frames a second, smoothed.
    pub(crate) rate_hz: f32,
    /// Frames a second that are allowed.
    pub(crate) limit_hz: Option<f32>,
    /// Whether the governor holds the rate down.
    pub(crate) held: bool,
    /// Whether the source gives frames.
    pub(crate) source_up: bool,
    /// The bundle that runs.
    pub(crate) bundle: String,
    /// The labels shown of the last frame.
    pub(crate) labels: Option<Arc<LabelEmbeddings>>,
    pub(crate) scores: Vec<Score>,
}

impl Figures {
    /// Adds what a frame took.
    pub(crate) fn add(&mut self, latency: &Latency) {
        let Latency { capture, decode, preprocess, tower, score } = *latency;
        for (sum, time) in self.stages.iter_mut().zip([capture, decode, preprocess, tower, score]) {
            *sum += time;
        }
    }
}

impl Metrics {
    /// Those that the configuration asks for, if any.
    pub(crate) fn new(config: &config::Metrics) -> Option<Self> {
        let path = config.file.clone()?;
        Some(Self { path, camera: config.camera.clone(), figures: Mutex::default() })
    }

    /// Changes the figures, between two frames.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes the file now and then until `stop` is set, and removes it: figures of a program that has ended mislead.
    pub(crate) fn keep(&self, stop: &Stop, beat: &Heartbeat) {
        let mut text = String::new();
        let mut warned = false;
        loop {
            beat.beat(Instant::now());
            text.clear();
            self.change(|figures| {
                // Writing to a String cannot fail.
                let _ = render(&mut text, &self.camera, figures);
            });
            if let Err(error) = store::replace_figures(&self.path, text.as_bytes())
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

/// Why the file of figures could not be written, as far as that can be told without writing; nothing where it can be, or
/// none is wanted.
pub(crate) fn problem(config: &config::Metrics) -> Option<String> {
    let path = config.file.as_deref()?;
    let folder = folder_of(path);
    let (file, folder_shown) = (path.display(), folder.display());
    match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
            "metrics.file {file}: the folder {folder_shown} is not there: make it, or name another one (systemd makes \
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

fn render(out: &mut String, camera: &str, figures: &Figures) -> fmt::Result {
    let camera = escaped(camera);
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        writeln!(out, "# HELP spotter_{name} {help}\n# TYPE spotter_{name} {kind}")
    };
    head(out, "info", "gauge", "Version and bundle; always 1.")?;
    let (version, bundle) = (env!("CARGO_PKG_VERSION"), escaped(&figures.bundle));
    writeln!(out, "spotter_info{{camera=\"{camera}\",version=\"{version}\",bundle=\"{bundle}\"}} 1")?;
    head(out, "source_up", "gauge", "0 while the source is lost, else 1.")?;
    writeln!(out, "spotter_source_up{{camera=\"{camera}\"}} {}", u8::from(figures.source_up))?;
    head(out, "frames_total", "counter", "Frames, by what became of them.")?;
    let Figures { labelled, unchanged, skipped, dropped, .. } = *figures;
    for (result, count) in
        [("labelled", labelled), ("unchanged", unchanged), ("skipped", skipped), ("dropped", dropped)]
    {
        writeln!(out, "spotter_frames_total{{camera=\"{camera}\",result=\"{result}\"}} {count}")?;
    }
    head(out, "reports_lost_total", "counter", "Reports that standard output was too slow for.")?;
    writeln!(out, "spotter_reports_lost_total{{camera=\"{camera}\"}} {}", figures.reports_lost)?;
    head(out, "stage_seconds_total", "counter", "Time spent in each stage of labelled frames.")?;
    for (stage, time) in STAGES.iter().zip(figures.stages) {
        writeln!(out, "spotter_stage_seconds_total{{camera=\"{camera}\",stage=\"{stage}\"}} {}", time.as_secs_f64())?;
    }
    head(out, "frame_rate_hertz", "gauge", "Labelled frames a second, of late.")?;
    writeln!(out, "spotter_frame_rate_hertz{{camera=\"{camera}\"}} {}", figures.rate_hz)?;
    head(out, "frame_rate_limit_hertz", "gauge", "Labelled frames a second that are allowed; +Inf for any number.")?;
    let limit = figures.limit_hz.map_or_else(|| "+Inf".to_owned(), |hz| hz.to_string());
    writeln!(out, "spotter_frame_rate_limit_hertz{{camera=\"{camera}\"}} {limit}")?;
    head(out, "frame_rate_held", "gauge", "Whether heat, firmware or CPU quota hold the rate down.")?;
    writeln!(out, "spotter_frame_rate_held{{camera=\"{camera}\"}} {}", u8::from(figures.held))?;
    if let Some(labels) = &figures.labels {
        head(out, "label_probability", "gauge", "Probability of the labels shown of the last frame.")?;
        for score in &figures.scores {
            let (label, value) = (escaped(&labels.names()[score.label]), score.probability);
            writeln!(out, "spotter_label_probability{{camera=\"{camera}\",label=\"{label}\"}} {value}")?;
        }
    }
    Ok(())
}

/// A label's value, as it stands between quotation marks.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn figures_are_in_the_text_format() {
        let mut figures =
            Figures { labelled: 7, dropped: 3, reports_lost: 5, rate_hz: 2.5, held: true, ..Figures::default() };
        figures.bundle = "a \"b\"\\\n".to_owned();
        figures.add(&Latency { tower: Duration::from_millis(250), ..Latency::default() });
        let mut text = String::new();
        render(&mut text, "front", &figures).unwrap();
        for line in [
            r#"spotter_frames_total{camera="front",result="labelled"} 7"#,
            r#"spotter_frames_total{camera="front",result="dropped"} 3"#,
            r#"spotter_stage_seconds_total{camera="front",stage="tower"} 0.25"#,
            r#"spotter_frame_rate_hertz{camera="front"} 2.5"#,
            r#"spotter_frame_rate_limit_hertz{camera="front"} +Inf"#,
            r#"spotter_frame_rate_held{camera="front"} 1"#,
            r#"spotter_source_up{camera="front"} 0"#,
            r#"spotter_reports_lost_total{camera="front"} 5"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.contains(r#"bundle="a \"b\"\\\n"} 1"#), "{text}");
        for line in text.lines() {
            assert!(line.starts_with("# HELP spotter_") || line.starts_with("# TYPE spotter_") || line.contains("} "));
        }
    }

    #[test]
    fn a_link_in_the_place_of_the_file_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        for planted in [".spotter.prom.planted.tmp", "spotter.prom"] {
            std::os::unix::fs::symlink(at("precious"), at(planted)).unwrap();
            store::replace_figures(&at("spotter.prom"), b"figures").unwrap();
            assert_eq!(fs::read_to_string(at("precious")).unwrap(), "precious", "{planted}");
            assert!(at("spotter.prom").symlink_metadata().unwrap().is_file(), "{planted}");
            fs::remove_file(at("spotter.prom")).unwrap();
        }
    }

    #[test]
    fn the_file_is_there_while_the_program_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spotter.prom");
        let config = config::Metrics { file: Some(path.clone()), camera: "front".to_owned() };
        assert!(Metrics::new(&config::Metrics::default()).is_none());
        let (metrics, stop) = (Metrics::new(&config).unwrap(), Stop::new());
        std::thread::scope(|scope| {
            let keeper = scope.spawn(|| metrics.keep(&stop, &Heartbeat::new(None, Instant::now())));
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
