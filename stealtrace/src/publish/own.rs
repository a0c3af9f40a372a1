//! What this process uses itself.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{model::Own, os::clock::clock_ns};

/// As it is now; it was started at this time since 1970.
///
/// # Errors
/// When a clock cannot be read.
pub(crate) fn usage(start_ns: u64) -> Result<Own> {
    Ok(Own { cpu_ns: clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)?, resident_bytes: resident_bytes()?, start_ns })
}

fn resident_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm").context("read /proc/self/statm")?;
    let pages: u64 =
        text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).context("understand /proc/self/statm")?;
    // SAFETY: plain system call.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages * u64::try_from(page).context("the size of a page")?)
}
