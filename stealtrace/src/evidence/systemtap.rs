//! The systemtap script of Launchpad 1494350: nested calls per thread, run_delay and steal (KVM's last_steal) between.
//! Deltas are computed anew; what the log says of them is only compared.

use std::{collections::HashMap, io};

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
    run_delays: HashMap<u32, (String, u64)>,
}

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

pub(super) fn is_one(line: &str) -> bool {
    split(line)
        .is_some_and(|parts| is_call(parts.says) || load(parts.says).is_some() || delta(parts.says).is_some())
}

impl Reader for Systemtap {
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        let Some(parts) = split(line) else {
            return Ok(if line.trim().is_empty() { Line::Understood } else { Line::NotUnderstood });
        };
        if let Some(numbers) = load(parts.says) {
            self.remember(&parts, numbers.run_delay_ns);
        } else if let Some((printed, numbers)) = delta(parts.says) {
            self.remember(&parts, numbers.run_delay_ns);
            self.judge(&parts, printed, &numbers, sink)?;
        } else if !is_call(parts.says) {
            return Ok(Line::NotUnderstood);
        }
        Ok(Line::Understood)
    }
}

impl Systemtap {
    fn remember(&mut self, parts: &Parts<'_>, run_delay_ns: u64) {
        if self.run_delays.len() < MOST_THREADS || self.run_delays.contains_key(&parts.tid) {
            self.run_delays.insert(parts.tid, (parts.comm.to_owned(), run_delay_ns));
        }
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
        let mut owners: Vec<_> =
            self.run_delays.iter().filter(|(tid, (_, ns))| **tid != not && *ns == run_delay_ns).collect();
        owners.sort();
        owners.first().map(|(tid, (comm, _))| Thread { tid: **tid, comm: comm.clone() })
    }
}

fn event(parts: &Parts<'_>, numbers: &Numbers) -> Event {
    let mut comm = [0; 16];
    let length = parts.comm.len().min(16);
    comm[..length].copy_from_slice(&parts.comm.as_bytes()[..length]);
    Event {
        kind: EventKind::Update as u32,
        caller_tid: parts.tid,
        run_delay_ns: numbers.run_delay_ns,
        last_steal_before_ns: numbers.last_steal_ns,
        last_steal_after_ns: numbers.run_delay_ns,
        comm,
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

/// `delta: 18446744073701734971 ns, steal=7856949 ns, run_delay=40304 ns`
fn delta(says: &str) -> Option<(u64, Numbers)> {
    let (delta, numbers) = says.strip_prefix("delta: ")?.split_once(" ns, steal=")?;
    let (steal, run_delay) = numbers.split_once(" ns, run_delay=")?;
    let run_delay_ns = run_delay.strip_suffix(" ns")?.parse().ok()?;
    Some((delta.parse().ok()?, Numbers { run_delay_ns, last_steal_ns: steal.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use crate::{
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
            [("steal-underflow", Severity::Error, 18449), ("steal-underflow", Severity::Error, 18448)]
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
