//! The systemtap script of Launchpad 1494350: nested calls per thread, run_delay and steal (KVM's last_steal) between.
//! Deltas are computed anew; what the log says of them is only compared.

use std::{collections::BTreeSet, io};

use rustc_hash::FxHashMap;
use stealtrace_common::{
    event::{Event, EventKind},
    steal::StealDelta,
};

use super::{Line, Reader, Sink};
use crate::{
    detect::logged,
    model::{Thread, Vcpu, VcpuKey, VcpuName},
};

/// Threads remembered at most; a log of more is not one host's.
const MOST_THREADS: usize = 65_536;

/// Remembers what each thread's run_delay was when it was last seen.
#[derive(Default)]
pub(super) struct Systemtap {
    threads: FxHashMap<u32, Seen>,
    /// The same the other way round: run_delays and whose they are.
    run_delays: BTreeSet<(u64, u32)>,
}

/// A thread when it was last seen.
struct Seen {
    comm: Comm,
    run_delay_ns: u64,
}

/// A thread's name, which the kernel keeps to 15 characters.
type Comm = [u8; 16];

/// `run_delay` and `last_steal` of a thread.
struct Numbers {
    run_delay_ns: u64,
    last_steal_ns: u64,
}

/// A line: ` ** 34 qemu-system-x86(18448): delta: …`
struct Parts<'a> {
    comm: &'a str,
    tid: u32,
    says: &'a str,
}

/// What it is evidence by.
pub(super) const WANTS: &str = "delta of KVM's (`delta: ... ns, steal=... ns, run_delay=... ns`)";

pub(super) fn is_one(line: &str) -> bool {
    split(line)
        .is_some_and(|parts| is_call(parts.says) || load(parts.says).is_some() || delta(parts.says).is_some())
}

impl Reader for Systemtap {
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        let Some(parts) = split(line) else {
            return Ok(if line.is_empty() { Line::Blank } else { Line::NotUnderstood });
        };
        if let Some(numbers) = load(parts.says) {
            self.remember(&parts, numbers.run_delay_ns, sink);
            Ok(Line::Known)
        } else if let Some((printed, numbers)) = delta(parts.says) {
            if self.remember(&parts, numbers.run_delay_ns, sink) {
                self.judge(&parts, printed, &numbers, sink)?;
            }
            Ok(Line::Evidence)
        } else if is_call(parts.says) {
            Ok(Line::Known)
        } else if parts.says.starts_with(DELTA) {
            Ok(Line::Damaged)
        } else {
            Ok(Line::NotUnderstood)
        }
    }
}

impl Systemtap {
    /// False if there are too many threads.
    fn remember(&mut self, parts: &Parts<'_>, run_delay_ns: u64, sink: &mut dyn Sink) -> bool {
        if let Some(seen) = self.threads.get(&parts.tid) {
            self.run_delays.remove(&(seen.run_delay_ns, parts.tid));
        } else if self.threads.len() >= MOST_THREADS {
            sink.missed("lines are of more threads than are remembered (65536)");
            return false;
        }
        self.run_delays.insert((run_delay_ns, parts.tid));
        self.threads.insert(parts.tid, Seen { comm: comm(parts.comm), run_delay_ns });
        true
    }

    fn judge(
        &self,
        parts: &Parts<'_>,
        printed: u64,
        numbers: &Numbers,
        sink: &mut dyn Sink,
    ) -> io::Result<()> {
        let delta = StealDelta::between(numbers.last_steal_ns, numbers.run_delay_ns);
        if delta.wrapped_ns() != printed {
            sink.note(&format!(
                "the log says delta {printed} ns, its numbers say {} ns",
                delta.wrapped_ns()
            ))?;
        }
        let event = event(parts, numbers);
        let vcpu = Vcpu::first_seen(VcpuName::default());
        if !delta.is_underflow() {
            return Ok(());
        }
        let finding = logged(&vcpu, &event, self.owner(parts.tid, numbers.last_steal_ns).as_ref());
        sink.finding(VcpuKey { address: 0, generation: parts.tid.into() }, finding)
    }

    /// The thread whose run_delay that is.
    fn owner(&self, not: u32, run_delay_ns: u64) -> Option<Thread> {
        let owners = self.run_delays.range((run_delay_ns, 0)..=(run_delay_ns, u32::MAX));
        let (_, tid) = owners.into_iter().find(|(_, tid)| *tid != not)?;
        let comm = self.threads.get(tid)?.comm;
        Some(Thread::caller(&Event { caller_tid: *tid, comm, ..Event::default() }))
    }
}

fn comm(name: &str) -> Comm {
    let mut comm = [0; 16];
    let length = name.len().min(15);
    comm[..length].copy_from_slice(&name.as_bytes()[..length]);
    comm
}

fn event(parts: &Parts<'_>, numbers: &Numbers) -> Event {
    Event {
        kind: EventKind::Update,
        caller_tid: parts.tid,
        run_delay_ns: numbers.run_delay_ns,
        last_steal_before_ns: numbers.last_steal_ns,
        last_steal_after_ns: numbers.run_delay_ns,
        comm: comm(parts.comm),
        ..Event::default()
    }
}

fn split(line: &str) -> Option<Parts<'_>> {
    let line = line.trim_start();
    let line = line.strip_prefix("**").unwrap_or(line).trim_start();
    let (micros, rest) = line.split_once(' ')?;
    micros.parse::<u64>().ok()?;
    let (who, says) = rest.split_once("): ")?;
    let (comm, tid) = who.rsplit_once('(')?;
    Some(Parts { comm: comm.trim_start(), tid: tid.parse().ok()?, says: says.trim_start() })
}

fn is_call(says: &str) -> bool {
    says.starts_with("-> ") || says.starts_with("<- ")
}

/// `kvm_arch_vcpu_load: run_delay=40304 ns steal=7856949 ns`
fn load(says: &str) -> Option<Numbers> {
    let (_, numbers) = says.split_once(": run_delay=")?;
    let (run_delay, steal) = numbers.split_once(" ns steal=")?;
    Some(Numbers {
        run_delay_ns: run_delay.parse().ok()?,
        last_steal_ns: steal.strip_suffix(" ns")?.parse().ok()?,
    })
}

const DELTA: &str = "delta: ";

/// `delta: 18446744073701734971 ns, steal=7856949 ns, run_delay=40304 ns`
fn delta(says: &str) -> Option<(u64, Numbers)> {
    let (delta, numbers) = says.strip_prefix(DELTA)?.split_once(" ns, steal=")?;
    let (steal, run_delay) = numbers.split_once(" ns, run_delay=")?;
    let run_delay_ns = run_delay.strip_suffix(" ns")?.parse().ok()?;
    Some((delta.parse().ok()?, Numbers { run_delay_ns, last_steal_ns: steal.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use crate::{
        detect::steal_underflow,
        evidence::{Kind, detect, testing::read},
        model::{Severity, Value},
    };

    const LOG: &str = include_str!("../../../tests/evidence/systemtap.txt");

    #[test]
    fn the_bug_report_is_two_underflows_that_blame_the_main_thread() {
        let kept = read(Kind::Systemtap, LOG);
        let found: Vec<_> = kept.findings.iter().map(|f| (f.rule, f.severity, f.caller.tid)).collect();
        assert_eq!(
            found,
            [
                (steal_underflow::RULE.id, Severity::Error, 18449),
                (steal_underflow::RULE.id, Severity::Error, 18448)
            ]
        );
        for (finding, delta) in kept.findings.iter().zip([-7_816_645, -7_856_949]) {
            assert!(finding.evidence.contains(&("delta", Value::SignedNs(delta))), "{finding:?}");
            let blamed = finding.evidence.iter().find(|(name, _)| *name == "last_steal_of");
            assert!(matches!(blamed, Some((_, Value::Thread(thread))) if thread.tid == 18446), "{finding:?}");
        }
        assert_eq!(kept.not_understood, 1, "the dots");
        assert!(kept.notes.is_empty(), "recomputed and printed deltas agree: {:?}", kept.notes);
    }

    #[test]
    fn a_wrong_delta_in_the_log_is_said() {
        let kept = read(Kind::Systemtap, "** 7 q(2): delta: 5 ns, steal=10 ns, run_delay=20 ns");
        assert_eq!(kept.notes.len(), 1);
        assert!(kept.findings.is_empty());
    }

    #[test]
    fn it_is_recognised() {
        assert_eq!(detect(LOG), Some(Kind::Systemtap));
    }
}
