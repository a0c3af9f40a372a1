//! How long a trace takes to begin, and what memory it needs at most.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result};

use super::{Goal, Row, watcher::watchers};

const ROUNDS: usize = 7;

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    let edges = &watchers(stealtrace)[0]; // made before the clock starts: it looks for other tools too
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let watching = edges.start()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        memory.push(peak_megabytes(watching.0.id())?);
    }
    Ok(vec![
        Row::of("from exec to tracing", times, "ms", Goal::AtMost(100.0)),
        Row::of("peak memory until then", memory, "MB", Goal::AtMost(24.0)),
    ])
}

fn peak_megabytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the tracer's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
    Ok(kilobytes / 1000.0)
}
