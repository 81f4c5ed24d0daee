//! Resident memory of this process, from `/proc/self/status`.

/// Peak resident set size in bytes.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    status("VmHWM:")
}

/// Current resident set size in bytes.
pub(crate) fn rss_bytes() -> Option<u64> {
    status("VmRSS:")
}

fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}
