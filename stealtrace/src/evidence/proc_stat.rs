//! A guest's /proc/stat, once or many times: is its steal column possible?
//! Judged against the uptime, if /proc/uptime stands before it, else against the CPUs' other columns; and against the
//! snapshot before.

use std::{collections::BTreeMap, io};

use stealtrace_common::event::Event;

use super::{Line, Reader, Sink};
use crate::model::{Finding, Severity, Value, Vcpu, VcpuKey, VcpuName};

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

/// The snapshot being read and the one before it.
#[derive(Default)]
pub(super) struct ProcStat {
    current: Snapshot,
    before: Option<Snapshot>,
    /// CPUs that show nothing but steal, and since when.
    stuck: BTreeMap<u32, Stuck>,
    snapshots: u64,
}

/// Steal and the sum of the other columns, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cpu {
    steal: u64,
    others: u64,
}

/// When a CPU's other columns last moved.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    steal: u64,
    uptime: Option<u64>,
}

#[derive(Default)]
struct Snapshot {
    /// In ticks.
    uptime: Option<u64>,
    total: Option<Cpu>,
    cpus: BTreeMap<u32, Cpu>,
}

pub(super) fn is_one(line: &str) -> bool {
    cpu_line(line).is_some()
}

impl Reader for ProcStat {
    fn line(&mut self, line: &str, sink: &mut dyn Sink) -> io::Result<Line> {
        if let Some((id, cpu)) = cpu_line(line) {
            self.cpu(id, cpu, sink)?;
            return Ok(Line::Understood);
        }
        if let Some(uptime) = uptime_line(line) {
            self.uptime(uptime, sink)?;
            return Ok(Line::Understood);
        }
        Ok(if is_other(line) { Line::Understood } else { Line::NotUnderstood })
    }

    fn end(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        self.judge_current(sink)
    }
}

impl ProcStat {
    /// A total, or a CPU that the snapshot already has, begins the next snapshot.
    fn cpu(&mut self, id: Option<u32>, cpu: Cpu, sink: &mut dyn Sink) -> io::Result<()> {
        let begins = match id {
            None => self.current.total.is_some() || !self.current.cpus.is_empty(),
            Some(id) => self.current.cpus.contains_key(&id),
        };
        if begins {
            self.judge_current(sink)?;
        }
        match id {
            None => self.current.total = Some(cpu),
            Some(id) if self.current.cpus.len() < MOST_CPUS => drop(self.current.cpus.insert(id, cpu)),
            Some(_) => {}
        }
        Ok(())
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
        self.snapshots += 1;
        for (id, cpu) in &current.cpus {
            let moved = self.moved(*id, *cpu, current.uptime);
            for finding in impossible(*id, *cpu, &current).into_iter().chain(moved) {
                sink.finding(key(*id), finding)?;
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
            let last_moved = Stuck { steal: earlier.steal, uptime: before.uptime };
            let since = self.stuck.entry(id).or_insert(last_moved);
            let passed = uptime.zip(since.uptime).map(|(now, then)| now.saturating_sub(then));
            return Some(stuck(id, cpu.steal - since.steal, passed).with_steal(earlier, cpu));
        }
        self.stuck.remove(&id);
        let what = || format!("guest CPU {id}'s steal decreased between two snapshots");
        let backwards = || finding("steal-backwards", Severity::Error, id, what()).with_steal(earlier, cpu);
        (cpu.steal < earlier.steal).then(backwards)
    }
}

fn key(id: u32) -> VcpuKey {
    VcpuKey { address: id.into(), generation: 0 }
}

fn finding(rule: &'static str, severity: Severity, id: u32, what: String) -> Finding {
    let vcpu = Vcpu::first_seen(VcpuName { pid: 0, vm: 0, id });
    Finding::new(
        rule,
        severity,
        &vcpu,
        &Event { comm: *b"guest\0\0\0\0\0\0\0\0\0\0\0", ..Event::default() },
        what,
    )
}

fn impossible(id: u32, cpu: Cpu, snapshot: &Snapshot) -> Option<Finding> {
    let (is_impossible, but, uptime, name) = match snapshot.uptime {
        Some(uptime) => {
            let most = uptime.saturating_add(uptime / 100).saturating_add(STARVED_TICKS);
            (cpu.steal > most, format!("the guest is up for {}", span(uptime)), uptime, "uptime_ticks")
        }
        None => {
            let least = snapshot.cpus.values().map(|cpu| cpu.others).max().unwrap_or(0);
            let rich = cpu.steal >= LEAST_TICKS && cpu.steal / IMPOSSIBLE_RATIO > least;
            (rich, format!("ran and idled for {}", span(cpu.others)), least, "least_uptime_ticks")
        }
    };
    is_impossible.then(|| {
        let what = format!("guest CPU {id} shows {} of steal, but {but}", span(cpu.steal));
        finding("steal-poisoned", Severity::Error, id, what)
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
            finding("steal-poisoned", Severity::Error, id, what)
        }
        _ => finding("steal-over-charge", Severity::Warning, id, what),
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

/// `cpu3 332 0 235 163573105 318069 0 1 1223752959076 0 0`; None as id for the total.
fn cpu_line(line: &str) -> Option<(Option<u32>, Cpu)> {
    let mut words = line.trim().split_ascii_whitespace();
    let id = match words.next()?.strip_prefix("cpu")? {
        "" => None,
        id => Some(id.parse().ok()?),
    };
    let mut columns = [0_u64; 8]; // user nice system idle iowait irq softirq steal
    for column in &mut columns {
        *column = words.next()?.parse().ok()?;
    }
    let [others @ .., steal] = columns;
    Some((id, Cpu { steal, others: others.iter().fold(0, |sum, ticks| sum.saturating_add(*ticks)) }))
}

/// /proc/uptime, in ticks: seconds since the boot and seconds that CPUs idled, `350735.47 234388.90`.
fn uptime_line(line: &str) -> Option<u64> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [uptime, idle] = words[..] else { return None };
    let seconds =
        |word: &str| word.contains('.').then(|| word.parse::<f64>().ok())?.filter(|s| s.is_finite());
    seconds(idle)?;
    Some((seconds(uptime)? * 100.0) as u64)
}

/// Lines of /proc/stat that say nothing of steal.
fn is_other(line: &str) -> bool {
    const OTHERS: [&str; 7] =
        ["intr", "ctxt", "btime", "processes", "procs_running", "procs_blocked", "softirq"];
    match line.trim().split(' ').next() {
        Some("") | None => true,
        Some(word) => OTHERS.contains(&word),
    }
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
mod tests {
    use super::span;
    use crate::{
        evidence::{Kind, detect, testing::read},
        model::Severity,
    };

    const STAT: &str = include_str!("../../../tests/evidence/proc-stat.txt");

    #[test]
    fn the_bug_report_is_impossible_on_all_four_cpus_and_its_total_wrapped_once() {
        let kept = read(Kind::ProcStat, STAT);
        let found: Vec<_> = kept.findings.iter().map(|f| (f.rule, f.severity, f.vcpu.id)).collect();
        let poisoned = |id| ("steal-poisoned", Severity::Error, id);
        assert_eq!(found, [poisoned(0), poisoned(1), poisoned(2), poisoned(3)]);
        let [note] = &kept.notes[..] else { panic!("{:?}", kept.notes) };
        assert!(note.contains("136562317270") && note.contains("1981236724638"), "{note}");
        assert!(note.contains("exactly one wrap of 2^64 ns"), "{note}");
        assert_eq!(kept.not_understood, 0);
    }

    fn snapshot(steal: u64, idle: u64) -> String {
        format!("cpu  0 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 0 0 0 {idle} 0 0 0 {steal} 0 0\nbtime 1\n")
    }

    #[test]
    fn a_healthy_guest_is_silent() {
        let kept = read(Kind::ProcStat, &(snapshot(100, 1000) + &snapshot(150, 2000)));
        assert!(kept.findings.is_empty() && kept.notes.is_empty());
    }

    #[test]
    fn decreasing_and_stuck_steal_between_snapshots_are_found() {
        let found = |first: (u64, u64), second: (u64, u64)| {
            let kept = read(Kind::ProcStat, &(snapshot(first.0, first.1) + &snapshot(second.0, second.1)));
            kept.findings.iter().map(|f| (f.rule, f.severity)).collect::<Vec<_>>()
        };
        assert_eq!(found((100, 1000), (99, 2000)), [("steal-backwards", Severity::Error)]);
        assert_eq!(found((100, 1000), (101, 1000)), [("steal-over-charge", Severity::Warning)]);
    }

    fn up(seconds: u64, steal: u64, idle: u64) -> String {
        format!("{seconds}.00 7.50\n{}", snapshot(steal, idle))
    }

    #[test]
    fn all_that_passed_in_ten_seconds_is_poisoned_and_less_is_not() {
        let found = |snapshots: &[String]| {
            let kept = read(Kind::ProcStat, &snapshots.concat());
            assert_eq!(kept.not_understood, 0);
            kept.findings.iter().map(|f| (f.rule, f.severity)).collect::<Vec<_>>()
        };
        let stuck = ("steal-over-charge", Severity::Warning);
        let poisoned = ("steal-poisoned", Severity::Error);
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 9), up(910, 1000, 9)]), [stuck, poisoned]);
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 9), up(909, 900, 9)]), [stuck]);
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 9), up(910, 989, 9)]), [stuck]); // ran for moments
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 10), up(910, 1000, 10)]), [stuck]);
        assert_eq!(found(&[snapshot(0, 9), snapshot(2000, 9)]), [stuck]); // in who knows how long
    }

    #[test]
    fn the_uptime_may_stand_behind_its_snapshot() {
        let stat =
            [(60, 0), (3660, 18_000)].map(|(up, steal)| snapshot(steal, up) + &format!("{up}.10 7.50\n"));
        assert!(read(Kind::ProcStat, &stat.concat()).findings.is_empty());
        assert_eq!(read(Kind::ProcStat, &stat.concat().replace("18000", "480000")).findings.len(), 1);
    }

    #[test]
    fn a_cpu_that_was_away_begins_anew() {
        let steal = |steal| format!("cpu1 0 0 0 9 0 0 0 {steal} 0 0\n");
        let stat = [steal(900), steal(1000), "cpu 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0\n".to_owned()];
        let kept = read(Kind::ProcStat, &(stat.concat() + "cpu 0 0 0 0 0 0 0 0\n" + &steal(5) + &steal(7)));
        assert_eq!(kept.findings.len(), 1, "{:?}", kept.findings);
    }

    #[test]
    fn more_steal_than_uptime_is_impossible_and_a_starved_guest_is_not() {
        let rules = |seconds, steal| read(Kind::ProcStat, &up(seconds, steal, 100)).findings.len();
        assert_eq!(rules(3600, 360_000), 0);
        assert_eq!(rules(3600, 364_600), 0);
        assert_eq!(rules(3600, 364_601), 1);
    }

    #[test]
    fn ten_times_the_other_columns_is_the_boundary() {
        let rules = |steal| read(Kind::ProcStat, &snapshot(steal, 360_000)).findings.len();
        assert_eq!(rules(3_600_009), 0);
        assert_eq!(rules(3_600_010), 1);
    }

    #[test]
    fn spans_are_rounded_down() {
        let spans = [100, 720_000, 8_640_000 * 2, 8_640_000 * 730].map(span);
        assert_eq!(spans, ["1 s", "2 hours", "2 days", "2 years"]);
    }

    #[test]
    fn it_is_recognised() {
        assert_eq!(detect(STAT), Some(Kind::ProcStat));
    }
}
