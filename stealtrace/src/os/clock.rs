//! The system's clocks, in ns.

use std::io;

use anyhow::{Context as _, Result};

/// The clock that `bpf_ktime_get_ns` reads.
pub(crate) fn now_ns() -> Result<u64> {
    clock_ns(libc::CLOCK_MONOTONIC)
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
