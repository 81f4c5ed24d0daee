//! `spotter calibrate`: watches while nothing happens, and fits the thresholds to a rate of false alarms.

mod examples;
mod words;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use jiff::Timestamp;
use spotter_engine::decide::Moment;
use spotter_engine::decide::calibrate::Watch;
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::preprocess::PreprocessError;

use super::ConfigArgs;
use crate::board::signals;
use crate::bundles;
use crate::calibration::{Calibration, Made, chart};
use crate::config::{Config, all_of};
use crate::console::stdout;
use crate::labels::demo::{self, Scene};
use crate::labels::embedder::Embedder;
use crate::process::LoopControl;
use crate::recognizer::{Latency, Recognizer, compute};
use crate::source::{self, Frame, Source, Uri};
use crate::store;

/// Shortest watch that is fitted: in less there are no episodes to count.
const SECONDS_MIN: f64 = 10.0;

/// How often it is told how far the watch has come.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct Calibrate {
    #[command(flatten)]
    config: ConfigArgs,
    /// As for `run`; the calibration is this source's
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// Minutes to watch
    #[arg(long, value_name = "M", default_value_t = 10.0, value_parser = positive)]
    minutes: f64,
    /// Take the images of this folder instead, sorted by name, which the camera took while nothing happened
    #[arg(long, value_name = "FOLDER", conflicts_with = "minutes")]
    folder: Option<PathBuf>,
    /// Seconds from one image of the folder, or frame of a recording, to the next
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = positive)]
    interval_s: f64,
    /// Wanted false alarms a day, of all labels together
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = positive)]
    false_alarms_per_day: f64,
    /// Also say how many of these images are missed: a folder with a folder of images for each label
    #[arg(long, value_name = "FOLDER")]
    examples: Option<PathBuf>,
}

/// Parses a number above 0 that is no longer than a year of minutes.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 525_600.0 => Ok(number),
        _ => Err(format!("expected a number above 0 and up to 525600, found {text}")),
    }
}

impl Calibrate {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut config = self.config.load()?;
        config.source = self.source.unwrap_or(config.source);
        let uri = Uri::from_str(&config.source)?;
        let plan = Plan {
            uri: self.folder.map_or(uri, Uri::Images),
            seconds: self.minutes * 60.0,
            interval_s: self.interval_s,
            false_alarms_per_day: self.false_alarms_per_day,
        };
        let control = LoopControl::default();
        signals::handle(&control).context("cannot install the signal handlers")?;
        calibrate(&config, &plan, self.examples.as_deref(), &control, &mut stdout())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What is watched, and to what end.
struct Plan {
    uri: Uri,
    /// Seconds to watch; images are all taken.
    seconds: f64,
    interval_s: f64,
    false_alarms_per_day: f64,
}

fn calibrate(
    config: &Config,
    plan: &Plan,
    examples: Option<&Path>,
    control: &LoopControl,
    out: &mut dyn Write,
) -> Result<()> {
    let bundle = Arc::new(bundles::open(config)?);
    let threads = compute::threads(config.inference.threads)?;
    let opened = source::open(&plan.uri, &config.capture.options())?;
    let file = demo::configured(config, Scene::of(&opened.uri), &bundle.manifest().templates)
        .map_err(|problems| all_of(&problems))?;
    let mut embedder = Embedder::new(Arc::clone(&bundle), config.state_dir.as_deref(), &threads);
    let (labels, _) = embedder.embed(&file)?;
    let mut recognizer = Recognizer::open(&bundle, &threads)?;
    // Before the watch, which takes minutes: a folder that cannot be read is reported at once.
    let marked = examples.map(|folder| examples::find(folder, &file)).transpose()?;
    let mut watch = Watch::new(&file.rules, moment(Duration::ZERO));
    let source = watch_source(opened.source, plan, control, &mut recognizer, &labels, &mut watch)?;
    if control.stop.is_set() {
        bail!("stopped after {:.1} minutes of {source}: nothing is stored", watch.seconds() / 60.0);
    }
    if watch.seconds() < SECONDS_MIN {
        let found = watch.seconds();
        bail!("{source}: {found:.0} seconds; expected {SECONDS_MIN} or more, in which nothing happens");
    }
    let found = watch.fit(plan.false_alarms_per_day, &file.has_limits);
    let names: Vec<String> = (0..file.labels().len()).map(|label| file.full_name(label)).collect();
    let wanted = plan.false_alarms_per_day;
    words::tell(out, &source, &watch, &names, &file.rules, &found, wanted).context("standard output")?;
    if let Some(marked) = marked {
        let missed = examples::count(&marked, &mut recognizer, &labels, &file.rules, &found)?;
        words::tell_missed(out, &names, &missed).context("standard output")?;
    }
    let Some(state_dir) = &config.state_dir else {
        return words::tell_not_stored(out).context("standard output");
    };
    let made = Made { minutes: watch.seconds() / 60.0, false_alarms_per_day: wanted };
    let path = Calibration::new(config, bundle.manifest(), &file, &found, made).store(state_dir)?;
    let svg = path.with_extension("svg");
    let title = format!("Thresholds of {}: before (hollow) and after (full)", Uri::shown(&config.source));
    store::replace_state_file(&svg, chart::draw(&title, &names, &file.rules, &found).as_bytes())
        .with_context(|| format!("{}: cannot write", svg.display()))?;
    words::tell_stored(out, &path, &svg, &Uri::shown(&config.source)).context("standard output")
}

/// Shows the open source to `watch` until it has seen enough, and returns what the source is. Broken frames are skipped.
fn watch_source(
    mut source: Box<dyn Source>,
    plan: &Plan,
    control: &LoopControl,
    recognizer: &mut Recognizer,
    labels: &LabelEmbeddings,
    watch: &mut Watch,
) -> Result<String> {
    let (described, is_live) = (source.describe(), source.is_live());
    let is_recording = matches!(plan.uri, Uri::Images(_) | Uri::Video(_));
    let (mut frame, begun, mut told) = (Frame::default(), Instant::now(), Instant::now());
    for number in 0_u64.. {
        if control.stop.is_set() || (!is_recording && watch.seconds() >= plan.seconds) {
            break;
        }
        frame.reset(number);
        let next = source.next(&mut frame, &control.stop);
        let minutes = watch.seconds() / 60.0;
        if !next.with_context(|| format!("after {minutes:.1} minutes, of which nothing is stored"))? {
            break;
        }
        let mut latency = Latency::of(&frame);
        if let Err(error) = recognizer.decode(&frame, &mut latency) {
            log::warn!("skipped: {error}");
            continue;
        }
        let scores = match recognizer.recognize(labels, &mut latency) {
            Err(error) if error.is::<PreprocessError>() => {
                log::warn!("skipped: {error:#}");
                continue;
            }
            scores => scores?,
        };
        let elapsed = match is_live {
            true => frame.captured.saturating_duration_since(begun),
            false => Duration::from_secs_f64(number as f64 * plan.interval_s),
        };
        watch.frame(moment(elapsed), scores.iter().map(|score| (score.label, score.probability)));
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            log::info!("{:.0} of {:.0} minutes watched", watch.seconds() / 60.0, plan.seconds / 60.0);
        }
    }
    Ok(described)
}

fn moment(elapsed: Duration) -> Moment {
    Moment { elapsed, unix_us: Timestamp::now().as_microsecond() }
}
