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
    for backend in fentry kprobe tracepoint; do
        watched $backend-empty --backend $backend --findings-only --floor
        watched $backend-edges --backend $backend --findings-only
        watched $backend-all --backend $backend --format json
    done
    echo 1 > /sys/kernel/tracing/events/kvm/enable
    echo "$work kvm-events $(calls)"
    echo 0 > /sys/kernel/tracing/events/kvm/enable
done
"#;

const KERNELS: [&str; 2] = ["stock-6.1", "stock-6.12"];
const BACKENDS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];

pub(super) fn rows(_: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kernel in KERNELS {
        say(&format!("bench: instructions, on {kernel} in the lab"));
        let counts = Counts::on(kernel)?;
        for work in ["get-regs", "run"] {
            for backend in BACKENDS {
                rows.extend(of_backend(&counts, kernel, work, backend)?);
            }
            let name = format!("{kernel}, {work}, kvm tracepoints on");
            let added = counts.added(work, "kvm-events")?;
            rows.push(Row::of(name, vec![added], "instructions", Goal::None));
        }
    }
    Ok(rows)
}

fn of_backend(counts: &Counts, kernel: &str, work: &str, backend: &str) -> Result<Vec<Row>> {
    let added = |name: &str| counts.added(work, &format!("{backend}-{name}"));
    let (empty, edges, all) = (added("empty")?, added("edges")?, added("all")?);
    let (most_edges, most_over_empty) = match backend {
        "fentry" => (Goal::AtMost(400.0), Goal::AtMost(1.6)),
        "kprobe" => (Goal::AtMost(1070.0), Goal::AtMost(1.6)),
        _ => (Goal::AtMost(1300.0), Goal::None),
    };
    let row = |name: &str, number, unit, goal| {
        Row::of(format!("{kernel}, {work}, {backend}, {name}"), vec![number], unit, goal)
    };
    Ok(vec![
        row("empty programs", empty, "instructions", Goal::None),
        row("edges", edges, "instructions", most_edges),
        row("edges over empty programs", edges / empty, "x", most_over_empty),
        row("all", all, "instructions", Goal::None),
    ])
}

/// Instructions per call, by work and watcher.
struct Counts(String);

impl Counts {
    fn on(kernel: &str) -> Result<Self> {
        let xtask = std::env::current_exe().context("find xtask itself")?;
        let arguments = ["lab", "run", kernel, "--icount", "--", "sh", "-c", SCRIPT];
        Ok(Self(output(Command::new(xtask).args(arguments))?))
    }

    fn calls(&self, work: &str, name: &str) -> Result<f64> {
        let start = format!("{work} {name} ");
        let line = self.0.lines().find_map(|line| line.strip_prefix(&start));
        line.with_context(|| format!("the lab did not count {start}"))?.trim().parse().context("a number")
    }

    fn added(&self, work: &str, name: &str) -> Result<f64> {
        Ok(self.calls(work, name)? - self.calls(work, "unwatched")?)
    }
}
