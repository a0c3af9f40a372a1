//! What watching costs in instructions, counted in the lab: the same on every run, whatever the machine does.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{Goal, Row};
use crate::process::{output, say};

/// Prints a line per work and watcher: instructions per call.
const SCRIPT: &str = r#"
calls() { stealtrace load $work --duration 20ms | cut -d' ' -f1; }
watched() {
    name=$1; shift
    : > /tmp/says
    stealtrace trace "$@" > /dev/null 2> /tmp/says &
    pid=$!
    until grep -q tracing /tmp/says; do sleep 0.1; done
    echo "$work $name $(calls)"
    kill -INT $pid
    wait $pid
}
for work in get-regs run; do
    echo "$work unwatched $(calls)"
    for backend in kprobe tracepoint; do
        watched $backend-empty --backend $backend --findings-only --floor
        watched $backend-edges --backend $backend --findings-only
        watched $backend-all --backend $backend --format json
    done
    echo 1 > /sys/kernel/tracing/events/kvm/enable
    echo "$work kvm-events $(calls)"
    echo 0 > /sys/kernel/tracing/events/kvm/enable
done
"#;

pub(super) fn rows(_: &Path) -> Result<Vec<Row>> {
    say("bench: instructions, in the lab");
    let xtask = std::env::current_exe().context("find xtask itself")?;
    let text =
        output(Command::new(xtask).args(["lab", "run", "stock-6.1", "--icount", "--", "sh", "-c", SCRIPT]))?;
    let calls = |work: &str, name: &str| -> Result<f64> {
        let start = format!("{work} {name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.with_context(|| format!("the lab did not count {start}"))?.trim().parse().context("a number")
    };
    let mut rows = Vec::new();
    for work in ["get-regs", "run"] {
        let unwatched = calls(work, "unwatched")?;
        let added = |name: &str| Ok::<_, anyhow::Error>(calls(work, name)? - unwatched);
        for backend in ["kprobe", "tracepoint"] {
            let [empty, edges, all] =
                ["empty", "edges", "all"].map(|name| added(&format!("{backend}-{name}")));
            let (empty, edges, all) = (empty?, edges?, all?);
            let counted = backend == "kprobe" && work == "run";
            let goal = |goal| if counted { goal } else { Goal::None };
            let mut row = |name: &str, number, unit, goal| {
                rows.push(Row::of(format!("lab, {work}, {backend}, {name}"), vec![number], unit, goal));
            };
            row("empty programs", empty, "instructions", Goal::None);
            row("edges", edges, "instructions", goal(Goal::AtMost(1020.0)));
            row("edges over empty programs", edges / empty, "x", goal(Goal::AtMost(1.5)));
            row("all", all, "instructions", Goal::None);
        }
        rows.push(Row::of(
            format!("lab, {work}, kvm tracepoints on"),
            vec![added("kvm-events")?],
            "instructions",
            Goal::None,
        ));
    }
    Ok(rows)
}
