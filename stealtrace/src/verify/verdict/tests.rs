use anyhow::anyhow;

use super::{Agreement, Attempt, MOST_ATTEMPTS, Testimony, Verdict};
use crate::verify::Transcript;
use crate::vmm::scenario::{Fault, Harm, Observation, Tally, scenarios};

fn seen(harm: Harm, conclusive: bool) -> Observation {
    let fault = (harm != Harm::None).then(|| Fault { harm, what: String::new() });
    Observation { fault, conclusive, ..Observation::default() }
}

fn play(observations: &[Observation], repeat: u32) -> Verdict {
    let mut next = observations.iter().cycle().cloned();
    let mut attempt =
        || Attempt { played: Ok(next.next().unwrap()), told: None, transcript: Transcript::default() };
    Verdict::of(scenarios().next().unwrap(), repeat, |_| Ok(Some(attempt()))).unwrap().unwrap()
}

#[test]
fn a_disturbed_run_is_tried_again() {
    let verdict = play(&[seen(Harm::None, false), seen(Harm::Corrupt, false)], 1);
    assert_eq!((verdict.attempts, verdict.observation.harm()), (2, Harm::Corrupt));
    let verdict = play(&[seen(Harm::None, false)], 1);
    assert_eq!((verdict.attempts, verdict.proves_something()), (MOST_ATTEMPTS, false));
}

#[test]
fn of_several_the_worst_counts() {
    let [good, bad] = [seen(Harm::None, true), seen(Harm::Corrupt, true)];
    let verdict = play(&[good.clone(), bad, good], 3);
    assert_eq!((verdict.observation.harm(), verdict.harmful, verdict.played), (Harm::Corrupt, 1, 3));
    assert!(verdict.why().contains("1 of 3 times"), "{}", verdict.why());
}

#[test]
fn what_was_played_before_an_interruption_counts() {
    let until = |last: u32| {
        let attempt = |number| {
            let played = Ok(seen(Harm::None, true));
            (number < last).then_some(Attempt { played, told: None, transcript: Transcript::default() })
        };
        Verdict::of(scenarios().next().unwrap(), 5, |number| Ok(attempt(number))).unwrap()
    };
    assert!(until(0).is_none());
    assert_eq!(until(2).map(|verdict| verdict.played), Some(2));
}

#[test]
fn what_could_not_be_played_is_broken() {
    let refused = || {
        Ok(Some(Attempt {
            played: Err(anyhow!("KVM refuses")),
            told: None,
            transcript: Transcript::default(),
        }))
    };
    let verdict = Verdict::of(scenarios().next().unwrap(), 1, |_| refused()).unwrap().unwrap();
    assert_eq!(verdict.observation.harm(), Harm::Broken);
    assert!(verdict.why().contains("KVM refuses"));
}

#[test]
fn the_witnesses_must_say_the_same() {
    let agreement = |saw, told| match Agreement::of(&seen(saw, true), Some(told)) {
        Agreement::Agree => "agree",
        Agreement::Disagree(_) => "disagree",
        Agreement::Blind => "blind",
        Agreement::Nothing => "nothing",
    };
    for (saw, told, how) in [
        (Harm::Corrupt, Testimony::Saw(Harm::Corrupt), "agree"),
        (Harm::None, Testimony::Saw(Harm::None), "agree"),
        (Harm::None, Testimony::Saw(Harm::Corrupt), "disagree"),
        (Harm::Corrupt, Testimony::Saw(Harm::None), "disagree"),
        (Harm::Corrupt, Testimony::Saw(Harm::OverCharged), "disagree"),
        (Harm::None, Testimony::FirstRun, "agree"), // a charge that most scenarios do not look at
        (Harm::OverCharged, Testimony::FirstRun, "agree"),
        (Harm::Corrupt, Testimony::FirstRun, "disagree"),
        (Harm::Broken, Testimony::Saw(Harm::Corrupt), "nothing"), // not about steal
        (Harm::Corrupt, Testimony::Unsure, "nothing"),
        (Harm::None, Testimony::Blind, "blind"),
    ] {
        assert_eq!(agreement(saw, told), how, "{saw} {told:?}");
    }
    let masked = Observation { aside: Harm::Corrupt, ..seen(Harm::None, true) };
    let of = |told| Agreement::of(&masked, Some(Testimony::Saw(told)));
    assert_eq!(of(Harm::Corrupt), Agreement::Agree);
    assert!(matches!(of(Harm::None), Agreement::Disagree(_)));
}

#[test]
fn nothing_played_and_nobody_watching_is_no_agreement() {
    let skipped = Observation { skipped: Some("no".to_owned()), ..Observation::default() };
    assert_eq!(Agreement::of(&skipped, Some(Testimony::Saw(Harm::None))), Agreement::Nothing);
    assert_eq!(Agreement::of(&seen(Harm::None, true), None), Agreement::Nothing);
}

#[test]
fn rounds_are_compared_one_by_one() {
    let agreement = |missed, false_reports, told| {
        let tally = Tally { seen: 9, missed, false_reports, ..Tally::default() };
        Agreement::of(&Observation { tally: Some(tally), ..seen(Harm::Corrupt, true) }, Some(told))
    };
    let saw = Testimony::Saw(Harm::Corrupt);
    assert_eq!(agreement(0, 0, saw), Agreement::Agree);
    assert!(matches!(agreement(1, 0, saw), Agreement::Disagree(_)));
    assert!(matches!(agreement(0, 1, saw), Agreement::Disagree(_)));
    assert_eq!(agreement(9, 0, Testimony::Blind), Agreement::Blind);
}
