//! Threads with different pasts run, restore and read vCPUs in random order. What the guests saw must fit one of the
//! models of a kernel; a sequence that fits none is made as short as possible and printed. Round by round, what the
//! VMM saw is compared with what the second witness reports.

mod models;
mod stage;
mod steps;
mod truth;

use anyhow::Result;

use self::{
    models::MODELS,
    stage::{Record, perform},
    steps::{Step, generate, shrink},
};
use super::{Decides, Expects, Fault, Harm, Observation, Play, Scenario, Tally};
use crate::vmm::Vm;

pub(super) const SCENARIO: Scenario = Scenario {
    id: "random-hand-offs",
    about: "four threads with different pasts run, restore and read two vCPUs in random order (--seed, --rounds)",
    property: "steal never goes back and grows by no more than the time; every charge fits a model of the kernel",
    expects: Expects::HAND_OFF_DOWN,
    decides: None::<Decides>,
    play,
};

fn play(play: &mut Play<'_>) -> Result<Observation> {
    let steps = generate(play.seed, play.rounds);
    let records = perform(&steps, Vm::new()?, play.witness.as_deref_mut())?;
    let fitting = fitting(&records);
    let model = format!(
        "; charges off by {} ns; fits model: {}",
        truth::off_by_ns(&records),
        fitting.unwrap_or("none")
    );
    let observation = observation(&records, &model, play.witness.is_some());
    if fitting.is_some() {
        return Ok(observation);
    }
    Ok(Observation { fault: Some(Fault::broken(misfit(play.seed, &steps))), ..observation })
}

/// The same in this VM, of whose charges there is no model.
#[cfg(target_arch = "x86_64")]
pub(super) fn without_model(play: &mut Play<'_>, vm: Vm) -> Result<Observation> {
    let records = perform(&generate(play.seed, play.rounds), vm, play.witness.as_deref_mut())?;
    Ok(observation(&records, "", play.witness.is_some()))
}

/// The worst of them, and how the witnesses compare.
fn observation(records: &[Record], model: &str, witnessed: bool) -> Observation {
    let tally = tally(records);
    if witnessed {
        tell_missed(records);
    }
    let worst = records.iter().filter_map(Record::fault).max_by_key(|fault| fault.harm);
    let saw = saw(&tally, model, witnessed);
    Observation { tally: witnessed.then_some(tally), ..Observation::new(saw, worst, true) }
}

/// What the other witness did not report, with what was done to the same vCPU before: for -v.
fn tell_missed(records: &[Record]) {
    const BEFORE: usize = 4;
    for (at, missed) in records.iter().enumerate().filter(|(_, record)| is_missed(record)) {
        let of_vcpu = records[..at].iter().rev().filter(|record| record.step.vcpu == missed.step.vcpu);
        let before: Vec<_> = of_vcpu.take(BEFORE).map(Record::to_string).collect();
        log::info!("missed: {missed}; before, the last first: {}", before.join("; "));
    }
}

fn is_corrupt(record: &Record) -> bool {
    record.fault().is_some_and(|fault| fault.harm == Harm::Corrupt)
}

fn is_missed(record: &Record) -> bool {
    is_corrupt(record) && record.reported.corruptions == 0
}

/// The name of the strictest model that explains every charge.
fn fitting(records: &[Record]) -> Option<&'static str> {
    MODELS.iter().find(|model| model.misfit(records).is_none()).map(|model| model.name)
}

fn saw(tally: &Tally, model: &str, witnessed: bool) -> String {
    let Tally { rounds, seen, missed, false_reports, disturbed } = tally;
    let mut saw = format!("{rounds} hand-offs, {seen} lowered the counter{model}");
    if witnessed {
        saw += &format!(
            "; recall {}, precision {} ({missed} missed, {false_reports} false, {disturbed} rounds rescheduled)",
            percent(seen - missed, *seen),
            percent(seen - missed, seen - missed + false_reports),
        );
    }
    saw
}

/// Rounded down: 100 % means all.
fn percent(part: u64, whole: u64) -> String {
    (part * 100).checked_div(whole).map_or_else(|| "n/a".to_owned(), |percent| format!("{percent} %"))
}

/// How the witnesses compare, KVM_RUN by KVM_RUN.
fn tally(records: &[Record]) -> Tally {
    let mut tally = Tally::default();
    for record in records {
        let seen = is_corrupt(record);
        let reported = record.reported.corruptions > 0;
        tally.rounds += u64::from(record.hand_off);
        tally.seen += u64::from(seen);
        tally.missed += u64::from(is_missed(record));
        tally.disturbed += u64::from(!record.undisturbed());
        tally.false_reports += u64::from(!seen && reported && record.undisturbed());
        tally.false_reports += u64::from(record.reported.foreign_restores > 0 && !record.restored_by_another);
    }
    tally
}

/// The shortest sequence found that still fits no model, and what each model says of it.
fn misfit(seed: u64, steps: &[Step]) -> String {
    let fits_none = |steps: &[Step]| again(steps).is_ok_and(|records| fitting(&records).is_none());
    let short = shrink(steps, fits_none);
    let records = again(&short).unwrap_or_default();
    let told: Vec<_> = records.iter().map(Record::to_string).collect();
    format!("fits no model (seed {seed}); {} steps suffice: {}", short.len(), told.join("; "))
}

/// In a VM like the first, and nobody watches.
fn again(steps: &[Step]) -> Result<Vec<Record>> {
    perform(steps, Vm::new()?, None)
}

#[cfg(test)]
mod tests {
    use super::{
        percent, saw,
        stage::{Record, testing::ran},
        tally,
    };
    use crate::vmm::scenario::{Reports, Tally};

    fn reported(corruptions: u64, record: Record) -> Record {
        Record { reported: Reports { corruptions, ..Reports::default() }, ..record }
    }

    #[test]
    fn missed_and_false_reports_are_told_apart() {
        let records = [
            reported(1, ran(1, (50, 50), -10)), // seen and reported
            reported(0, ran(1, (50, 50), -10)), // missed
            reported(1, ran(1, (50, 50), 10)),  // false
            reported(0, ran(1, (50, 50), 10)),
        ];
        assert_eq!(tally(&records), Tally { rounds: 0, seen: 2, missed: 1, false_reports: 1, disturbed: 0 });
    }

    #[test]
    fn several_updates_in_one_run_are_no_false_report() {
        let mut record = reported(1, ran(1, (50, 60), 10));
        record.preemptions = 2;
        assert_eq!(tally(&[record]), Tally { disturbed: 1, ..Tally::default() });
    }

    #[test]
    fn nothing_to_recall_is_not_100_percent() {
        assert_eq!(percent(0, 0), "n/a");
        assert_eq!(percent(999, 1000), "99 %");
        assert_eq!(percent(1000, 1000), "100 %");
        assert!(!saw(&Tally::default(), "", false).contains("recall"));
    }
}
