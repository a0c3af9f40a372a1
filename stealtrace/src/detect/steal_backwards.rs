//! KVM's own update lowered the guest's counter although no negative delta was seen.
//! With a negative delta it is evidence of steal-underflow.

use stealtrace_common::event::{EventKind, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN};

use super::{Case, Explanation, Rule, SUBTRACTS, steal_rewound};
use crate::model::{Finding, RuleId, Severity, Thread, Value};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("steal-backwards"),
    judge,
    settle: None,
    explanation: Explanation {
        what: "KVM's own update lowered the guest's counter, without an underflow that explains it",
        why: "Steal time never shrinks; a guest that sees it shrink counts the whole next tick as stolen.",
        evidence: "The guest's counter before and after one update. With a negative delta it is part of \
                   steal-underflow; a counter that restarted at zero was reset by the guest: steal-rewound.",
        advice: "check who else writes the guest's steal area; report it with `trace --format json`",
        references: &[SUBTRACTS],
    },
};

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    if event.kind != EventKind::Update || !event.has(STEAL_BEFORE_KNOWN | STEAL_AFTER_KNOWN) {
        return None;
    }
    let delta = event.delta();
    let growth = event.growth();
    if delta.is_underflow() || !growth.is_underflow() || steal_rewound::reset(event) {
        return None;
    }
    let what = format!("KVM's update in {} lowered the guest's steal", Thread::caller(event));
    Some(
        Finding::new(RULE.id, Severity::Error, vcpu, event, what)
            .with("delta", Value::SignedNs(delta.signed_ns()))
            .with("steal_before", Value::Ns(event.steal_before_ns))
            .with("steal_after", Value::Ns(event.steal_after_ns)),
    )
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::detect::testing::{Script, judge};

    #[test]
    fn a_lowered_counter_without_a_negative_delta_fires() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 900, 800, (1000, 999))]).is_some());
    }

    #[test]
    fn with_a_negative_delta_it_is_the_underflows_evidence() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 100, 900, (1000, 200))]).is_none());
    }

    #[test]
    fn a_guest_that_zeroes_its_counter_is_silent() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 900, 800, (1000, 100))]).is_none());
        assert!(judge(&RULE, &[s.update(1, 900, 800, (1000, 101))]).is_some());
    }

    #[test]
    fn growth_and_a_poisoned_counter_that_catches_up_are_silent() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 900, 800, (1000, 1100))]).is_none());
        assert!(judge(&RULE, &[s.update(1, 900, 800, (u64::MAX - 10, 89))]).is_none());
    }
}
