//! A guest's /proc/stat, once or many times: is its steal column possible?
//! Judged against the uptime, if /proc/uptime stands before it, else against the CPUs' other columns; and against the
//! snapshot before, unless the guest rebooted in between.

mod line;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use stealtrace_common::event::Event;

use self::line::{cpu_line, is_cpu_line, uptime_line};
use super::{Line, Reader, Sink};
use crate::{
    detect::{steal_backwards, steal_over_charge, steal_poisoned},
    model::{Finding, RuleId, Severity, Value, Vcpu, VcpuKey, VcpuName},
};

const POISONED: RuleId = steal_poisoned::RULE.id;
/// Lines of /proc/stat that say nothing of steal.
const OTHERS: [&str; 7] = ["intr", "ctxt", "btime", "processes", "procs_running", "procs_blocked", "softirq"];
/// CPUs of one guest at most.
const MOST_CPUS: usize = 65_536;
/// A tick is 1/100 s for user space on x86 (`USER_HZ`).
const NS_PER_TICK: u64 = 10_000_000;
/// 2^64 ns in ticks.
const TICKS_PER_WRAP: u64 = u64::MAX / NS_PER_TICK;
/// A guest that was stolen from ten times as long as any of its CPUs ran or idled was never so poor.
const IMPOSSIBLE_RATIO: u64 = 10;
/// Below an hour a guest may just have booted on a very busy host.
const LEAST_TICKS: u64 = 360_000;
/// A CPU that nobody lets run for so long, 10 s, is starved as none is; and what clocks may differ by.
const STARVED_TICKS: u64 = 1000;

/// The time of the boot, as the kernel computes it, moves no more than this as clocks are adjusted.
const BOOT_SECONDS: u64 = 60;

/// The snapshot being read and the one before it.
#[derive(Default)]
pub struct ProcStat {
    current: Snapshot,
    before: Option<Snapshot>,
    /// CPUs that show nothing but steal, and since when.
    stuck: BTreeMap<u32, Stuck>,
    /// CPUs that were found poisoned: a state, which is found once.
    poisoned: BTreeSet<u32>,
}

/// Steal, the sum of the other columns, and of those in which the CPU ran something, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cpu {
    steal: u64,
    others: u64,
    busy: u64,
}

/// When a CPU's other columns last moved.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    steal: u64,
    uptime: Option<u64>,
    told: bool,
}

#[derive(Default)]
struct Snapshot {
    /// In ticks.
    uptime: Option<u64>,
    /// When the guest booted, s since 1970.
    boot: Option<u64>,
    total: Option<Cpu>,
    cpus: BTreeMap<u32, Cpu>,
}

/// What it is evidence by.
pub(super) const WANTS: &str = "line of a CPU (`cpu0 ...`)";

pub(super) fn is_one(line: &str) -> bool {
    is_cpu_line(line.trim())
}

impl Reader for ProcStat {
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        let line = line.trim(); // logs pasted into a web page begin with other spaces
        if is_cpu_line(line) {
            return match cpu_line(line) {
                Some((id, cpu)) => self.cpu(id, cpu, sink),
                None => Ok(Line::Damaged),
            };
        }
        if let Some(uptime) = uptime_line(line) {
            self.uptime(uptime, sink)?;
            return Ok(Line::Known);
        }
        let word = line.split_ascii_whitespace().next().unwrap_or_default();
        if word == "btime" {
            self.current.boot = line.split_ascii_whitespace().nth(1).and_then(|boot| boot.parse().ok());
        }
        Ok(match word {
            "" => Line::Blank,
            word if OTHERS.contains(&word) => Line::Known,
            _ => Line::NotUnderstood,
        })
    }

    fn end(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        self.judge_current(sink)
    }
}

impl ProcStat {
    /// Does a CPU show nothing but steal, for how long it is too early to say?
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.stuck.keys().any(|id| !self.poisoned.contains(id))
    }

    /// A total, or a CPU that the snapshot already has, begins the next snapshot.
    fn cpu(&mut self, id: Option<u32>, cpu: Cpu, sink: &mut dyn Sink) -> io::Result<Line> {
        let begins = match id {
            None => self.current.total.is_some() || !self.current.cpus.is_empty(),
            Some(id) => self.current.cpus.contains_key(&id),
        };
        if begins {
            self.judge_current(sink)?;
        }
        let Some(id) = id else {
            self.current.total = Some(cpu);
            return Ok(Line::Known);
        };
        if self.current.cpus.len() < MOST_CPUS {
            self.current.cpus.insert(id, cpu);
        } else {
            sink.missed("lines are of more CPUs than are remembered (65536)");
        }
        Ok(Line::Evidence)
    }

    /// Stands before its snapshot, or behind it: the next one's has not come yet then.
    fn uptime(&mut self, uptime: u64, sink: &mut dyn Sink) -> io::Result<()> {
        if self.current.uptime.is_some() {
            self.judge_current(sink)?;
        }
        self.current.uptime = Some(uptime);
        Ok(())
    }

    fn judge_current(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        if self.current.cpus.is_empty() && self.current.total.is_none() {
            return Ok(());
        }
        let current = std::mem::take(&mut self.current);
        if self.before.as_ref().is_some_and(|before| current.is_of_another_boot(before)) {
            *self = Self::default();
            sink.note(
                "the guest rebooted between two snapshots, as its times show; its counters begin anew",
            )?;
        }
        let longest = current.cpus.values().map(|cpu| cpu.others).max().unwrap_or(0);
        for (id, cpu) in &current.cpus {
            let impossible = impossible(*id, *cpu, current.uptime, longest);
            let moved = self.moved(*id, *cpu, current.uptime);
            if impossible.is_none() && !self.stuck.contains_key(id) {
                self.poisoned.remove(id);
            }
            for finding in impossible.into_iter().chain(moved) {
                if finding.rule != POISONED || self.poisoned.insert(*id) {
                    sink.finding(key(*id), finding)?;
                }
            }
        }
        if let Some(note) = wrapped_total(&current) {
            sink.note(&note)?;
        }
        self.before = Some(current);
        Ok(())
    }

    /// What the steal column did since the snapshot before that it must not.
    fn moved(&mut self, id: u32, cpu: Cpu, uptime: Option<u64>) -> Option<Finding> {
        let before = self.before.as_ref()?;
        let Some(earlier) = before.cpus.get(&id).copied() else {
            self.stuck.remove(&id);
            return None;
        };
        if cpu.steal > earlier.steal && cpu.others == earlier.others {
            let last_moved = Stuck { steal: earlier.steal, uptime: before.uptime, told: false };
            let since = self.stuck.entry(id).or_insert(last_moved);
            let passed = uptime.zip(since.uptime).map(|(now, then)| now.saturating_sub(then));
            let finding = stuck(id, cpu.steal - since.steal, passed).with_steal(earlier, cpu);
            let again = std::mem::replace(&mut since.told, true) && finding.severity < Severity::Error;
            return (!again).then_some(finding);
        }
        self.stuck.remove(&id);
        let what = || format!("guest CPU {id}'s steal decreased between two snapshots");
        let backwards =
            || finding(steal_backwards::RULE.id, Severity::Error, id, what()).with_steal(earlier, cpu);
        (cpu.steal < earlier.steal).then(backwards)
    }
}

impl Snapshot {
    /// By the uptime, else by when it booted, else by the time in which CPUs ran something, which only a boot takes back.
    fn is_of_another_boot(&self, before: &Self) -> bool {
        if let (Some(now), Some(then)) = (self.uptime, before.uptime)
            && now < then
        {
            return true;
        }
        if let (Some(now), Some(then)) = (self.boot, before.boot) {
            return now > then.saturating_add(BOOT_SECONDS);
        }
        self.cpus.iter().any(|(id, cpu)| before.cpus.get(id).is_some_and(|then| cpu.busy < then.busy))
    }
}

fn key(id: u32) -> VcpuKey {
    VcpuKey { address: id.into(), generation: 0 }
}

fn finding(rule: RuleId, severity: Severity, id: u32, what: String) -> Finding {
    let vcpu = Vcpu::first_seen(VcpuName { pid: 0, vm: 0, id });
    Finding::new(
        rule,
        severity,
        &vcpu,
        &Event { comm: *b"guest\0\0\0\0\0\0\0\0\0\0\0", ..Event::default() },
        what,
    )
}

/// `longest` is how long any of the CPUs ran or idled.
fn impossible(id: u32, cpu: Cpu, uptime: Option<u64>, longest: u64) -> Option<Finding> {
    let (is_impossible, but, uptime, name) = match uptime {
        Some(uptime) => {
            let most = uptime.saturating_add(uptime / 100).saturating_add(STARVED_TICKS);
            (cpu.steal > most, format!("the guest is up for {}", span(uptime)), uptime, "uptime_ticks")
        }
        None => {
            let rich = cpu.steal >= LEAST_TICKS && cpu.steal / IMPOSSIBLE_RATIO > longest;
            (rich, format!("ran and idled for {}", span(cpu.others)), longest, "least_uptime_ticks")
        }
    };
    is_impossible.then(|| {
        let what = format!("guest CPU {id} shows {} of steal, but {but}", span(cpu.steal));
        finding(POISONED, Severity::Error, id, what)
            .with("steal_ticks", Value::Number(cpu.steal))
            .with("other_ticks", Value::Number(cpu.others))
            .with(name, Value::Number(uptime))
    })
}

/// Nothing but steal: a starved CPU, or, if that is all that passed for long enough, a counter ahead of all time.
fn stuck(id: u32, stolen: u64, passed: Option<u64>) -> Finding {
    let what = format!("guest CPU {id} is stuck at 100 % steal, for {} s by now", stolen / 100);
    match passed {
        Some(passed) if passed >= STARVED_TICKS && stolen >= passed - passed / 100 => {
            finding(POISONED, Severity::Error, id, what)
        }
        _ => finding(steal_over_charge::RULE.id, Severity::Warning, id, what),
    }
}

impl Finding {
    fn with_steal(self, before: Cpu, after: Cpu) -> Self {
        self.with("steal_ticks_before", Value::Number(before.steal))
            .with("steal_ticks", Value::Number(after.steal))
    }
}

/// The kernel adds the CPUs up in ns: a total that is less than their sum by whole wraps of 2^64 ns.
fn wrapped_total(snapshot: &Snapshot) -> Option<String> {
    let total = snapshot.total?.steal;
    let sum = snapshot.cpus.values().try_fold(0_u64, |sum, cpu| sum.checked_add(cpu.steal))?;
    let missing = sum.checked_sub(total)?;
    let rounding = snapshot.cpus.len() as u64 + 1; // each column is rounded down to ticks
    let wraps = missing.saturating_add(rounding) / TICKS_PER_WRAP;
    if wraps == 0 || missing.abs_diff(wraps * TICKS_PER_WRAP) > rounding {
        return None;
    }
    let times = if wraps == 1 { "exactly one wrap".to_owned() } else { format!("{wraps} wraps") };
    Some(format!("the total's steal, {total}, is the CPUs' sum {sum} less {times} of 2^64 ns in ticks"))
}

/// Of time, roughly.
fn span(ticks: u64) -> String {
    let seconds = ticks / 100;
    match seconds / 86_400 {
        0 | 1 if seconds < 7200 => format!("{seconds} s"),
        0 | 1 => format!("{} hours", seconds / 3600),
        days if days < 730 => format!("{days} days"),
        days => format!("{} years", days / 365),
    }
}

#[cfg(test)]
mod tests;
