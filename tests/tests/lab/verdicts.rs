//! What verify says of each kernel, and its second witness.

use std::collections::BTreeMap;

use serde_json::Value;
use stealtrace_tests::{Run, json_lines};

use super::{Class, Step};

pub(crate) static STEPS: &[&Step] = &[&AFFECTED, &FIXED, &SOUND, &CONTAINED];

/// With enough for a class.
macro_rules! expect {
    ($class:literal) => {
        Step::every(
            concat!("expect ", $class),
            concat!(
                "stealtrace verify --no-trace --expect ",
                $class,
                " same-thread restore-by-main-thread run-hand-off-down"
            ),
        )
    };
}

static AFFECTED: Step = expect!("affected");
static FIXED: Step = expect!("fixed");
static SOUND: Step = expect!("sound");

#[test]
fn verdicts_match_the_kernels() {
    for (step, class) in [(&AFFECTED, Some(Class::Affected)), (&FIXED, Some(Class::Fixed)), (&SOUND, None)] {
        for (kernel, run) in step.runs() {
            let as_expected = Some(kernel.class) == class;
            assert_eq!(run.code, i32::from(!as_expected), "{}: {}{}", step.name, run.stdout, run.stderr);
            let sentence = format!("this kernel is {}", kernel.class.word());
            assert!(run.stdout.contains(&sentence), "{}", run.stdout);
        }
    }
}

/// In a PID namespace, as in a container.
static CONTAINED: Step = Step::every(
    "contained",
    "unshare --pid --fork --mount-proc stealtrace verify --format json same-thread \
                         restore-by-main-thread run-hand-off-down",
);

#[test]
fn in_a_pid_namespace_both_witnesses_agree() {
    for step in CONTAINED.on_every() {
        let agree: Vec<_> =
            json_lines(&step.stdout).iter().filter_map(|line| line["witnesses_agree"].as_bool()).collect();
        assert_eq!(agree, [true; 3], "{}{}", step.stdout, step.stderr);
    }
}

/// What verify says the guest saw, by scenario.
pub(crate) fn verdicts(step: &Run) -> BTreeMap<String, Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let verdicts = json_lines(&step.stdout).into_iter().filter(|line| line["type"] == "verdict");
    verdicts.map(|verdict| (text(&verdict["scenario"]), verdict)).collect()
}

/// The counters in what the guest saw: `1 ns -> 2 ns ...`
pub(crate) fn counters(verdict: &Value) -> Vec<u64> {
    let saw = verdict["guest_saw"].as_str().unwrap_or_default();
    saw.split(" -> ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect()
}

/// The number that follows these words in what the guest saw.
pub(crate) fn number_after(verdict: &Value, words: &str) -> u64 {
    let saw = verdict["guest_saw"].as_str().unwrap_or_default();
    let number = saw.split(words).nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {words:?} in {verdict}"))
}
