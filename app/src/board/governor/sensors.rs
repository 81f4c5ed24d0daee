//! Sensors of the board: temperatures, firmware flags, and the CPU quota.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Temperature at which a Raspberry Pi's firmware begins to throttle the CPU; the kernel does not know it.
const PI_THROTTLES_C: f32 = 80.0;

/// Margin below the temperature at which the board throttles itself.
const MARGIN_C: f32 = 5.0;

/// Plausible trip points; others are placeholders.
const PLAUSIBLE_C: std::ops::RangeInclusive<f32> = 40.0..=130.0;

/// Maximum number of thermal zones, and of trip points of one zone; no board has as many.
const NUMBERS_MAX: usize = 32;

/// File with the board's name.
const MODEL: &str = "sys/firmware/devicetree/base/model";

/// Start of a Raspberry Pi's name.
const PI: &str = "Raspberry Pi";

/// Folder with a Raspberry Pi's throttling flags: in `soc/soc:firmware`, from the Pi 5 on in
/// `soc@107c000000/soc@107c000000:firmware`. Only Raspberry Pi's own kernels have the file.
const PLATFORM: &str = "sys/devices/platform";

/// Name of the voltage sensor that every kernel has on a Raspberry Pi.
const PI_VOLT: &str = "rpi_volt";

/// Substrings of the types of thermal zones that measure the CPU.
const COMPUTING: [&str; 6] = ["cpu", "soc", "tj", "pkg", "cluster", "core"];

/// A thermal zone as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heat {
    /// Its type, such as `cpu-thermal`.
    pub(crate) name: String,
    /// Degrees Celsius.
    pub(crate) celsius: f32,
    /// Limit in degrees Celsius.
    pub(crate) limit_c: f32,
}

/// CPU quota and usage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cpu {
    /// CPU quota of the control group in cores.
    pub(crate) quota_cores: f32,
    /// Share of the quota used since the last reading.
    pub(crate) share: f32,
    /// True if the kernel throttled the group since then.
    pub(crate) is_throttled: bool,
}

/// Readings of all sensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Readings {
    /// Zones with a known limit.
    pub(crate) zones: Vec<Heat>,
    /// The Raspberry Pi's throttling flags.
    pub(crate) throttled: Option<u32>,
    /// True if the supply voltage is too low, on kernels without the flags.
    pub(crate) low_voltage: Option<bool>,
    /// Usage of the CPU quota, if there is one, from the second reading on.
    pub(crate) cpu: Option<Cpu>,
}

/// The sensors of a board.
#[derive(Debug)]
pub(crate) struct Sensors {
    zones: Vec<Zone>,
    flags: Option<PathBuf>,
    low_voltage: Option<PathBuf>,
    /// The control group of this process and its ancestors, innermost first.
    groups: Vec<Group>,
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
    group: Group,
    used: Duration,
    times_throttled: u64,
}

impl Sensors {
    /// Finds the sensors below `root`, which is `/` outside of tests. The limit of a zone is `temperature_max_c`, else lies below
    /// the temperature at which the board throttles itself; zones where that is unknown are left out.
    pub(crate) fn find(root: &Path, temperature_max_c: Option<f32>) -> Self {
        let flags = pi_flags(root);
        let low_voltage = if flags.is_none() { pi_voltage(root) } else { None };
        let is_pi = flags.is_some() || fs::read_to_string(root.join(MODEL)).is_ok_and(|name| name.starts_with(PI));
        let default_c = is_pi.then_some(PI_THROTTLES_C - MARGIN_C);
        let folders = (0..NUMBERS_MAX).map(|number| root.join(format!("sys/class/thermal/thermal_zone{number}")));
        let zones = folders.filter_map(|folder| zone(&folder, temperature_max_c, default_c)).collect();
        Self { zones, flags, low_voltage, groups: groups(root), last: None }
    }

    /// Reads all sensors; those that cannot be read are left out.
    pub(crate) fn read(&mut self, now: Instant) -> Readings {
        let heat = |zone: &Zone| {
            let celsius = millidegrees(&zone.file)?;
            Some(Heat { name: zone.name.clone(), celsius, limit_c: zone.limit_c })
        };
        Readings {
            zones: self.zones.iter().filter_map(heat).collect(),
            throttled: self.flags.as_deref().and_then(flags),
            low_voltage: self.low_voltage.as_deref().and_then(read).map(|text| text.trim() != "0"),
            cpu: self.cpu(now),
        }
    }

    /// The tightest quota of all control groups of the process, and its usage.
    fn cpu(&mut self, now: Instant) -> Option<Cpu> {
        let quotas = self.groups.iter().filter_map(|group| Some((group.quota_cores()?, group)));
        let (quota_cores, group) = quotas.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let (used, times_throttled) = group.usage()?;
        let this = Usage { at: now, group: group.clone(), used, times_throttled };
        let last = self.last.replace(this).filter(|last| last.group == *group)?;
        let passed = now.saturating_duration_since(last.at).as_secs_f32();
        let used = used.saturating_sub(last.used).as_secs_f32();
        let share = if passed > 0.0 { used / passed / quota_cores } else { 0.0 };
        Some(Cpu { quota_cores, share, is_throttled: times_throttled > last.times_throttled })
    }
}

/// The current problem according to a Raspberry Pi's throttling flags; `None` if there is none.
pub(crate) fn throttling(flags: u32) -> Option<&'static str> {
    match flags {
        _ if flags & 0b0100 != 0 => Some("it is throttled"),
        _ if flags & 0b1000 != 0 => Some("it is too hot"),
        _ if flags & 0b0001 != 0 => Some("its supply voltage is too low"),
        _ if flags & 0b0010 != 0 => Some("its clock is capped"),
        _ => None,
    }
}

/// The file of the throttling flags, if the kernel has one.
fn pi_flags(root: &Path) -> Option<PathBuf> {
    let buses = entries(&root.join(PLATFORM)).filter(|path| name_of(path).starts_with("soc"));
    let nodes =
        buses.flat_map(|bus| entries(&bus).filter(|path| name_of(path).ends_with(":firmware")).collect::<Vec<_>>());
    nodes.map(|node| node.join("get_throttled")).find(|path| path.exists())
}

/// The file of the low-voltage alarm, if there is one.
fn pi_voltage(root: &Path) -> Option<PathBuf> {
    let sensors = entries(&root.join("sys/class/hwmon"));
    let mut pis = sensors.filter(|path| read(&path.join("name")).is_some_and(|name| name.trim() == PI_VOLT));
    pis.next().map(|path| path.join("in0_lcrit_alarm")).filter(|path| path.exists())
}

/// The entries of a folder in alphabetical order; none if it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found: Vec<_> = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.into_iter()
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or("")
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Parses the flags: hexadecimal digits with or without `0x`.
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

/// The lowest temperature at which the kernel throttles the CPU.
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

/// A control group, by the folders of its files.
#[derive(Debug, Clone, PartialEq)]
enum Group {
    /// In the unified hierarchy.
    Unified(PathBuf),
    /// In the `cpu` and `cpuacct` hierarchies of older systems, which may be one.
    Split { cpu: PathBuf, account: PathBuf },
}

/// The control group of this process and its ancestors.
fn groups(root: &Path) -> Vec<Group> {
    let Some(text) = read(&root.join("proc/self/cgroup")) else { return Vec::new() };
    let top = root.join("sys/fs/cgroup");
    let around = |top: PathBuf, own: &str| -> Vec<PathBuf> {
        let innermost = top.join(own.trim_start_matches('/'));
        innermost.ancestors().take_while(|group| group.starts_with(&top)).map(Path::to_owned).collect()
    };
    // `4:cpu,cpuacct:/system.slice/spotter.service`; the hierarchy's folder may have either name.
    let split = |wanted: &str| {
        let own = text.lines().find_map(|line| {
            let (controllers, own) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == wanted).then_some((controllers, own))
        });
        let (controllers, own) = own?;
        let folder = [wanted, controllers].map(|name| top.join(name)).into_iter().find(|folder| folder.is_dir())?;
        Some(around(folder, own))
    };
    if let Some(cpu) = split("cpu") {
        let account = split("cpuacct").unwrap_or_else(|| cpu.clone());
        return cpu.into_iter().zip(account).map(|(cpu, account)| Group::Split { cpu, account }).collect();
    }
    let own = text.lines().find_map(|line| line.strip_prefix("0::"));
    own.map(|own| around(top, own).into_iter().map(Group::Unified).collect()).unwrap_or_default()
}

impl Group {
    /// CPU quota in cores; `None` for no quota.
    fn quota_cores(&self) -> Option<f32> {
        let (quota, period): (f32, f32) = match self {
            Self::Unified(folder) => {
                let text = read(&folder.join("cpu.max"))?;
                let (quota, period) = text.trim().split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            }
            Self::Split { cpu, .. } => {
                let value = |name: &str| read(&cpu.join(name))?.trim().parse().ok();
                // -1 for no quota.
                (value("cpu.cfs_quota_us")?, value("cpu.cfs_period_us")?)
            }
        };
        (quota > 0.0 && period > 0.0).then_some(quota / period)
    }

    /// CPU time used, and the number of times that the group was throttled.
    fn usage(&self) -> Option<(Duration, u64)> {
        let folder = match self {
            Self::Unified(folder) | Self::Split { cpu: folder, .. } => folder,
        };
        let text = read(&folder.join("cpu.stat"))?;
        let value =
            |key: &str| -> Option<u64> { text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()) };
        let used = match self {
            Self::Unified(_) => Duration::from_micros(value("usage_usec ")?),
            Self::Split { account, .. } => {
                Duration::from_nanos(read(&account.join("cpuacct.usage"))?.trim().parse().ok()?)
            }
        };
        Some((used, value("nr_throttled ").unwrap_or(0)))
    }
}
