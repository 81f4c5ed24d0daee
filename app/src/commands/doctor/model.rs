//! Checks bundle, labels and label cache, and measures the speed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use spotter_engine::bundle::Bundle;
use spotter_engine::files;
use spotter_engine::labels::Cache;
use spotter_engine::tower::TextTower;

use super::Findings;
use super::system::{self, Memory};
use crate::bundles::{self, BUILT_IN};
use crate::commands::bench::{self, Speed};
use crate::config::Config;
use crate::labels::demo::{self, Scene};
use crate::labels::embedder::{CACHE_BYTES_MAX, CACHE_FILE, Embedder};
use crate::recognizer::{Recognizer, compute};

/// Duration of the speed measurement.
const BENCH_TIME: Duration = Duration::from_secs(2);

/// Lowest useful rate: below it, moving objects are missed.
const USEFUL_HZ: f64 = 0.5;

/// The bundle to run.
#[derive(Debug, Serialize)]
pub struct Model {
    /// The slot, or the path that the configuration names.
    place: String,
    name: String,
    bytes: u64,
    pub(super) sentences_cached: usize,
    pub(super) sentences_new: usize,
    pub(super) speed: Option<Speed>,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), {:.1} MiB, undamaged", self.name, self.place, super::mib(self.bytes))
    }
}

/// Examines bundle and labels, and measures speed and memory with both loaded.
pub(super) fn model(root: &Path, config: &Config, findings: &mut Findings) -> (Option<Model>, Memory) {
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
            return (None, system::memory(root, false, findings));
        }
    };
    let loaded = compute::threads(config.inference.threads).and_then(|threads| {
        let mut recognizer = Recognizer::open(&bundle, &threads)?;
        let speed = bench::speed(&mut recognizer, BENCH_TIME)?;
        Ok((recognizer, speed))
    });
    // Both towers stay loaded until the memory is measured, as at a start with new labels.
    let Labels { cached, new, tower } = labels(config, &bundle, findings);
    let memory = system::memory(root, loaded.is_ok(), findings);
    drop(tower);
    let speed = match loaded {
        Ok((_, speed)) => Some(speed),
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
    let (name, sentences_cached, sentences_new) = (manifest.name.clone(), cached, new);
    (Some(Model { place, name, bytes, sentences_cached, sentences_new, speed }), memory)
}

/// The origin of the bundle; reports slots that are damaged or were rolled back.
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
                    format!("the bundle {failed} was rolled back because it could not be loaded"),
                    format!("`spotter bundle activate {failed}` tries it again and tells why"),
                );
            }
            format!("slot {}", state.active)
        }
        // Opening the bundle reports the same error.
        Err(_) => "slot ?".to_owned(),
    }
}

/// Number of sentences.
#[derive(Default)]
struct Labels {
    cached: usize,
    new: usize,
    /// The text tower, if there are new sentences.
    tower: Option<TextTower>,
}

/// Counts sentences; reports broken labels and a damaged cache.
fn labels(config: &Config, bundle: &Arc<Bundle>, findings: &mut Findings) -> Labels {
    let labels = match demo::configured(config, Scene::expected(config), &bundle.manifest().templates) {
        Ok(file) => file.rows,
        Err(problems) => {
            for problem in problems {
                findings.problem(problem.to_string(), "correct the label file; a running program keeps the old labels");
            }
            return Labels::default();
        }
    };
    if let Some(folder) = &config.state_dir {
        cache(&folder.join(CACHE_FILE), findings);
    }
    let Ok(threads) = compute::threads(1) else { return Labels::default() };
    let efforts = Embedder::new(Arc::clone(bundle), config.state_dir.as_deref(), &threads).count(&labels);
    let new: usize = efforts.iter().map(|effort| effort.embedded).sum();
    let tower = (new > 0).then(|| TextTower::open(bundle, &threads)).transpose().unwrap_or_else(|error| {
        let error = anyhow::Error::from(error);
        findings.problem(format!("labels cannot be embedded: {error:#}"), "copy or export the bundle again");
        None
    });
    Labels { cached: efforts.iter().map(|effort| effort.cached).sum(), new, tower }
}

fn cache(path: &Path, findings: &mut Findings) {
    let error = match files::read(path, CACHE_BYTES_MAX) {
        Ok(bytes) => match Cache::decode(&bytes) {
            Ok(_) => return,
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => error.to_string(),
    };
    findings.note(
        format!("{}: the label cache is damaged: {error}", path.display()),
        "nothing: it is rebuilt; if that happens again, the flash may be worn out",
    );
}

/// Compares the speed with the configured rate.
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
            format!("{hz:.1} frames/s are expected, {wanted} are configured; the others are dropped"),
            format!("set capture.fps near {:.0}, so that the camera does not give more", hz.ceil()),
        );
    }
}
