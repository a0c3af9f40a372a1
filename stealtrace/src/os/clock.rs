//! The system's clocks, in ns.

use std::{fs, io, os::unix::fs::MetadataExt as _, sync::LazyLock};

use anyhow::{Context as _, Result};

/// The clock that `bpf_ktime_get_ns` reads: the host's, whatever a time namespace adds to it.
pub(crate) fn now_ns() -> Result<u64> {
    static OFFSET: LazyLock<i64> = LazyLock::new(|| offset_ns().unwrap_or(0));
    Ok(clock_ns(libc::CLOCK_MONOTONIC)?.wrapping_sub(OFFSET.cast_unsigned()))
}

/// What this process's time namespace adds. /proc tells that of its children's, which is its own but for a moment.
fn offset_ns() -> Option<i64> {
    let inode = |name| fs::metadata(format!("/proc/self/ns/{name}")).ok().map(|file| file.ino());
    let offsets = fs::read_to_string("/proc/self/timens_offsets").ok()?;
    (inode("time") == inode("time_for_children")).then(|| monotonic(&offsets))?
}

/// `monotonic   86400   5`: seconds and nanoseconds.
fn monotonic(offsets: &str) -> Option<i64> {
    let mut words = offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?.split_ascii_whitespace();
    let mut number = || words.next()?.parse::<i64>().ok();
    number()?.checked_mul(1_000_000_000)?.checked_add(number()?)
}

/// Any of them.
pub(crate) fn clock_ns(clock: libc::clockid_t) -> Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer to a timespec that outlives the call.
    if unsafe { libc::clock_gettime(clock, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error()).context("read the clock");
    }
    Ok(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::monotonic;

    #[test]
    fn what_a_time_namespace_adds_is_seconds_and_nanoseconds() {
        assert_eq!(monotonic("monotonic         100         5\nboottime 0 0\n"), Some(100_000_000_005));
        assert_eq!(monotonic("monotonic       -1         0\n"), Some(-1_000_000_000));
        assert_eq!(monotonic("boottime 0 0\n"), None);
    }
}
