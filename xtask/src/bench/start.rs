//! How long a trace takes to begin, and what memory it needs at most.

use std::{path::Path, time::Instant};

use anyhow::Result;

use super::{Goal, Row, watcher::ours};

const ROUNDS: usize = 7;

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    let edges = ours(stealtrace, "edges", &["--findings-only"]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let watching = edges.start()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        memory.push(watching.peak_megabytes()?);
    }
    Ok(vec![
        Row::of("from exec to tracing", times, "ms", Goal::AtMost(100.0)),
        Row::of("peak memory until then", memory, "MB", Goal::AtMost(24.0)),
    ])
}
