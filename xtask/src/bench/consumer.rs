//! How fast events go from a recording through the whole pipeline.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{Goal, Row};
use crate::{
    cache,
    process::{output, run, say},
};

const ROUNDS: usize = 5;

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let recording = cache::target()?.join("bench.stealtrace");
    say("bench: recording a load");
    run(Command::new(stealtrace)
        .args(["trace", "--format", "json", "--record"])
        .arg(&recording)
        .arg("--")
        .arg(stealtrace)
        .args(["load", "get-regs", "--duration", "10s"])
        .stdout(Stdio::null()))?;
    let events = events(stealtrace, &recording)?;
    let mut rows = Vec::new();
    for (what, arguments, goal) in [
        ("to findings", &["--findings-only"][..], Goal::AtLeast(10.0)),
        ("to JSON", &["--format", "json"], Goal::AtLeast(2.0)),
        ("to text", &[], Goal::None),
        ("to a page", &["--format", "html", "--quiet"], Goal::AtLeast(1.0 / 3.0)),
    ] {
        let mut speeds = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            run(Command::new(stealtrace)
                .arg("analyze")
                .args(arguments)
                .arg(&recording)
                .stdout(Stdio::null()))?;
            speeds.push(events / 1e6 / start.elapsed().as_secs_f64());
        }
        rows.push(Row::of(format!("a recording {what}"), speeds, "M events/s", goal));
    }
    fs::remove_file(recording).context("remove the recording")?;
    Ok(rows)
}

/// As its summary says.
fn events(stealtrace: &Path, recording: &Path) -> Result<f64> {
    let text = output(
        Command::new(stealtrace).args(["analyze", "--format", "json", "--findings-only"]).arg(recording),
    )?;
    let summary: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    summary["events"].as_f64().context("a summary counts events")
}
