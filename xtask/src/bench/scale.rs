//! Does watching many vCPUs, or vCPUs that come and go, cost more?

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    Goal, Row,
    tax::first_number,
    watcher::{Watcher, ours},
};
use crate::process::{output, say};

const ROUNDS: usize = 3;
/// Starts beside a load.
const STARTS: usize = 7;
const MANY: [usize; 3] = [64, 1024, 4096];

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let edges = ours(stealtrace, "edges", &["--findings-only"]);
    let mut rows = Vec::new();
    for vcpus in MANY {
        say(&format!("bench: {vcpus} vCPUs alive"));
        let (mut costs, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (few, few_megabytes) = watched(stealtrace, &edges, 0)?;
            let (many, many_megabytes) = watched(stealtrace, &edges, vcpus - 1)?;
            costs.push(many / few);
            memory.push((many_megabytes - few_megabytes) * 1e6 / vcpus as f64);
        }
        rows.push(Row::of(format!("{vcpus} vCPUs alive, cost of a call"), costs, "x", Goal::AtMost(1.15)));
        rows.push(Row::of(format!("{vcpus} vCPUs alive, memory"), memory, "B each", Goal::AtMost(1024.0)));
    }
    rows.push(start(stealtrace, &edges)?);
    rows.extend(churn(stealtrace)?);
    Ok(rows)
}

/// Nanoseconds per call beside so many idle vCPUs, and the tracer's memory.
fn watched(stealtrace: &Path, edges: &Watcher, idle: usize) -> Result<(f64, f64)> {
    let watching = edges.start()?;
    let text = output(Command::new(stealtrace).args(["load", "run", "--idle", &idle.to_string()]))?;
    Ok((first_number(&text)?, watching.megabytes_now()?))
}

/// The time from exec to tracing while many vCPUs are alive over that while one is: it keeps a CPU busy either way. The least
/// of some, since that CPU is missing in one more than in another.
fn start(stealtrace: &Path, edges: &Watcher) -> Result<Row> {
    let most = MANY[MANY.len() - 1];
    say(&format!("bench: a start beside {most} vCPUs"));
    let beside = |vcpus| -> Result<f64> {
        let _load = Load::idle(stealtrace, vcpus)?;
        thread::sleep(Duration::from_secs(4)); // until they are there
        let mut least = f64::INFINITY;
        for _ in 0..STARTS {
            let start = Instant::now();
            let _watching = edges.start()?;
            least = least.min(start.elapsed().as_secs_f64());
        }
        Ok(least)
    };
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let alone = beside(0)?;
        ratios.push(beside(most)? / alone);
    }
    Ok(Row::of(format!("{most} vCPUs alive, time to start"), ratios, "x", Goal::AtMost(1.15)))
}

/// A load in the background; ended when dropped.
pub(super) struct Load(Child);

impl Load {
    pub(super) fn idle(stealtrace: &Path, vcpus: usize) -> Result<Self> {
        Self::beside("get-regs", stealtrace, vcpus)
    }

    /// One vCPU that runs, and so many that do nothing.
    pub(super) fn running(stealtrace: &Path, idle: usize) -> Result<Self> {
        Self::beside("run", stealtrace, idle)
    }

    fn beside(work: &str, stealtrace: &Path, idle: usize) -> Result<Self> {
        let mut command = Command::new(stealtrace);
        command.args(["load", work, "--duration", "2m", "--idle", &idle.to_string()]);
        Ok(Self(command.stdout(Stdio::null()).spawn().context("start a load")?))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// VMs that come and go on two threads, so that addresses are reused and swapped: a vCPU that is taken for another
/// would show as a hand-off, or as another thread's ioctl.
fn churn(stealtrace: &Path) -> Result<Vec<Row>> {
    say("bench: VMs that come and go");
    let (few, few_megabytes, _) = churned(stealtrace, "3s")?;
    let (many, many_megabytes, found) = churned(stealtrace, "40s")?;
    let one = |what: String, number: f64, unit, goal| Row::of(what, vec![number], unit, goal);
    Ok(vec![
        one("VMs created and destroyed".to_owned(), many, "", Goal::AtLeast(10_000.0)),
        one("taken for others".to_owned(), found, "", Goal::AtMost(0.0)),
        one(
            format!("memory after them over that after {few}"),
            many_megabytes / few_megabytes,
            "x",
            Goal::AtMost(1.1),
        ),
    ])
}

/// VMs, the tracer's memory in the end, and findings.
fn churned(stealtrace: &Path, duration: &str) -> Result<(f64, f64, f64)> {
    let mut trace = Command::new(stealtrace)
        .args(["trace", "--findings-only", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(super::watcher::Watching)
        .context("start a trace")?;
    thread::sleep(Duration::from_secs(1));
    let text =
        output(Command::new(stealtrace).args(["load", "churn", "--vcpus", "2", "--duration", duration]))?;
    let vms = text.split_whitespace().nth(1).context("load prints its calls")?.parse()?;
    let megabytes = trace.megabytes_now()?;
    trace.signal(libc::SIGINT);
    let mut printed = String::new();
    let out = trace.0.stdout.as_mut().context("the trace has an output")?;
    std::io::Read::read_to_string(out, &mut printed)?;
    let summary: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
    let findings = summary["findings"].as_array().context("a summary lists its findings")?;
    // The two threads' own first runs, with steal time enabled, may be charged their past.
    let mistaken = findings.iter().filter(|finding| finding["rule"] != "steal-over-charge").count();
    Ok((vms, megabytes, mistaken as f64))
}
