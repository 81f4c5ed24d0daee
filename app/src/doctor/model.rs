//! Bundle, labels and label cache, and how fast they are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use spotter_engine::bundle::Bundle;
use spotter_engine::labels::Cache;
use spotter_engine::tower::TextTower;

use super::Findings;
use crate::bundles::{self, BUILT_IN};
use crate::config::Config;
use crate::embedder::{CACHE_BYTES_MAX, CACHE_FILE, Embedder};
use crate::{bench, compute, demo, store};

/// How long the speed is measured.
const BENCH_TIME: Duration = Duration::from_secs(2);

/// Below this nothing that moves is seen in time.
const USEFUL_HZ: f64 = 0.5;

/// What would run.
#[derive(Debug, Serialize)]
pub struct Model {
    /// A slot, or a bundle that the configuration names.
    place: String,
    name: String,
    bytes: u64,
    pub(super) sentences_cached: usize,
    pub(super) sentences_new: usize,
    pub(super) speed: Option<Speed>,
}

/// How fast it is, with frames as a 640 x 480 MJPEG camera gives them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Speed {
    /// Frames a second, one after the other.
    pub frames_hz: f64,
    /// Median time of a frame.
    pub frame_ms: f64,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), {:.1} MiB, whole", self.name, self.place, super::mib(self.bytes))
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} frames/s expected, {:.1} ms a frame (drawn shapes as 640x480 MJPEG)",
            self.frames_hz, self.frame_ms
        )
    }
}

pub(super) fn model(config: &Config, findings: &mut Findings) -> Option<Model> {
    let place = slots(config, findings);
    let todo = "copy or export the bundle again, or choose another one (`spotter bundle list`)";
    let examined = bundles::open(config).and_then(|bundle| {
        bundle.verify()?;
        Ok(Arc::new(bundle))
    });
    let bundle = match examined {
        Ok(bundle) => bundle,
        Err(error) => {
            findings.problem(format!("{error:#}"), todo);
            return None;
        }
    };
    let (sentences_cached, sentences_new) = labels(config, &bundle, findings);
    let speed = match speed(config, &bundle) {
        Ok(speed) => Some(speed),
        Err(error) => {
            findings.problem(format!("the bundle cannot be used: {error:#}"), todo);
            None
        }
    };
    if let Some(speed) = speed {
        judge(config, speed, findings);
    }
    let manifest = bundle.manifest();
    let bytes = manifest.files().iter().map(|file| file.bytes).sum();
    Some(Model { place, name: manifest.name.clone(), bytes, sentences_cached, sentences_new, speed })
}

/// Where the bundle comes from; finds slots that are damaged or were given up.
fn slots(config: &Config, findings: &mut Findings) -> String {
    if let Some(path) = &config.bundle {
        return path.display().to_string();
    }
    let Some(slots) = bundles::slots(config) else { return BUILT_IN.to_owned() };
    for name in slots.names().unwrap_or_default() {
        if let Err(error) = slots.open(&name).map_err(anyhow::Error::from).and_then(|bundle| Ok(bundle.verify()?)) {
            findings.problem(
                format!("slot {name}: {error:#}"),
                format!("remove it (`spotter bundle remove {name}`) and install it again"),
            );
        }
    }
    match slots.state() {
        Ok(state) => {
            if let Some(failed) = &state.failed {
                findings.note(
                    format!("the bundle {failed} was given up, since it could not be loaded"),
                    format!("`spotter bundle activate {failed}` tries it again and says why"),
                );
            }
            format!("slot {}", state.active)
        }
        // What opens the bundle finds the same, and says so.
        Err(_) => "slot ?".to_owned(),
    }
}

/// How many sentences are cached and how many are new; finds broken labels and a damaged cache.
fn labels(config: &Config, bundle: &Arc<Bundle>, findings: &mut Findings) -> (usize, usize) {
    let labels = match demo::labels(config, &bundle.manifest().templates) {
        Ok(labels) => labels,
        Err(problems) => {
            for problem in problems {
                findings
                    .problem(problem.to_string(), "mend the label file; a running program goes on with the old labels");
            }
            return (0, 0);
        }
    };
    if let Some(folder) = &config.state_dir {
        cache(&folder.join(CACHE_FILE), findings);
    }
    let Ok(threads) = compute::threads(1) else { return (0, 0) };
    let efforts = Embedder::new(Arc::clone(bundle), config.state_dir.as_deref(), &threads).count(&labels);
    let new: usize = efforts.iter().map(|effort| effort.embedded).sum();
    if new > 0
        && let Err(error) = TextTower::open(bundle, &threads)
    {
        findings.problem(format!("labels cannot be embedded: {error:#}"), "copy or export the bundle again");
    }
    (efforts.iter().map(|effort| effort.cached).sum(), new)
}

fn cache(path: &Path, findings: &mut Findings) {
    let error = match store::read_bounded(path, CACHE_BYTES_MAX) {
        Ok(bytes) => match Cache::decode(&bytes) {
            Ok(_) => return,
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => error.to_string(),
    };
    findings.note(
        format!("{}: the label cache is damaged: {error}", path.display()),
        "nothing: it is built anew; where that happens again, the flash is worn out",
    );
}

fn speed(config: &Config, bundle: &Bundle) -> Result<Speed> {
    let threads = compute::threads(config.inference.threads)?;
    bench::speed(bundle, &threads, BENCH_TIME)
}

/// Compares the speed with what is asked of camera and program.
fn judge(config: &Config, speed: Speed, findings: &mut Findings) {
    let wanted = if config.rate.max_fps > 0.0 { f64::from(config.rate.max_fps) } else { f64::from(config.capture.fps) };
    let hz = speed.frames_hz;
    if hz < USEFUL_HZ {
        findings.problem(
            format!("a frame takes {:.0} ms", speed.frame_ms),
            "use a smaller bundle, one exported with --weights int8 or a smaller --image-size",
        );
    } else if hz < wanted {
        findings.note(
            format!("{hz:.1} frames/s are expected, {wanted} are asked for; the others are dropped"),
            format!("set capture.fps near {:.0}, so that the camera gives no more than that", hz.ceil()),
        );
    }
}
