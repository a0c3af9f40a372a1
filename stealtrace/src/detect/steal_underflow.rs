//! KVM consumed a negative steal delta: the caller's run_delay was below the vCPU's last_steal.
//! A counter that went backwards without wrapping is this finding's evidence, not a finding of its own.

use stealtrace_common::{
    event::{Event, EventKind, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    steal::StealDelta,
};

use super::{Case, Explanation, FIX, REPORT, REWORK, Rule};
use crate::model::{Finding, Severity, Thread, Value, Vcpu};

pub(crate) const RULE: Rule = Rule {
    id: "steal-underflow",
    judge,
    at_end: None,
    explanation: Explanation {
        what: "KVM consumed a negative steal delta: the runner's run_delay was below last_steal",
        why: "The guest's steal counter wraps to nearly 2^64 ns or goes backwards. Linux guests then count every \
              tick as stolen until the counter catches up: top shows 100 % steal, CPU time stands still.",
        evidence: "The update itself: last_steal before and after, and the guest's counter before and after. A \
                   warning if the guest's counter did not change, which means that a later load overwrote it.",
        advice: "keep each vCPU on one thread (VMM) and run Linux 4.4 or later (host), or `stealtrace guard`; reboot \
                 the guest or reset its counter (`guard --heal`); or hide the feature (QEMU: -cpu ...,-kvm-steal-time)",
        references: &[REPORT, FIX, REWORK],
    },
};

/// Did the negative delta get into the guest's counter?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The counter changed with it.
    Reached,
    /// The counter did not change; a later load replaces the delta (Linux 3.1 to 4.3).
    Overwritten,
    /// The guest's area could not be read.
    Unknown,
}

fn judge(case: Case<'_>) -> Option<Finding> {
    let delta = StealDelta::between(case.event.last_steal_before_ns, case.event.run_delay_ns);
    if case.kind != EventKind::Update || !delta.is_underflow() {
        return None;
    }
    underflow(case.vcpu, case.event, case.last_steal_of().as_ref())
}

/// The finding about a negative delta, blaming the thread whose run_delay was in last_steal.
pub(crate) fn underflow(vcpu: &Vcpu, event: &Event, blamed: Option<&Thread>) -> Option<Finding> {
    let reach = reach(event);
    if reach == Reach::Overwritten && event.ioctl == 0 {
        return None; // KVM loads a vCPU once more to destroy it; no guest is left to see it
    }
    let severity = match reach {
        Reach::Reached | Reach::Unknown => Severity::Error,
        Reach::Overwritten => Severity::Warning,
    };
    let cause = match &vcpu.hand_off {
        Some(hand_off) => format!(" took KVM_RUN over from {} and", hand_off.from),
        None => String::new(),
    };
    let what = format!(
        "{}{cause} consumed a negative steal delta; {}",
        Thread::caller(event),
        consequence(event, reach)
    );
    let delta = StealDelta::between(event.last_steal_before_ns, event.run_delay_ns);
    let known = |flag, ns| event.has(flag).then_some(ns);
    Some(
        Finding::new(RULE.id, severity, vcpu, event, what)
            .with("last_steal_of", blamed.into())
            .with("run_delay", Value::Ns(event.run_delay_ns))
            .with("last_steal", Value::Ns(event.last_steal_before_ns))
            .with("delta", Value::SignedNs(delta.signed_ns()))
            .with("steal_before", known(STEAL_BEFORE_KNOWN, event.steal_before_ns).into())
            .with("steal_after", known(STEAL_AFTER_KNOWN, event.steal_after_ns).into())
            .with("reached_guest", Value::Text(reached_word(reach).to_owned()))
            .with(
                "steal_backwards",
                Value::Text(yes_no(reach == Reach::Reached && went_backwards(event)).to_owned()),
            ),
    )
}

/// Is it not known whether this underflow reached the guest?
pub(crate) fn is_unsure(finding: &Finding) -> bool {
    let unknown = Value::Text(reached_word(Reach::Unknown).to_owned());
    finding.evidence.iter().any(|(name, value)| *name == "reached_guest" && *value == unknown)
}

fn reach(event: &Event) -> Reach {
    let [before_known, after_known] = [STEAL_BEFORE_KNOWN, STEAL_AFTER_KNOWN].map(|flag| event.has(flag));
    let before_ns = if before_known { event.steal_before_ns } else { 0 };
    let lowered = StealDelta::between(before_ns, event.steal_after_ns).is_underflow();
    match (before_known, after_known, lowered) {
        (_, true, true) => Reach::Reached, // whatever it was before, no sound counter shows this
        (true, true, false) => Reach::Overwritten, // the counter stayed, or grew by what a later update charged
        _ => Reach::Unknown,
    }
}

fn went_backwards(event: &Event) -> bool {
    event.steal_after_ns < event.steal_before_ns
}

fn consequence(event: &Event, reach: Reach) -> &'static str {
    match reach {
        Reach::Overwritten => "overwritten before it reached the guest",
        Reach::Reached if went_backwards(event) => "the guest's steal went backwards",
        Reach::Reached => "the guest's steal wrapped below zero",
        Reach::Unknown => "the guest's steal before or after could not be read",
    }
}

const fn reached_word(reach: Reach) -> &'static str {
    match reach {
        Reach::Reached => "yes",
        Reach::Overwritten => "no",
        Reach::Unknown => "unknown",
    }
}

const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::{Event, STEAL_AFTER_KNOWN};

    use super::RULE;
    use crate::{
        detect::testing::{Script, judge},
        model::{Finding, Severity, Thread, Value},
    };

    fn field<'a>(finding: &'a Finding, name: &str) -> &'a Value {
        let found = finding.evidence.iter().find(|(field, _)| *field == name);
        &found.expect("the finding has the field").1
    }

    #[test]
    fn the_bug_report_wraps_the_counter_and_names_the_main_thread() {
        let mut s = Script::new();
        let restore = s.restore(18446, 7_856_949, (0, 7_856_949));
        let mut update = s.update(18449, 40_304, 7_856_949, (0, 0u64.wrapping_sub(7_816_645)));
        update.last_steal_tid = 18446;
        let finding = judge(&RULE, &[restore, update]).expect("fires");
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(field(&finding, "delta"), &Value::SignedNs(-7_816_645));
        assert_eq!(
            field(&finding, "last_steal_of"),
            &Value::Thread(Thread { tid: 18446, comm: "qemu".to_owned() })
        );
        assert!(finding.what.contains("wrapped below zero"), "{}", finding.what);
    }

    #[test]
    fn a_large_counter_goes_backwards_instead() {
        let mut s = Script::enabled();
        let finding = judge(&RULE, &[s.update(2, 100, 900, (1000, 200))]).expect("fires");
        assert_eq!(field(&finding, "steal_backwards"), &Value::Text("yes".to_owned()));
    }

    #[test]
    fn a_delta_that_never_reached_the_guest_is_a_warning() {
        let mut s = Script::enabled();
        let finding = judge(&RULE, &[s.update(2, 100, 900, (1000, 1000))]).expect("fires");
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.what.contains("overwritten"), "{}", finding.what);
    }

    #[test]
    fn an_impossible_counter_reached_the_guest_whatever_it_was_before() {
        let mut s = Script::enabled();
        let update = s.update(2, 100, 900, (0, 0u64.wrapping_sub(800)));
        let finding = judge(&RULE, &[Event { flags: STEAL_AFTER_KNOWN, ..update }]).expect("fires");
        assert_eq!(field(&finding, "reached_guest"), &Value::Text("yes".to_owned()));
        assert_eq!(field(&finding, "steal_backwards"), &Value::Text("no".to_owned()));
    }

    #[test]
    fn a_kernel_that_drops_a_negative_delta_spares_the_guest() {
        let mut s = Script::enabled();
        let finding = judge(&RULE, &[s.update(2, 100, 900, (1000, 1005))]).expect("fires");
        assert_eq!(finding.severity, Severity::Warning);
    }

    #[test]
    fn the_load_that_destroys_a_vcpu_is_silent() {
        let mut s = Script::enabled();
        let teardown = Event { ioctl: 0, ..s.update(2, 100, 900, (1000, 1000)) };
        assert!(judge(&RULE, &[teardown]).is_none());
    }

    #[test]
    fn equal_and_growing_numbers_are_fine() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 900, 900, (5, 5))]).is_none());
        assert!(judge(&RULE, &[s.update(1, 901, 900, (5, 6))]).is_none());
    }

    #[test]
    fn one_below_is_an_underflow() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 899, 900, (5, 4))]).is_some());
    }
}
