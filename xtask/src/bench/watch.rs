//! What the live table takes.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Goal, Row,
    scale::Load,
    watcher::{Watching, cpu_seconds},
};
use crate::process::say;

const ROUNDS: usize = 3;
const VCPUS: usize = 256;
const TIME: Duration = Duration::from_secs(20);

/// In a terminal that `script` makes.
pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    say("bench: the live table of 256 vCPUs");
    let _load = Load::running(stealtrace, VCPUS - 1)?;
    let mut shares = Vec::new();
    for _ in 0..ROUNDS {
        let command = format!("exec {} watch", stealtrace.display());
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--command", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let terminal = Watching(script.spawn().context("start script, of util-linux")?);
        thread::sleep(Duration::from_secs(3)); // until it watches
        let script = terminal.0.id();
        let children = fs::read_to_string(format!("/proc/{script}/task/{script}/children"))?;
        let watch = children.trim().parse().context("watch has ended")?;
        let (before, start) = (cpu_seconds(watch)?, Instant::now());
        thread::sleep(TIME);
        shares.push((cpu_seconds(watch)? - before) / start.elapsed().as_secs_f64() * 100.0);
    }
    Ok(vec![Row::of("watch: 256 vCPUs, a look a second", shares, "% of one", Goal::AtMost(2.0))])
}
