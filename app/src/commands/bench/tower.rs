//! `spotter bench --tower`: measures one tower by itself, to compare it with other runtimes and to find where time goes.

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use spotter_engine::bundle::Bundle;
use spotter_engine::console;
use spotter_engine::tokenize::Encoding;
use spotter_engine::tower::{ImageTower, Profile, TextTower, Threads, Work};

use crate::output::json::write_line;
use crate::process::memory;

/// Tokens of the prompt that is measured: those of a caption or a long prompt.
const TOKENS: usize = 32;

/// Number of passes of a profile, which reports medians.
const PROFILE_PASSES: usize = 31;

/// A tower of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Tower {
    /// Images to embeddings
    Image,
    /// Prompts to embeddings
    Text,
}

/// A loaded tower with an input to run.
enum Loaded {
    Image { tower: ImageTower, pixels: Vec<f32> },
    Text { tower: Box<TextTower>, encoding: Encoding },
}

impl Loaded {
    fn open(tower: Tower, bundle: &Bundle, threads: &Threads) -> Result<Self> {
        let manifest = bundle.manifest();
        Ok(match tower {
            Tower::Image => {
                let [height, width] = manifest.image_size();
                Self::Image { tower: ImageTower::open(bundle, threads)?, pixels: noise(3 * height * width) }
            }
            Tower::Text => {
                let tower = Box::new(TextTower::open(bundle, threads)?);
                let length = TOKENS.min(manifest.tokenizer.max_length);
                // The ids do not matter for the time.
                let ids: Vec<i64> = (1..=length as i64).collect();
                let position_ids = tower.tokenizer().position_ids(&ids);
                let encoding = Encoding { ids, mask: vec![1; length], type_ids: vec![0; length], position_ids };
                Self::Text { tower, encoding }
            }
        })
    }

    fn run(&mut self, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Image { tower, pixels } => tower.embed_into(pixels, out)?,
            Self::Text { tower, encoding } => tower.embed_encoding_into(encoding, out)?,
        }
        Ok(())
    }

    fn profile(&self, clock: &(dyn Fn() -> u64 + Sync)) -> Result<Profile> {
        Ok(match self {
            Self::Image { tower, pixels } => tower.profile(pixels, clock)?,
            Self::Text { tower, encoding } => tower.profile(encoding, clock)?,
        })
    }
}

/// Pseudo-random values between -2 and 2, like those of normalised pixels.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        // The linear congruential generator of Numerical Recipes, whose upper bits are good enough here.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    kernels: String,
    threads: usize,
    /// From the first byte read to the first embedding.
    load_ms: f64,
    peak_rss_bytes: Option<u64>,
    rss_bytes: Option<u64>,
    file_bytes: u64,
}

#[derive(Serialize)]
struct Passes {
    ms: Vec<f64>,
}

/// Loads one tower and reports that in a line of JSON. Then reads a number of passes from each line and answers with the times
/// of that many passes, until the input ends.
pub(super) fn serve(
    tower: Tower,
    bundle: &Bundle,
    threads: &Threads,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<()> {
    let start = Instant::now();
    let mut loaded = Loaded::open(tower, bundle, threads)?;
    let mut embedding = vec![0.0; bundle.manifest().projection_dim];
    loaded.run(&mut embedding)?;
    let file = match tower {
        Tower::Image => &bundle.manifest().vision.file,
        Tower::Text => &bundle.manifest().text.file,
    };
    let ready = Ready {
        ready: true,
        kernels: threads.kernels().to_owned(),
        threads: threads.count(),
        load_ms: start.elapsed().as_secs_f64() * 1e3,
        peak_rss_bytes: memory::peak_rss_bytes(),
        rss_bytes: memory::rss_bytes(),
        file_bytes: file.bytes,
    };
    write_line(out, &ready).and_then(|()| out.flush()).context("standard output")?;
    for line in input.lines() {
        let line = line.context("standard input")?;
        let count: usize = line.trim().parse().with_context(|| format!("{line:?} is not a number of passes"))?;
        let mut ms = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            loaded.run(&mut embedding)?;
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        write_line(out, &Passes { ms }).and_then(|()| out.flush()).context("standard output")?;
    }
    Ok(())
}

/// Reads inputs and writes an embedding for each, until the input ends: for the image tower pixels and embeddings as
/// little-endian 32-bit floats; for the text tower one prompt a line, and a line of JSON.
pub(super) fn embed(
    tower: Tower,
    bundle: &Bundle,
    threads: &Threads,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<()> {
    match Loaded::open(tower, bundle, threads)? {
        Loaded::Image { tower, mut pixels } => {
            let mut bytes = vec![0; pixels.len() * 4];
            while !input.fill_buf().context("standard input")?.is_empty() {
                input.read_exact(&mut bytes).context("standard input ends within an image")?;
                for (pixel, bytes) in pixels.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *pixel = f32::from_le_bytes(*bytes);
                }
                let embedding = tower.embed(&pixels)?;
                let bytes: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
                out.write_all(&bytes).and_then(|()| out.flush()).context("standard output")?;
            }
        }
        Loaded::Text { mut tower, .. } => {
            for line in input.lines() {
                let embedding = tower.embed(&line.context("standard input")?)?;
                write_line(out, &embedding).and_then(|()| out.flush()).context("standard output")?;
            }
        }
    }
    Ok(())
}

/// One step of a tower with its median time.
struct Row {
    name: String,
    kind: String,
    work: Work,
    ns: u64,
}

fn measure(loaded: &Loaded) -> Result<(Profile, Vec<Row>)> {
    let start = Instant::now();
    let clock = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let profiles = (0..PROFILE_PASSES).map(|_| loaded.profile(&clock)).collect::<Result<Vec<_>>>()?;
    let Some(first) = profiles.first() else { bail!("nothing was measured") };
    let rows = first.layers.iter().enumerate().map(|(index, layer)| {
        let mut times: Vec<_> = profiles.iter().map(|profile| profile.layers[index].time_ns).collect();
        times.sort_unstable();
        Row { name: layer.name.clone(), kind: layer.kind.clone(), work: layer.work, ns: times[times.len() / 2] }
    });
    Ok((first.clone(), rows.collect()))
}

/// Prints for each step of the tower what it was fused to and how long it takes on one thread, or why the tower is run by
/// tract.
pub(super) fn explain(tower: Tower, bundle: &Bundle, threads: &Threads, out: &mut dyn Write) -> Result<()> {
    let (profile, rows) = measure(&Loaded::open(tower, bundle, threads)?)?;
    let mut print = || -> std::io::Result<()> {
        if let Some(why) = &profile.unfused {
            console::write_line(out, format_args!("not fused, run by tract node by node, because of {why}"))?;
            console::write_line(out, format_args!("{:24} node", "operator"))?;
            return rows
                .iter()
                .try_for_each(|row| console::write_line(out, format_args!("{:24} {}", row.kind, row.name)));
        }
        let total: u64 = rows.iter().map(|row| row.ns).sum();
        console::write_line(
            out,
            format_args!("fused, kernels {}, one thread, medians of {PROFILE_PASSES} passes", profile.kernels),
        )?;
        console::write_line(out, format_args!("{:>9} {:>6} {:>8}  {:20} ends in", "us", "%", "Gop/s", "step"))?;
        for row in &rows {
            let share = 100.0 * row.ns as f64 / total.max(1) as f64;
            let us = row.ns as f64 / 1e3;
            console::write_line(
                out,
                format_args!("{us:9.1} {share:6.2} {:>8}  {:20} {}", rate(row), row.kind, row.name),
            )?;
        }
        console::write_line(out, format_args!("{:9.1} in all", total as f64 / 1e3))
    };
    print().context("standard output")
}

fn rate(row: &Row) -> String {
    match row.work {
        Work::Int8(count) | Work::Float(count) => format!("{:.0}", count as f64 / row.ns.max(1) as f64),
        Work::Other => String::new(),
    }
}

/// Measures the peak int8 and float performance of this CPU, and the share of it that each kind of step reaches.
pub(super) fn roofline(tower: Tower, bundle: &Bundle, threads: &Threads, out: &mut dyn Write) -> Result<()> {
    let (profile, rows) = measure(&Loaded::open(tower, bundle, threads)?)?;
    let peaks = Peaks::measure(threads);
    let mut kinds: Vec<Kind> = Vec::new();
    for row in &rows {
        let kind = match kinds.iter().position(|kind| kind.name == row.kind) {
            Some(index) => &mut kinds[index],
            None => {
                kinds.push(Kind { name: row.kind.clone(), ..Kind::default() });
                let last = kinds.len() - 1;
                &mut kinds[last]
            }
        };
        kind.ns += row.ns as f64;
        match row.work {
            Work::Int8(count) => kind.floor_ns += count as f64 / peaks.int8,
            Work::Float(count) => kind.floor_ns += count as f64 / peaks.float,
            Work::Other => {}
        }
    }
    let mut print = || -> std::io::Result<()> {
        if let Some(why) = &profile.unfused {
            return console::write_line(out, format_args!("not fused, run by tract node by node, because of {why}"));
        }
        console::write_line(out, format_args!("kernels {}, one thread", profile.kernels))?;
        console::write_line(out, format_args!("peak: {:.0} Gop/s of int8, {:.0} Gflop/s", peaks.int8, peaks.float))?;
        console::write_line(out, format_args!("{:22} {:>10} {:>12} {:>8}", "step", "us", "at peak us", "share"))?;
        let (mut total, mut floor) = (0.0, 0.0);
        for Kind { name, ns, floor_ns } in &kinds {
            let share = if *floor_ns > 0.0 { format!("{:.0} %", 100.0 * floor_ns / ns) } else { String::new() };
            console::write_line(out, format_args!("{name:22} {:10.1} {:12.1} {share:>8}", ns / 1e3, floor_ns / 1e3))?;
            (total, floor) = (total + ns, floor + floor_ns);
        }
        console::write_line(
            out,
            format_args!("{:22} {:10.1} {:12.1} {:7.0} %", "all", total / 1e3, floor / 1e3, 100.0 * floor / total),
        )
    };
    print().context("standard output")
}

#[derive(Default)]
struct Kind {
    name: String,
    ns: f64,
    floor_ns: f64,
}

/// Operations per nanosecond of one thread.
struct Peaks {
    int8: f64,
    float: f64,
}

impl Peaks {
    /// The best of several short runs, so that other load does not count.
    fn measure(threads: &Threads) -> Self {
        let best = |run: &dyn Fn() -> u64| {
            (0..20).fold(0.0f64, |best, _| {
                let start = Instant::now();
                let count = run();
                best.max(count as f64 / start.elapsed().as_nanos().max(1) as f64)
            })
        };
        Self { int8: best(&|| threads.peak_int8()), float: best(&|| threads.peak_float()) }
    }
}
