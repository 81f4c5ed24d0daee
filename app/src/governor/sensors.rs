//! What the board says of its heat, its firmware and the CPU time it grants.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A Raspberry Pi's firmware begins to slow the CPU down at 80 °C, and tells the kernel of no such temperature.
const PI_THROTTLES_C: f32 = 80.0;

/// The rate is held this far below the temperature at which the board slows itself down.
const MARGIN_C: f32 = 5.0;

/// Trip points outside of this are placeholders.
const PLAUSIBLE_C: std::ops::RangeInclusive<f32> = 40.0..=130.0;

/// Thermal zones, and trip points of one, that are looked at: no board has as many.
const NUMBERS_MAX: usize = 32;

/// Where a Raspberry Pi says whether it is held back.
const PI_FLAGS: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

/// What a zone's type holds when it is about what the towers are computed on.
const COMPUTING: [&str; 6] = ["cpu", "soc", "tj", "pkg", "cluster", "core"];

/// A thermal zone as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat {
    /// Its type, such as `cpu-thermal`.
    pub name: String,
    /// Degrees.
    pub celsius: f32,
    /// Degrees that it is kept below.
    pub limit_c: f32,
}

/// CPU time granted and used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpu {
    /// Cores' worth of time that the control group may use.
    pub quota_cores: f32,
    /// Share of it that was used since the last reading.
    pub share: f32,
    /// Whether the kernel held the group back since then.
    pub held_back: bool,
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// Zones whose limit is known.
    pub zones: Vec<Heat>,
    /// The Raspberry Pi's flags.
    pub throttled: Option<u32>,
    /// Where there is a quota, from the second reading on.
    pub cpu: Option<Cpu>,
}

/// Where to read.
#[derive(Debug)]
pub struct Sensors {
    zones: Vec<Zone>,
    flags: Option<PathBuf>,
    /// The control group of this process and those around it, innermost first.
    groups: Vec<PathBuf>,
    last: Option<Usage>,
}

#[derive(Debug)]
struct Zone {
    name: String,
    file: PathBuf,
    limit_c: f32,
}

#[derive(Debug)]
struct Usage {
    at: Instant,
    group: PathBuf,
    used: Duration,
    times_held_back: u64,
}

impl Sensors {
    /// Finds what there is below `root`, which is `/` but for tests. Zones are kept below `temperature_max_c`; without
    /// that, below the temperature at which the board slows itself down, and zones that do not tell it are left out.
    pub fn find(root: &Path, temperature_max_c: Option<f32>) -> Self {
        let flags = Some(root.join(PI_FLAGS)).filter(|path| path.exists());
        let default_c = flags.as_ref().map(|_| PI_THROTTLES_C - MARGIN_C);
        let folders = (0..NUMBERS_MAX).map(|number| root.join(format!("sys/class/thermal/thermal_zone{number}")));
        let zones = folders.filter_map(|folder| zone(&folder, temperature_max_c, default_c)).collect();
        Self { zones, flags, groups: groups(root), last: None }
    }

    /// Reads all of them; what cannot be read is left out.
    pub fn read(&mut self, now: Instant) -> Readings {
        let heat = |zone: &Zone| {
            let celsius = millidegrees(&zone.file)?;
            Some(Heat { name: zone.name.clone(), celsius, limit_c: zone.limit_c })
        };
        Readings {
            zones: self.zones.iter().filter_map(heat).collect(),
            throttled: self.flags.as_deref().and_then(flags),
            cpu: self.cpu(now),
        }
    }

    /// The tightest quota of all groups around the process, and the use of it.
    fn cpu(&mut self, now: Instant) -> Option<Cpu> {
        let quotas = self.groups.iter().filter_map(|group| Some((quota_cores(group)?, group)));
        let (quota_cores, group) = quotas.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let (used, times_held_back) = usage(group)?;
        let this = Usage { at: now, group: group.clone(), used, times_held_back };
        let last = self.last.replace(this).filter(|last| last.group == *group)?;
        let passed = now.saturating_duration_since(last.at).as_secs_f32();
        let used = used.saturating_sub(last.used).as_secs_f32();
        let share = if passed > 0.0 { used / passed / quota_cores } else { 0.0 };
        Some(Cpu { quota_cores, share, held_back: times_held_back > last.times_held_back })
    }
}

/// What the flags of a Raspberry Pi say of this moment; `None` where nothing is amiss.
pub fn throttling(flags: u32) -> Option<&'static str> {
    match flags {
        _ if flags & 0b0100 != 0 => Some("it is throttled"),
        _ if flags & 0b1000 != 0 => Some("it is too hot"),
        _ if flags & 0b0001 != 0 => Some("its supply voltage is too low"),
        _ if flags & 0b0010 != 0 => Some("its clock is capped"),
        _ => None,
    }
}

/// The flags, in hexadecimal digits with or without `0x`.
fn flags(path: &Path) -> Option<u32> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

fn zone(folder: &Path, given_c: Option<f32>, default_c: Option<f32>) -> Option<Zone> {
    let name = fs::read_to_string(folder.join("type")).ok()?.trim().to_owned();
    let lower = name.to_ascii_lowercase();
    if !COMPUTING.iter().any(|part| lower.contains(part)) {
        return None;
    }
    let limit_c = given_c.or_else(|| passive_c(folder).map(|trip| trip - MARGIN_C)).or(default_c)?;
    Some(Zone { name, file: folder.join("temp"), limit_c })
}

/// The lowest temperature at which the kernel slows the CPU down.
fn passive_c(folder: &Path) -> Option<f32> {
    let trips = (0..NUMBERS_MAX).filter_map(|number| {
        let kind = fs::read_to_string(folder.join(format!("trip_point_{number}_type"))).ok()?;
        (kind.trim() == "passive").then(|| millidegrees(&folder.join(format!("trip_point_{number}_temp"))))?
    });
    trips.filter(|celsius| PLAUSIBLE_C.contains(celsius)).reduce(f32::min)
}

fn millidegrees(path: &Path) -> Option<f32> {
    let value: i32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(value as f32 / 1000.0)
}

/// The group of this process in the unified hierarchy, and every one around it.
fn groups(root: &Path) -> Vec<PathBuf> {
    let Ok(text) = fs::read_to_string(root.join("proc/self/cgroup")) else { return Vec::new() };
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::")) else { return Vec::new() };
    let top = root.join("sys/fs/cgroup");
    let innermost = top.join(own.trim_start_matches('/'));
    innermost.ancestors().take_while(|group| group.starts_with(&top)).map(Path::to_owned).collect()
}

/// Cores' worth of time that a group may use; `None` where it may use any.
fn quota_cores(group: &Path) -> Option<f32> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f32, f32) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// CPU time that a group has used, and how often it was held back.
fn usage(group: &Path) -> Option<(Duration, u64)> {
    let text = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let value =
        |key: &str| -> Option<u64> { text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()) };
    Some((Duration::from_micros(value("usage_usec ")?), value("nr_throttled ").unwrap_or(0)))
}
