//! The tax on a VMM and on everybody else: the same load watched and unwatched, in turn.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result};

use super::{
    Goal, Row,
    watcher::{Watcher, watchers},
};
use crate::process::{output, say};

/// Times each pair is measured.
const ROUNDS: usize = 7;
/// System calls that have nothing to do with KVM: as many reads and writes of a byte.
const OTHER_CALLS: &str = "1000000";

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let watchers = watchers(stealtrace);
    let mut rows = Vec::new();
    for work in ["get-regs", "run"] {
        for vcpus in ["1", "2"] {
            say(&format!("bench: {work}, {vcpus} vCPUs"));
            let load = || ns_per_call(stealtrace, work, vcpus);
            rows.extend(ratios(&watchers, load, |watcher| {
                (format!("{work}, {vcpus} vCPU, {}", watcher.name), goal(watcher.name))
            })?);
        }
    }
    say("bench: system calls that have nothing to do with KVM");
    rows.extend(ratios(&watchers[..1], others, |watcher| {
        (format!("other system calls, {}", watcher.name), Goal::AtMost(1.03))
    })?);
    Ok(rows)
}

fn goal(watcher: &str) -> Goal {
    match watcher {
        "edges" => Goal::AtMost(1.10),
        "all" => Goal::AtMost(1.35),
        _ => Goal::None,
    }
}

/// Watched over unwatched, each pair measured one right after the other.
fn ratios(
    watchers: &[Watcher],
    load: impl Fn() -> Result<f64>,
    row: impl Fn(&Watcher) -> (String, Goal),
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for watcher in watchers {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let unwatched = load()?;
            let watching = watcher.start()?;
            let watched = load()?;
            drop(watching);
            ratios.push(watched / unwatched);
        }
        let (what, goal) = row(watcher);
        rows.push(Row::of(what, ratios, "x", goal));
    }
    Ok(rows)
}

fn ns_per_call(stealtrace: &Path, work: &str, vcpus: &str) -> Result<f64> {
    let text =
        output(Command::new(stealtrace).args(["load", work, "--vcpus", vcpus, "--duration", "500ms"]))?;
    text.trim().parse().with_context(|| format!("load printed {text:?}"))
}

fn others() -> Result<f64> {
    let start = Instant::now();
    output(Command::new("dd").args([
        "if=/dev/zero",
        "of=/dev/null",
        "bs=1",
        &format!("count={OTHER_CALLS}"),
    ]))?;
    Ok(start.elapsed().as_secs_f64())
}
