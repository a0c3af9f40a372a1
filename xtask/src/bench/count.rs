//! What watching costs in instructions, counted in the lab: the same on every run, whatever the machine does.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{Goal, Row};
use crate::process::{output, say};

/// Prints a line per work and watcher: instructions per call, or why there are none.
const SCRIPT: &str = r#"
# The least of three: what else the kernel does meanwhile comes on top.
calls() { for i in 1 2 3; do "$@" stealtrace load $work --duration 20ms; done | cut -d' ' -f1 | sort -n | head -n 1; }
watched() {
    name=$1; shift
    "$@" > /tmp/says 2>&1 &
    pid=$!
    sleep 30 # the same for all, and nothing where time stands still for who does nothing
    if kill -0 $pid 2> /dev/null; then
        echo "$work $name $(calls)"
        kill -STOP $pid
        case $name in *-all) echo "$work $name-unread $(calls)" ;; esac
        kill -CONT $pid
        kill -INT $pid
    else
        echo "$work $name not: $(tail -n 1 /tmp/says)"
    fi
    wait $pid
}
ours() { name=$1; shift; watched $name stealtrace trace --output /dev/null "$@"; }
for work in get-regs run; do
    echo "$work unwatched $(calls)"
    for backend in fentry kprobe tracepoint; do
        ours $backend-empty --backend $backend --findings-only --floor
        ours $backend-edges --backend $backend --findings-only
        ours $backend-all --backend $backend --format json
        [ $backend = tracepoint ] || watched $backend-guard stealtrace guard --yes --backend $backend
    done
    echo 1 > /sys/kernel/tracing/events/kvm/enable
    echo "$work kvm-events $(calls)"
    echo 0 > /sys/kernel/tracing/events/kvm/enable
    [ -e /bin/bpftrace ] || continue
    watched bpftrace-kprobe bpftrace -e 'kprobe:kvm_vcpu_ioctl { @[tid, arg1] = count(); }'
    watched bpftrace-kfunc bpftrace -e 'kfunc:kvm:kvm_vcpu_ioctl { @[tid, args->ioctl] = count(); }'
    watched bpftrace-print bpftrace -o /dev/null -e \
        'kprobe:kvm_vcpu_ioctl { printf("%d %s %x\n", tid, comm, arg1); }'
    watched perf-trace perf trace -a -e ioctl -o /dev/null
    echo "$work strace $(calls strace -f -o /dev/null -e trace=ioctl)"
done
"#;

const KERNELS: [&str; 2] = ["stock-6.1", "stock-6.12"];
const BACKENDS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];
/// What others do on the same work, and how they are called in rows.
const OTHERS: [(&str, &str); 6] = [
    ("kvm-events", "kvm tracepoints on"),
    ("bpftrace-kprobe", "bpftrace count by kprobe"),
    ("bpftrace-kfunc", "bpftrace count by fentry"),
    ("bpftrace-print", "bpftrace print"),
    ("perf-trace", "perf trace"),
    ("strace", "strace"),
];
/// What of them takes a program.
const PEERS: [&str; 3] = ["bpftrace", "perf", "strace"];

pub(super) fn rows(_: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kernel in KERNELS {
        say(&format!("bench: instructions, on {kernel} in the lab"));
        let counts = Counts::on(kernel, &PEERS.map(|peer| format!("--peer={peer}")))?;
        let mitigated = Counts::on(kernel, &["--mitigations".to_owned()])?;
        for work in ["get-regs", "run"] {
            for backend in BACKENDS {
                let name = format!("{kernel}, {work}, {backend}");
                rows.extend(counts.of_backend(&name, work, backend)?);
                rows.extend(mitigated.of_backend(&format!("{name}, mitigations on"), work, backend)?);
            }
            rows.extend(
                OTHERS
                    .map(|(other, name)| counts.of_other(&format!("{kernel}, {work}, {name}"), work, other)),
            );
        }
    }
    Ok(rows)
}

/// Instructions per call, by work and watcher.
struct Counts {
    told: String,
    /// Goals are for kernels without mitigations, which emulated processors do not need.
    has_goals: bool,
}

impl Counts {
    fn on(kernel: &str, options: &[String]) -> Result<Self> {
        let xtask = std::env::current_exe().context("find xtask itself")?;
        let mut run = Command::new(xtask);
        run.args(["lab", "run", kernel, "--icount", "--timeout", "1800"]).args(options);
        let has_goals = !options.contains(&"--mitigations".to_owned());
        Ok(Self { told: output(run.args(["--", "sh", "-c", SCRIPT]))?, has_goals })
    }

    fn of_backend(&self, what: &str, work: &str, backend: &str) -> Result<Vec<Row>> {
        let added = |name: &str| self.added(work, &format!("{backend}-{name}"));
        let (empty, edges, all, unread) =
            (added("empty")?, added("edges")?, added("all")?, added("all-unread")?);
        let (most_edges, most_over_empty, most_all) = match backend {
            _ if !self.has_goals => (Goal::None, Goal::None, Goal::None),
            "fentry" => (Goal::AtMost(400.0), Goal::AtMost(1.6), Goal::AtMost(2500.0)),
            "kprobe" => (Goal::AtMost(1070.0), Goal::AtMost(1.6), Goal::None),
            _ => (Goal::AtMost(1300.0), Goal::None, Goal::None),
        };
        let row =
            |name: &str, number, unit, goal| Row::of(format!("{what}, {name}"), vec![number], unit, goal);
        let mut rows = vec![
            row("empty programs", empty, "instructions", Goal::None),
            row("edges", edges, "instructions", most_edges),
            row("edges over empty programs", edges / empty, "x", most_over_empty),
            row("all", all, "instructions", Goal::None),
            row("all, kernel side alone", unread, "instructions", most_all),
        ];
        if backend != "tracepoint" {
            rows.push(row("guard", added("guard")?, "instructions", Goal::None));
        }
        Ok(rows)
    }

    fn of_other(&self, what: &str, work: &str, other: &str) -> Row {
        match self.added(work, other) {
            Ok(added) => Row::of(what, vec![added], "instructions", Goal::None),
            Err(error) => Row::absent(what.to_owned(), &format!("{error:#}")),
        }
    }

    fn added(&self, work: &str, name: &str) -> Result<f64> {
        Ok(self.calls(work, name)? - self.calls(work, "unwatched")?)
    }

    fn calls(&self, work: &str, name: &str) -> Result<f64> {
        let start = format!("{work} {name} ");
        let line = self.told.lines().find_map(|line| line.strip_prefix(&start));
        let line = line.with_context(|| format!("the lab did not count {start}"))?.trim();
        line.parse().with_context(|| line.to_owned())
    }
}
