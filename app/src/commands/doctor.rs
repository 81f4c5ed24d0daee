//! `spotter doctor`: examines the board, its cameras and the model, and says what is wrong and what to do.

mod camera;
mod model;
mod system;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use spotter_engine::console::write_line;

use super::{ConfigArgs, exit_code};
use crate::board::governor::sensors::{self, Sensors};
use crate::config::{Config, Problem};
use crate::console::stdout;
use crate::output::json;

pub use camera::Camera;
pub use model::Model;
pub use system::{Cpu, Memory, Storage};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (config, problems) = self.config.load_or_default();
        Ok(exit_code(run(&config, &problems, Path::new("/"), self.json, &mut stdout())?))
    }
}

/// Past problems, one for each bit of a Raspberry Pi's throttling flags.
const PAST: [(u32, &str); 4] = [
    (16, "the supply voltage was too low"),
    (17, "the clock was capped"),
    (18, "it was throttled"),
    (19, "it was too hot"),
];

/// Result of the examination.
#[derive(Debug, Serialize)]
pub struct Checkup {
    version: &'static str,
    cpu: Cpu,
    /// C library and version.
    libc: String,
    memory: Memory,
    cameras: Vec<Camera>,
    heat: Heat,
    storage: Option<Storage>,
    model: Option<Model>,
    /// Problems and notes, with what to do.
    findings: Vec<Finding>,
}

/// Temperatures and firmware flags.
#[derive(Debug, Serialize)]
struct Heat {
    zones: Vec<Zone>,
    /// The Raspberry Pi's throttling flags.
    throttled: Option<u32>,
    /// True if the supply voltage is too low, on kernels without the flags.
    low_voltage: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Zone {
    name: String,
    celsius: f32,
    limit_c: f32,
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Spotter does not work, or works far below what the board can do.
    Problem,
    /// Worth knowing.
    Note,
}

/// A problem or a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Severity of a finding.
    pub severity: Severity,
    /// The finding.
    pub what: String,
    /// Advice.
    pub todo: String,
}

/// Collects findings.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn problem(&mut self, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Problem, what: what.into(), todo: todo.into() });
    }

    fn note(&mut self, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Note, what: what.into(), todo: todo.into() });
    }
}

/// Name of the board from its device tree, else of the CPU.
pub(super) fn board_name(root: &Path) -> Option<String> {
    system::model(root)
}

/// Examines everything and prints the result; returns the number of problems. `found` are the problems of the configuration
/// file; `config` has defaults in their place. Files of the system are read below `root`, which is `/` outside of tests.
pub fn run(config: &Config, found: &[Problem], root: &Path, json: bool, out: &mut dyn Write) -> Result<usize> {
    let mut findings = Findings::default();
    for problem in found {
        findings.problem(problem.to_string(), "correct the configuration; defaults were used for the wrong keys");
    }
    let (model, memory) = model::model(root, config, &mut findings);
    let checkup = Checkup {
        version: env!("CARGO_PKG_VERSION"),
        cpu: system::cpu(root, config, &mut findings),
        libc: system::libc(),
        cameras: camera::cameras(root, config, &mut findings),
        heat: heat(root, config, &mut findings),
        storage: system::storage(root, config.state_dir.as_deref(), &mut findings),
        model,
        memory,
        findings: Vec::new(),
    };
    system::metrics(root, config.metrics.file.as_deref(), &mut findings);
    let mut checkup = Checkup { findings: findings.0, ..checkup };
    checkup.findings.sort_by_key(|finding| finding.severity);
    let problems = checkup.findings.iter().filter(|finding| finding.severity == Severity::Problem).count();
    if json { json::write_line(out, &checkup) } else { print(out, &checkup, problems) }.context("standard output")?;
    Ok(problems)
}

/// Checks whether the board throttles itself, now or since it was started.
fn heat(root: &Path, config: &Config, findings: &mut Findings) -> Heat {
    let given = (config.rate.temperature_max_c > 0).then_some(config.rate.temperature_max_c as f32);
    let readings = Sensors::find(root, given).read(Instant::now());
    if let Some(flags) = readings.throttled {
        if let Some(why) = sensors::throttling(flags) {
            findings.problem(
                format!("the board's firmware throttles the CPU: {why}"),
                "use the power supply that was made for the board, and cool it",
            );
        }
        let past: Vec<_> = PAST.iter().filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, what)| *what).collect();
        if !past.is_empty() {
            findings.note(
                format!("since the board was started, {}", past.join(", ")),
                "use the power supply that was made for the board, and cool it",
            );
        }
    }
    if readings.low_voltage == Some(true) {
        findings.problem("the board's supply voltage is too low", "use the power supply that was made for the board");
    }
    for zone in readings.zones.iter().filter(|zone| zone.celsius >= zone.limit_c) {
        findings.problem(
            format!("{} is at {:.0} °C, where the rate is lowered", zone.name, zone.celsius),
            "cool the board, or configure fewer frames (rate.max_fps) or threads (inference.threads)",
        );
    }
    let zones = readings.zones.into_iter();
    Heat {
        zones: zones.map(|z| Zone { name: z.name, celsius: z.celsius, limit_c: z.limit_c }).collect(),
        throttled: readings.throttled,
        low_voltage: readings.low_voltage,
    }
}

fn print(out: &mut dyn Write, checkup: &Checkup, problems: usize) -> io::Result<()> {
    let Checkup { version, cpu, libc, memory, cameras, heat, storage, model, findings } = checkup;
    let mut row = |name: &str, text: String| write_line(out, format_args!("{name:10} {text}"));
    row("spotter", format!("{version}, {}", cpu.arch))?;
    row("board", cpu.model.clone().unwrap_or_else(|| "unknown".to_owned()))?;
    row("cpu", format!("{} cores, {}", cpu.cores, cpu.features.join(" ")))?;
    row("kernels", format!("{} of {}, {} threads", cpu.kernels, cpu.available_kernels.join(", "), cpu.threads))?;
    row("libc", libc.clone())?;
    row("memory", memory.to_string())?;
    for camera in cameras {
        row("camera", camera.to_string())?;
    }
    for zone in &heat.zones {
        row("heat", format!("{} {:.0} °C, limit {:.0} °C", zone.name, zone.celsius, zone.limit_c))?;
    }
    if let Some(flags) = heat.throttled {
        row("firmware", format!("throttled={flags:#x}"))?;
    }
    if let Some(storage) = storage {
        row("state", storage.to_string())?;
    }
    if let Some(model) = model {
        row("bundle", model.to_string())?;
        row("labels", format!("{} sentences cached, {} new", model.sentences_cached, model.sentences_new))?;
        if let Some(speed) = &model.speed {
            row("speed", speed.to_string())?;
        }
    }
    for Finding { severity, what, todo } in findings {
        let severity = if *severity == Severity::Problem { "problem" } else { "note" };
        writeln!(out)?;
        write_line(out, format_args!("{severity}: {what}"))?;
        write_line(out, format_args!("  to do: {todo}"))?;
    }
    match problems {
        0 => writeln!(out, "\nno problems"),
        1 => writeln!(out, "\n1 problem"),
        count => writeln!(out, "\n{count} problems"),
    }
}

/// Bytes in MiB.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// `path` below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
