//! Checks CPU, C library, memory, and the file systems of state and metrics.

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use spotter_engine::printable::serialize_path;
use spotter_engine::tower::Threads;

use super::{Findings, below, mib};
use crate::config::Config;
use crate::process::memory::rss_bytes;
use crate::recognizer::compute;

/// Memory that camera, outputs and the system need beside the model.
const MEMORY_SPARE_BYTES: u64 = 48 << 20;

/// Flash that the label cache and the state file need.
const FLASH_SPARE_BYTES: u64 = 64 << 20;

/// Largest C library that is read; it takes some megabytes.
const LIBC_BYTES_MAX: u64 = 32 << 20;

/// The CPU.
#[derive(Debug, Serialize)]
pub struct Cpu {
    pub(super) arch: &'static str,
    /// Name of the board, else of the CPU.
    pub(super) model: Option<String>,
    pub(super) cores: usize,
    /// Features that matter for the choice of kernels.
    pub(super) features: Vec<&'static str>,
    /// The selected kernels.
    pub(super) kernels: &'static str,
    pub(super) available_kernels: Vec<&'static str>,
    pub(super) threads: usize,
}

/// Memory of the board.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub(super) total_bytes: Option<u64>,
    /// Available memory.
    pub(super) available_bytes: Option<u64>,
    /// Resident memory of this program.
    pub(super) program_bytes: Option<u64>,
    /// True if this was measured with the model loaded, and with the text tower if there are new labels.
    pub(super) with_model: bool,
}

/// The file system of the state folder.
#[derive(Debug, Serialize)]
pub struct Storage {
    #[serde(serialize_with = "serialize_path")]
    pub(super) folder: PathBuf,
    pub(super) file_system: Option<String>,
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) writable: bool,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.available_bytes, self.total_bytes) {
            (Some(available), Some(total)) => {
                write!(f, "{:.0} of {:.0} MiB left", mib(available), mib(total))?;
                f.write_str(if self.with_model { " with the model loaded" } else { "" })?;
                self.program_bytes.map_or(Ok(()), |bytes| write!(f, ", {:.0} MiB used by this program", mib(bytes)))
            }
            _ => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.file_system.as_deref().unwrap_or("a file system");
        let access = if self.writable { "writable" } else { "read-only" };
        let (free, total) = (mib(self.free_bytes), mib(self.total_bytes));
        write!(f, "{} on {kind}, {access}, {free:.0} of {total:.0} MiB free", self.folder.display())
    }
}

pub(super) fn cpu(root: &Path, config: &Config, findings: &mut Findings) -> Cpu {
    let threads = compute::threads(config.inference.threads).unwrap_or_else(|error| {
        findings.problem(format!("{error:#}"), format!("remove ${} from the environment", compute::KERNELS_VARIABLE));
        Threads::default()
    });
    let available_kernels = Threads::available_kernels();
    if available_kernels == ["scalar"] {
        findings.problem(
            "this CPU has none of the instructions that the fast kernels need",
            "use a board with a 64-bit ARM CPU and a 64-bit system, or an x86-64 CPU with AVX2",
        );
    } else if available_kernels.last() != Some(&threads.kernels()) {
        findings.note(
            format!("the kernels {} are used instead of the fastest ones", threads.kernels()),
            format!("remove ${} from the environment", compute::KERNELS_VARIABLE),
        );
    }
    Cpu {
        arch: std::env::consts::ARCH,
        model: model(root),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        features: features(),
        kernels: threads.kernels(),
        available_kernels,
        threads: threads.count(),
    }
}

/// Name of the board from its device tree, else of the CPU.
pub(super) fn model(root: &Path) -> Option<String> {
    let tree = fs::read_to_string(root.join("sys/firmware/devicetree/base/model"));
    let cpu = || {
        let text = fs::read_to_string(root.join("proc/cpuinfo")).ok()?;
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    tree.ok().map(|name| name.trim_end_matches('\0').trim().to_owned()).or_else(cpu)
}

/// Instruction sets of this CPU that matter for the choice of kernels.
fn features() -> Vec<&'static str> {
    #[allow(unused_mut, reason = "other architectures have none")]
    let mut found: Vec<(&'static str, bool)> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! look {
            ($($name:tt),*) => { found.extend([$(($name, std::arch::is_x86_feature_detected!($name))),*]) };
        }
        look!("avx2", "fma", "avxvnni", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! look {
            ($($name:tt),*) => { found.extend([$(($name, std::arch::is_aarch64_feature_detected!($name))),*]) };
        }
        look!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2");
    }
    found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// The C library of this process.
pub(super) fn libc() -> String {
    if cfg!(target_env = "musl") {
        return "musl, inside the program".to_owned();
    }
    let version = || {
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| {
            let name = path.rsplit('/').next().unwrap_or("");
            name.starts_with("libc.so") || name.starts_with("libc-")
        })?;
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(LIBC_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        glibc_version(&bytes)
    };
    version().map_or_else(|| "unknown".to_owned(), |version| format!("glibc {version}"))
}

/// The version in the text that glibc prints when it is run as a program.
fn glibc_version(library: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"release version ";
    let at = library.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let version: String = library[at..]
        .iter()
        .take(16)
        .map(|byte| char::from(*byte))
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    Some(version.trim_end_matches('.').to_owned()).filter(|version| !version.is_empty())
}

/// Measures the current memory.
pub(super) fn memory(root: &Path, with_model: bool, findings: &mut Findings) -> Memory {
    let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let memory = Memory {
        total_bytes: bytes("MemTotal:"),
        available_bytes: bytes("MemAvailable:"),
        program_bytes: rss_bytes(),
        with_model,
    };
    if let Some(available) = memory.available_bytes.filter(|bytes| *bytes < MEMORY_SPARE_BYTES) {
        findings.problem(
            format!("{:.0} MiB of memory are left, {:.0} are needed", mib(available), mib(MEMORY_SPARE_BYTES)),
            "use a smaller bundle, or one exported with --weights int8, or end other programs",
        );
    }
    memory
}

pub(super) fn storage(root: &Path, state_dir: Option<&Path>, findings: &mut Findings) -> Option<Storage> {
    let Some(folder) = state_dir else {
        findings.note(
            "there is no state folder, so every start embeds all labels again",
            "name one in the configuration (state_dir)",
        );
        return None;
    };
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let folder = absolute.as_path();
    // It is created when it is needed; until then its closest existing parent counts.
    let there = folder.ancestors().find(|folder| below(root, folder).exists()).unwrap_or(Path::new("/"));
    let place = below(root, there);
    let found = match rustix::fs::statvfs(&place) {
        Ok(found) => found,
        Err(error) => {
            findings.problem(format!("{}: {error}", folder.display()), "name another state folder (state_dir)");
            return None;
        }
    };
    let may_write = rustix::fs::access(&place, rustix::fs::Access::WRITE_OK).is_ok();
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let storage = Storage {
        folder: folder.to_owned(),
        file_system: file_system(&mounts, there),
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        writable: may_write && place.is_dir() && !found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    };
    if !storage.writable {
        findings.problem(
            format!("{} cannot be written, so every start embeds all labels again", folder.display()),
            "make the user that runs Spotter its owner, mount it writable, or name another one (state_dir)",
        );
    } else if storage.free_bytes < FLASH_SPARE_BYTES {
        findings.problem(
            format!("{}: {:.0} MiB free", folder.display(), mib(storage.free_bytes)),
            "free space: `spotter bundle list` shows bundles for `spotter bundle remove`",
        );
    }
    if storage.file_system.as_deref() == Some("tmpfs") {
        findings.note(
            format!("{} is in memory, so cached labels and bundles are lost when the board restarts", folder.display()),
            "name a state folder on flash (state_dir), unless that is what you want",
        );
    }
    Some(storage)
}

/// Reports metrics that would wear out the flash.
pub(super) fn metrics(root: &Path, file: Option<&Path>, findings: &mut Findings) {
    let Some(file) = file else { return };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let kind = file_system(&mounts, folder).unwrap_or_default();
    if !below(root, folder).is_dir() {
        findings.problem(
            format!("{}: the folder for the metrics does not exist", folder.display()),
            "name an existing one (metrics.file); systemd makes /run/spotter for the service",
        );
    } else if !["tmpfs", "ramfs"].contains(&kind.as_str()) {
        findings.note(
            format!("{}: metrics are written to {kind} every few seconds", file.display()),
            "name a folder in memory (metrics.file), such as /run/spotter, or the flash wears out",
        );
    }
}

/// The type of the file system of `folder`, by the text of `/proc/self/mountinfo`.
fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?.replace("\\040", " ");
        let kind = kind.split(' ').next()?;
        folder.starts_with(&point).then(|| (point.len(), kind.to_owned()))
    };
    // Of several mounts on one mount point, the last one counts.
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_glibc_are_found() {
        let check = |text: &[u8], expected: Option<&str>| assert_eq!(glibc_version(text).as_deref(), expected);
        check(
            b"..\0GNU C Library (Debian GLIBC 2.36-9+deb12u13) stable release version 2.36.\nCopyright",
            Some("2.36"),
        );
        check(b"GNU C Library (Ubuntu GLIBC 2.31-0ubuntu9) stable release version 2.31.", Some("2.31"));
        check(b"release version .", None);
        check(b"release version", None);
        check(b"", None);
        assert!(libc().starts_with("glibc 2.") || libc().starts_with("musl"), "{}", libc());
    }

    #[test]
    fn file_systems_are_found() {
        let mounts = "21 1 8:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                      22 21 0:5 / /var/lib/spotter rw shared:2 - f2fs /dev/sda3 rw\n\
                      23 21 0:6 / /my\\040disk rw - vfat /dev/sdb1 rw\n\
                      24 21 0:7 / /var/lib/spotter rw - btrfs /dev/sda4 rw\nnonsense\n";
        for (folder, expected) in [
            ("/etc", "ext4"),
            ("/var/lib/spotter", "btrfs"),
            ("/var/lib/spotter/bundles", "btrfs"),
            ("/var/lib/spotter2", "ext4"),
            ("/my disk/x", "vfat"),
        ] {
            assert_eq!(file_system(mounts, Path::new(folder)).as_deref(), Some(expected), "{folder}");
        }
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn metrics_belong_in_memory() {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["proc/self", "run/spotter", "var/x"] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        let mounts = "21 1 8:2 / / rw shared:1 - ext4 /dev/root rw\n22 21 0:5 / /run rw shared:2 - tmpfs tmpfs rw\n";
        fs::write(root.path().join("proc/self/mountinfo"), mounts).expect("a file");
        for (file, expected) in [
            (None, None),
            (Some("/run/spotter/x.prom"), None),
            (Some("/var/x/x.prom"), Some("/var/x/x.prom: metrics are written to ext4 every few seconds")),
            (Some("/run/other/x.prom"), Some("/run/other: the folder for the metrics does not exist")),
        ] {
            let mut findings = Findings::default();
            metrics(root.path(), file.map(Path::new), &mut findings);
            assert_eq!(findings.0.first().map(|finding| finding.what.as_str()), expected, "{file:?}");
        }
    }

    #[test]
    fn little_memory_is_a_problem() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("proc")).expect("a folder");
        for (available_kib, problems) in [(400_000, 0), (49_152, 0), (49_151, 1)] {
            let text = format!("MemTotal:  430000 kB\nMemFree:   100 kB\nMemAvailable: {available_kib} kB\n");
            fs::write(root.path().join("proc/meminfo"), text).expect("a file");
            let mut findings = Findings::default();
            let memory = memory(root.path(), true, &mut findings);
            assert_eq!(memory.available_bytes, Some(available_kib * 1024));
            assert_eq!(findings.0.len(), problems, "{available_kib}");
        }
    }

    #[test]
    fn a_missing_state_folder_is_judged_by_its_parent() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("var/lib")).expect("a folder");
        let mut findings = Findings::default();
        let storage = storage(root.path(), Some(Path::new("/var/lib/spotter")), &mut findings).expect("a file system");
        assert!(storage.writable && storage.free_bytes <= storage.total_bytes);
        assert_eq!(storage.folder, Path::new("/var/lib/spotter"));
    }

    #[test]
    fn names_of_boards_are_read() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(model(root.path()), None);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n");
        assert_eq!(model(root.path()).as_deref(), Some("Some CPU @ 2 GHz"));
        write("sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0");
        assert_eq!(model(root.path()).as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
    }
}
