//! A guest's /proc/stat, once or many times: is its steal column possible?
//! Judged against the uptime, if /proc/uptime stands before it, else against the CPUs' other columns; and against the
//! snapshot before, unless the guest rebooted in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use stealtrace_common::event::Event;

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

/// Does it look like a CPU's line or the total's, readable or not?
fn is_cpu_line(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let id = words.next().and_then(|word| word.strip_prefix("cpu"));
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    id.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit()))
        && words.take(4).filter(|word| is_number(word)).count() == 4
}

/// `cpu3 332 0 235 163573105 318069 0 1 1223752959076 0 0`; None as id for the total.
fn cpu_line(line: &str) -> Option<(Option<u32>, Cpu)> {
    let mut words = line.split_ascii_whitespace();
    let id = match words.next()?.strip_prefix("cpu")? {
        "" => None,
        id => Some(id.parse().ok()?),
    };
    let mut columns = [0_u64; 8];
    for column in &mut columns {
        *column = words.next()?.parse().ok()?;
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = columns;
    let sum = |columns: &[u64]| columns.iter().try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks));
    let busy = sum(&[user, nice, system, irq, softirq])?;
    Some((id, Cpu { steal, others: sum(&[busy, idle, iowait])?, busy }))
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
        detect::{steal_backwards, steal_over_charge, steal_poisoned},
        evidence::{
            Kind, detect,
            testing::{Kept, read},
        },
        model::Severity,
    };

    const STAT: &str = include_str!("../../../tests/evidence/proc-stat.txt");

    #[test]
    fn the_bug_report_is_impossible_on_all_four_cpus_and_its_total_wrapped_once() {
        let kept = read(Kind::ProcStat, STAT);
        let found: Vec<_> = kept.findings.iter().map(|f| (f.rule, f.severity, f.vcpu.id)).collect();
        let poisoned = |id| (steal_poisoned::RULE.id, Severity::Error, id);
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
        assert_eq!(found((100, 1000), (99, 2000)), [(steal_backwards::RULE.id, Severity::Error)]);
        assert_eq!(found((100, 1000), (101, 1000)), [(steal_over_charge::RULE.id, Severity::Warning)]);
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
        let stuck = (steal_over_charge::RULE.id, Severity::Warning);
        let poisoned = (steal_poisoned::RULE.id, Severity::Error);
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 9), up(910, 1000, 9)]), [stuck, poisoned]);
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 9), up(909, 900, 9)]), [stuck]);
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 9), up(910, 989, 9)]), [stuck]); // ran for moments
        assert_eq!(found(&[up(900, 0, 9), up(905, 500, 10), up(910, 1000, 10)]), [stuck]);
        assert_eq!(found(&[snapshot(0, 9), snapshot(2000, 9)]), [stuck]); // in who knows how long
    }

    #[test]
    fn a_state_that_is_seen_again_is_one_finding() {
        let poisoned = |kept: &Kept| kept.engine.count(steal_poisoned::RULE.id, Severity::Error);
        let stat = [up(900, 400_000, 1), up(901, 400_010, 90), up(902, 400_010, 190)];
        assert_eq!(poisoned(&read(Kind::ProcStat, &stat.concat())), 1);
        let stuck = [up(900, 0, 9), up(905, 500, 9), up(907, 700, 9), up(910, 1000, 9), up(911, 1100, 9)];
        let kept = read(Kind::ProcStat, &stuck.concat());
        assert_eq!(
            (poisoned(&kept), kept.engine.count(steal_over_charge::RULE.id, Severity::Warning)),
            (1, 1)
        );
        let again = [up(900, 400_000, 1), up(5, 0, 1), up(900, 400_000, 90)];
        assert_eq!(poisoned(&read(Kind::ProcStat, &again.concat())), 2);
    }

    #[test]
    fn after_a_reboot_counters_begin_anew() {
        let stat = |before: &str, busy: u64, idle: u64, steal: u64, boot: &str| {
            format!("{before}cpu0 {busy} 0 0 {idle} 0 0 0 {steal} 0 0\n{boot}")
        };
        for (first, second) in [
            (stat("900.00 1.00\n", 9, 900, 100, ""), stat("20.00 1.00\n", 10, 950, 0, "")),
            (stat("", 9, 900, 100, "btime 1000\n"), stat("", 10, 950, 0, "btime 1900\n")),
            (
                stat("9.00 1.00\n", 9, 900, 100, "btime 1000\n"),
                stat("20.00 1.00\n", 10, 950, 0, "btime 1900\n"),
            ),
            (stat("", 9, 900, 100, ""), stat("", 3, 950, 0, "")),
        ] {
            let kept = read(Kind::ProcStat, &(first.clone() + &second));
            assert!(kept.findings.is_empty(), "{first}{second}{:?}", kept.findings);
            assert!(kept.notes.iter().any(|note| note.contains("rebooted")), "{first}{second}");
        }
        for (first, second) in [
            (stat("900.00 1.00\n", 9, 900, 100, ""), stat("910.00 1.00\n", 9, 950, 0, "")),
            (stat("", 9, 900, 100, "btime 1000\n"), stat("", 10, 950, 0, "btime 1001\n")),
            (stat("", 9, 900, 100, ""), stat("", 9, 2, 0, "")), // re-plugged: idle begins anew, the rest does not
        ] {
            let kept = read(Kind::ProcStat, &(first + &second));
            assert_eq!(kept.findings.first().map(|f| f.rule), Some(steal_backwards::RULE.id), "{second}");
        }
    }

    #[test]
    fn a_cpus_line_that_cannot_be_read_is_missed() {
        for damaged in [
            "cpu1 0 0 0 9 0 0 0 -1 0 0",
            "cpu1 0 0 0 -9 0 0 0 1 0 0",
            "cpu1 0 0 0 9 0 0 0 18446744073709551616 0 0",
            "cpu1 18446744073709551615 1 0 9 0 0 0 1 0 0",
            "cpu1 0 0 0 9 0 0",
            "cpu99999999999 0 0 0 9 0 0 0 1 0 0",
        ] {
            assert_eq!(detect(damaged), Some(Kind::ProcStat), "{damaged}");
            let alone = read(Kind::ProcStat, damaged);
            assert!(alone.tally.unproved(Kind::ProcStat).is_some(), "{damaged}");
            let kept = read(Kind::ProcStat, &(snapshot(1, 9) + damaged));
            assert_eq!((kept.missed.len(), kept.not_understood), (1, 1), "{damaged}");
        }
    }

    #[test]
    fn more_cpus_than_are_remembered_are_missed() {
        let stat: String =
            (0..=super::MOST_CPUS).map(|id| format!("cpu{id} 0 0 0 9 0 0 0 1 0 0\n")).collect();
        assert_eq!(read(Kind::ProcStat, &stat).missed.len(), 1);
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
