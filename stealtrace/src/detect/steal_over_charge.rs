//! A steal delta larger than the time in which it can have grown. Names the hand-off or the first run as its cause.

use stealtrace_common::{
    event::{Event, EventKind, FIRST_SINCE_ENABLED, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    steal::StealDelta,
};

use super::{API, Case, Explanation, REWORK, Rule};
use crate::model::{Finding, Severity, Thread, Value, Vcpu};

pub(crate) const RULE: Rule = Rule {
    id: "steal-over-charge",
    judge,
    at_end: None,
    explanation: Explanation {
        what: "a steal delta larger than the wall time in which it can have grown",
        why: "The guest believes that it was robbed of time that it never asked for; Linux guests cap each tick, so \
              they show 100 % steal for a while.",
        evidence: "The delta, and since when it can have grown: the update before it, the enabling of the MSR, or a \
                   later moment at which nothing was left to charge. Silent where that was not seen, where it is less \
                   than 10 ms more, and where the delta did not reach the guest.",
        advice: "keep each vCPU on one thread; a charge at the first run after enabling is KVM's own and passes",
        references: &[REWORK, API],
    },
};

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, kind, .. } = case;
    if kind != EventKind::Update || !over_charged(event) {
        return None;
    }
    let cause = cause(vcpu, event);
    let what =
        format!("the guest was charged more than the time that passed: {}", cause_words(vcpu, event, cause));
    let blamed = case.last_steal_of();
    Some(
        Finding::new(RULE.id, Severity::Warning, vcpu, event, what)
            .with("cause", Value::Text(cause.to_owned()))
            .with("last_steal_of", blamed.as_ref().into())
            .with("run_delay", Value::Ns(event.run_delay_ns))
            .with("last_steal", Value::Ns(event.last_steal_before_ns))
            .with("delta", Value::SignedNs(delta(event).signed_ns()))
            .with("time_passed", Value::Ns(passed_ns(event))),
    )
}

/// Did the guest get more than the time that passed?
pub(super) fn over_charged(event: &Event) -> bool {
    event.previous_update_ns != 0
        && !delta(event).is_underflow()
        && delta(event).wrapped_ns() > passed_ns(event)
        && !spared(event)
}

/// Did the guest's counter grow by no more than the time (Linux 3.1 to 4.3, when a later load overwrites the delta,
/// and kernels that drop the delta of a hand-off)?
fn spared(event: &Event) -> bool {
    if !event.has(STEAL_AFTER_KNOWN) {
        return false;
    }
    // KVM's first write to an area has no "before": the counter then cannot have grown by more than it shows.
    let before = if event.has(STEAL_BEFORE_KNOWN) { event.steal_before_ns } else { 0 };
    let growth = StealDelta::between(before, event.steal_after_ns);
    growth.is_underflow() || growth.wrapped_ns() <= passed_ns(event)
}

fn delta(event: &Event) -> StealDelta {
    StealDelta::between(event.last_steal_before_ns, event.run_delay_ns)
}

fn passed_ns(event: &Event) -> u64 {
    event.time_ns.saturating_sub(event.previous_update_ns)
}

fn cause(vcpu: &Vcpu, event: &Event) -> &'static str {
    if vcpu.hand_off.is_some() {
        "hand-off"
    } else if event.has(FIRST_SINCE_ENABLED) {
        "first-run"
    } else {
        "unknown"
    }
}

fn cause_words(vcpu: &Vcpu, event: &Event, cause: &str) -> String {
    let caller = Thread::caller(event);
    match (&vcpu.hand_off, cause) {
        (Some(hand_off), _) => {
            format!("{caller} took KVM_RUN over from {}, which had waited less", hand_off.from)
        }
        (None, "first-run") => format!("the first run after enabling charges {caller}'s whole past"),
        (None, _) => format!("{caller} consumed it"),
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::{
        event::{Event, FIRST_SINCE_ENABLED, STEAL_AFTER_KNOWN},
        kvm::KVM_RUN,
    };

    use super::RULE;
    use crate::{
        detect::testing::{Script, judge},
        model::{Finding, Severity, Value},
    };

    const PASSED: u64 = 1000;

    fn charged(delta: u64, flags: u32) -> Event {
        let update = Script::enabled().update(1, 500 + delta, 500, (0, delta));
        Event { time_ns: 9000 + PASSED, previous_update_ns: 9000, flags: update.flags | flags, ..update }
    }

    fn cause(finding: Option<Finding>) -> Option<Value> {
        finding?.evidence.into_iter().find_map(|(name, value)| (name == "cause").then_some(value))
    }

    #[test]
    fn more_than_the_time_that_passed_is_a_warning() {
        assert_eq!(judge(&RULE, &[charged(PASSED + 1, 0)]).map(|f| f.severity), Some(Severity::Warning));
    }

    #[test]
    fn exactly_the_time_that_passed_is_fine() {
        assert!(judge(&RULE, &[charged(PASSED, 0)]).is_none());
    }

    #[test]
    fn an_unseen_past_proves_nothing() {
        let unseen = Event { previous_update_ns: 0, ..charged(PASSED + 1, 0) };
        assert!(judge(&RULE, &[unseen]).is_none());
    }

    #[test]
    fn what_never_reached_the_guest_is_no_charge() {
        for grew in [0, PASSED] {
            let withheld = Event { steal_after_ns: grew, ..charged(PASSED + 1, 0) };
            assert!(judge(&RULE, &[withheld]).is_none());
        }
    }

    #[test]
    fn a_first_write_charged_no_more_than_it_shows() {
        let first =
            |shown| Event { flags: STEAL_AFTER_KNOWN, steal_after_ns: shown, ..charged(PASSED + 1, 0) };
        assert!(judge(&RULE, &[first(PASSED)]).is_none());
        assert!(judge(&RULE, &[first(PASSED + 1)]).is_some());
    }

    #[test]
    fn the_cause_is_named() {
        let text = |word: &str| Some(Value::Text(word.to_owned()));
        assert_eq!(cause(judge(&RULE, &[charged(PASSED + 1, FIRST_SINCE_ENABLED)])), text("first-run"));
        let mut s = Script::enabled();
        let events = [s.ioctl(2, KVM_RUN), s.ioctl(1, KVM_RUN), charged(PASSED + 1, 0)];
        assert_eq!(cause(judge(&RULE, &events)), text("hand-off"));
        assert_eq!(cause(judge(&RULE, &[charged(PASSED + 1, 0)])), text("unknown"));
    }
}
