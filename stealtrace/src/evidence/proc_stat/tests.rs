use super::span;
use crate::{
    detect::{steal_backwards, steal_over_charge, steal_poisoned},
    evidence::{
        Kind, detect,
        testing::{Kept, read},
    },
    model::Severity,
};

const STAT: &str = include_str!("../../../../tests/evidence/proc-stat.txt");

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
    assert_eq!((poisoned(&kept), kept.engine.count(steal_over_charge::RULE.id, Severity::Warning)), (1, 1));
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
        (stat("9.00 1.00\n", 9, 900, 100, "btime 1000\n"), stat("20.00 1.00\n", 10, 950, 0, "btime 1900\n")),
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
    let stat: String = (0..=super::MOST_CPUS).map(|id| format!("cpu{id} 0 0 0 9 0 0 0 1 0 0\n")).collect();
    assert_eq!(read(Kind::ProcStat, &stat).missed.len(), 1);
}

#[test]
fn the_uptime_may_stand_behind_its_snapshot() {
    let stat = [(60, 0), (3660, 18_000)].map(|(up, steal)| snapshot(steal, up) + &format!("{up}.10 7.50\n"));
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
