//! `spotter bench`: how long each stage of the loop takes, how long loading, and how much memory.

pub(crate) mod memory;
pub mod tower;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use spotter_engine::console::write_line;

use crate::bundles;
use crate::recognizer::compute;
use crate::config::Config;
use crate::commands::doctor::Speed;
use crate::labels::embedder::embed_configured;
use crate::output::json::{self, ms};
use crate::recognizer::{Latency, Recognizer};
use crate::source::{self, CaptureOptions, Frame, PixelFormat, ShapesOptions, Source, Stop, Uri, draw_shapes};

/// Frames before the measured ones, for caches, clocks and buffers to settle.
const WARM_UP: usize = 10;

/// Different frames that stand for the camera, taken in turn.
const STAND_IN_FRAMES: u64 = 24;

/// JPEG quality that webcams use by default.
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

/// Measures `frames` frames of `uri`, or of drawn shapes as an MJPEG camera of 640 x 480 would give them.
pub fn run(config: &Config, uri: Option<&Uri>, frames: usize, json: bool, out: &mut dyn Write) -> Result<()> {
    let threads = compute::threads(config.inference.threads)?;
    let start = Instant::now();
    let bundle = Arc::new(bundles::open(config)?);
    let mut recognizer = Recognizer::open(&bundle, &threads)?;
    let load = start.elapsed();
    let labels = embed_configured(config, &bundle, &threads)?;

    let mut supply = Supply::open(uri, &config.capture.options())?;
    let (mut frame, stop) = (Frame::default(), Stop::new());
    let mut latencies = Vec::with_capacity(frames);
    for index in 0..WARM_UP + frames {
        supply.next(&mut frame, &stop)?;
        let decode = recognizer.decode(&frame)?;
        let mut latency = Latency { capture: frame.capture_time, decode, ..Latency::default() };
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

/// Measures frames as an MJPEG camera of 640 x 480 gives them, one after the other, for about `time`; labels take next to
/// nothing and are left out.
pub(crate) fn speed(recognizer: &mut Recognizer, time: Duration) -> Result<Speed> {
    let mut supply = Supply::open(None, &CaptureOptions::default())?;
    let (mut frame, stop) = (Frame::default(), Stop::new());
    let mut totals = Vec::new();
    let mut start = Instant::now();
    for index in 0.. {
        if index == WARM_UP {
            start = Instant::now();
        }
        // A model that is very slow is not warmed up for minutes.
        if index > 0 && start.elapsed() >= time {
            break;
        }
        supply.next(&mut frame, &stop)?;
        let mut latency = Latency { decode: recognizer.decode(&frame)?, ..Latency::default() };
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
    writeln!(out, "loaded in {load_ms:.0} ms; the total leaves capture out")?;
    match peak_rss_bytes {
        Some(bytes) => writeln!(out, "peak memory {:.1} MiB", *bytes as f64 / f64::from(1 << 20)),
        None => writeln!(out, "peak memory not known on this system"),
    }
}

impl Quantiles {
    /// By nearest rank.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |q: f64| times[((times.len() as f64 * q).ceil() as usize).clamp(1, times.len()) - 1];
        Self { median: ms(rank(0.5)), p95: ms(rank(0.95)), p99: ms(rank(0.99)) }
    }
}

/// Frames without end.
enum Supply<'a> {
    /// Frames that were encoded before the measurement.
    StandIn { frames: Vec<Vec<u8>>, next: usize },
    /// A source; one that ends is opened again.
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
