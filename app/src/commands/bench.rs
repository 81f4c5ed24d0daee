//! `spotter bench`: measures the stages of the loop, loading, and memory.

mod tower;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;
use spotter_engine::console::write_line;

use self::tower::Tower;
use super::ConfigArgs;
use crate::bundles;
use crate::config::Config;
use crate::console::stdout;
use crate::labels::demo::Scene;
use crate::labels::embedder::embed_configured;
use crate::output::json::{self, ms};
use crate::process::{Stop, memory};
use crate::recognizer::{Latency, Recognizer, compute};
use crate::source::{self, CaptureOptions, Frame, PixelFormat, ShapesOptions, Source, Uri, draw_shapes};

#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Threads that compute the towers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,
    /// Frames to measure
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// Source of the frames; by default drawn shapes, encoded like those of a 640 x 480 MJPEG camera
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    #[command(flatten)]
    single: SingleTower,
}

#[derive(Debug, Args)]
struct SingleTower {
    /// Measure this tower by itself
    #[arg(long, value_enum, ignore_case = true)]
    tower: Option<Tower>,
    /// List the tower's steps: what was fused, or why not, and the time of each
    #[arg(long)]
    explain: bool,
    /// Compare the time of each kind of step with the peak performance of this CPU
    #[arg(long, conflicts_with = "explain")]
    roofline: bool,
    /// Read numbers of passes from standard input and answer each with a line of times
    #[arg(long, requires = "tower", conflicts_with_all = ["explain", "roofline"])]
    stdin: bool,
    /// Read pixels or prompts from standard input and answer each with its embedding
    #[arg(long, requires = "tower", conflicts_with_all = ["explain", "roofline", "stdin"])]
    embed: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut config = self.config.load()?;
        config.inference.threads = self.threads.map_or(config.inference.threads, |n| n as usize);
        if !self.single.run(&config)? {
            let source = self.source.as_deref().map(Uri::from_str).transpose()?;
            measure(&config, source.as_ref(), self.frames as usize, self.json, &mut stdout())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl SingleTower {
    /// Does what the arguments ask of a single tower; `false` if they ask nothing.
    fn run(&self, config: &Config) -> Result<bool> {
        let tower = self.tower.unwrap_or(Tower::Image);
        let (mut input, mut out) = (io::stdin().lock(), stdout());
        let threads = compute::threads(config.inference.threads)?;
        let bundle = bundles::open(config)?;
        match self {
            Self { explain: true, .. } => tower::explain(tower, &bundle, &threads, &mut out)?,
            Self { roofline: true, .. } => tower::roofline(tower, &bundle, &threads, &mut out)?,
            Self { stdin: true, .. } => tower::serve(tower, &bundle, &threads, &mut input, &mut out)?,
            Self { embed: true, .. } => tower::embed(tower, &bundle, &threads, &mut input, &mut out)?,
            Self { tower: Some(_), .. } => tower::explain(tower, &bundle, &threads, &mut out)?,
            Self { tower: None, .. } => return Ok(false),
        }
        Ok(true)
    }
}

/// Speed of a bundle with frames like those of a 640 x 480 MJPEG camera.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Speed {
    /// Frames a second, one after the other.
    pub(super) frames_hz: f64,
    /// Median time of a frame.
    pub(super) frame_ms: f64,
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

/// Frames before the measured ones, so that caches, clocks and buffers settle.
const WARM_UP: usize = 10;

/// Number of different frames that stand in for the camera.
const STAND_IN_FRAMES: u64 = 24;

/// Default JPEG quality of webcams.
const JPEG_QUALITY: u8 = 80;

#[derive(Serialize)]
struct Results {
    source: String,
    frames: usize,
    labels: usize,
    threads: usize,
    load_ms: f64,
    peak_rss_bytes: Option<u64>,
    stages_ms: Stages,
}

#[derive(Serialize)]
struct Stages {
    capture: Quantiles,
    decode: Quantiles,
    preprocess: Quantiles,
    tower: Quantiles,
    score: Quantiles,
    total: Quantiles,
}

#[derive(Serialize)]
struct Quantiles {
    median: f64,
    p95: f64,
    p99: f64,
}

/// Measures `frames` frames of `uri`, or of drawn shapes like those of a 640 x 480 MJPEG camera.
fn measure(config: &Config, uri: Option<&Uri>, frames: usize, json: bool, out: &mut dyn Write) -> Result<()> {
    let threads = compute::threads(config.inference.threads)?;
    let start = Instant::now();
    let bundle = Arc::new(bundles::open(config)?);
    let mut recognizer = Recognizer::open(&bundle, &threads)?;
    let load = start.elapsed();
    let labels = embed_configured(config, Scene::expected(config), &bundle, &threads)?;

    let mut supply = Supply::open(uri, &config.capture.options())?;
    let (mut frame, stop) = (Frame::default(), Stop::new());
    let mut latencies = Vec::with_capacity(frames);
    for index in 0..WARM_UP + frames {
        supply.next(&mut frame, &stop)?;
        let mut latency = Latency::of(&frame);
        recognizer.decode(&frame, &mut latency)?;
        recognizer.recognize(&labels, &mut latency)?;
        if index >= WARM_UP {
            latencies.push(latency);
        }
    }
    let of = |stage: fn(&Latency) -> Duration| Quantiles::of(latencies.iter().map(stage).collect());
    let results = Results {
        source: supply.describe(),
        frames,
        labels: labels.names().len(),
        threads: threads.count(),
        load_ms: ms(load),
        peak_rss_bytes: memory::peak_rss_bytes(),
        stages_ms: Stages {
            capture: of(|l| l.capture),
            decode: of(|l| l.decode),
            preprocess: of(|l| l.preprocess),
            tower: of(|l| l.tower),
            score: of(|l| l.score),
            total: of(Latency::total),
        },
    };
    if json { json::write_line(out, &results) } else { table(out, &results) }.context("standard output")
}

/// Measures frames like those of a 640 x 480 MJPEG camera, one after the other, for about `time`. Labels take hardly any time
/// and are left out.
pub(super) fn speed(recognizer: &mut Recognizer, time: Duration) -> Result<Speed> {
    let mut supply = Supply::open(None, &CaptureOptions::default())?;
    let (mut frame, stop) = (Frame::default(), Stop::new());
    let mut totals = Vec::new();
    let mut start = Instant::now();
    for index in 0.. {
        if index == WARM_UP {
            start = Instant::now();
        }
        // No long warm-up for a very slow model.
        if index > 0 && start.elapsed() >= time {
            break;
        }
        supply.next(&mut frame, &stop)?;
        let mut latency = Latency::of(&frame);
        recognizer.decode(&frame, &mut latency)?;
        recognizer.embed(&mut latency)?;
        if index == 0 || index == WARM_UP {
            totals.clear();
        }
        totals.push(latency.total());
    }
    let frame_ms = Quantiles::of(totals).median;
    Ok(Speed { frames_hz: 1000.0 / frame_ms.max(1e-3), frame_ms })
}

fn table(out: &mut dyn Write, results: &Results) -> std::io::Result<()> {
    let Results { source, frames, labels, threads, load_ms, peak_rss_bytes, stages_ms: stages } = results;
    write_line(out, format_args!("{source}: {frames} frames, {labels} labels, {threads} threads"))?;
    writeln!(out, "{:12} {:>10} {:>10} {:>10}", "stage", "median ms", "p95 ms", "p99 ms")?;
    let rows = [
        ("capture", &stages.capture),
        ("decode", &stages.decode),
        ("preprocess", &stages.preprocess),
        ("image tower", &stages.tower),
        ("score", &stages.score),
        ("total", &stages.total),
    ];
    for (name, Quantiles { median, p95, p99 }) in rows {
        writeln!(out, "{name:12} {median:10.3} {p95:10.3} {p99:10.3}")?;
    }
    writeln!(out, "loaded in {load_ms:.0} ms; the total does not include capture")?;
    match peak_rss_bytes {
        Some(bytes) => writeln!(out, "peak memory {:.1} MiB", *bytes as f64 / f64::from(1 << 20)),
        None => writeln!(out, "peak memory unknown on this system"),
    }
}

impl Quantiles {
    /// Quantiles by the nearest-rank method.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |q: f64| times[((times.len() as f64 * q).ceil() as usize).clamp(1, times.len()) - 1];
        Self { median: ms(rank(0.5)), p95: ms(rank(0.95)), p99: ms(rank(0.99)) }
    }
}

/// An endless supply of frames.
enum Supply<'a> {
    /// Frames that were encoded beforehand.
    StandIn { frames: Vec<Vec<u8>>, next: usize },
    /// A source, which is reopened when it ends.
    Source { source: Box<dyn Source>, uri: &'a Uri, options: CaptureOptions },
}

impl<'a> Supply<'a> {
    fn open(uri: Option<&'a Uri>, options: &CaptureOptions) -> Result<Self> {
        Ok(match uri {
            Some(uri) => Self::Source { source: source::open(uri, options)?.source, uri, options: options.clone() },
            None => Self::StandIn { frames: stand_in()?, next: 0 },
        })
    }

    fn describe(&self) -> String {
        match self {
            Self::StandIn { .. } => "drawn shapes as 640x480 MJPEG".to_owned(),
            Self::Source { source, .. } => source.describe(),
        }
    }

    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<()> {
        match self {
            Self::StandIn { frames, next } => {
                let start = Instant::now();
                frame.bytes.clear();
                frame.bytes.extend_from_slice(&frames[*next]);
                frame.format = PixelFormat::Mjpeg;
                frame.capture_time = start.elapsed();
                *next = (*next + 1) % frames.len();
            }
            Self::Source { source, uri, options } => {
                if !source.next(frame, stop)? {
                    *source = source::open(uri, options)?.source;
                    if !source.next(frame, stop)? {
                        bail!("{}: no frame to measure", source.describe());
                    }
                }
            }
        }
        Ok(())
    }
}

fn stand_in() -> Result<Vec<Vec<u8>>> {
    let options = ShapesOptions { hold: 1, ..ShapesOptions::default() };
    let mut rgb = Vec::new();
    (0..STAND_IN_FRAMES)
        .map(|number| {
            draw_shapes(&options, number, &mut rgb);
            let mut jpeg = Vec::new();
            let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY);
            let (width, height) = (u32::try_from(options.width)?, u32::try_from(options.height)?);
            image::ImageEncoder::write_image(encoder, &rgb, width, height, image::ExtendedColorType::Rgb8)?;
            Ok(jpeg)
        })
        .collect()
}
