//! How long a trace takes to begin and to end, and what memory it needs at most.

use std::{path::Path, time::Instant};

use anyhow::Result;

use super::{Goal, Row, watcher::ours};

const ROUNDS: usize = 7;

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let (mut starts, mut stops, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let edges = ours(stealtrace, "edges", &["--findings-only"]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let watching = edges.start()?;
        starts.push(milliseconds(start));
        memory.push(watching.peak_megabytes()?);
        let stop = Instant::now();
        drop(watching);
        stops.push(milliseconds(stop));
    }
    Ok(vec![
        Row::of("from exec to tracing", starts, "ms", Goal::AtMost(60.0)),
        Row::of("from Ctrl-C to its end", stops, "ms", Goal::AtMost(100.0)),
        Row::of("peak memory until tracing", memory, "MB", Goal::AtMost(20.0)),
    ])
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
