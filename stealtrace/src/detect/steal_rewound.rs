//! The guest's counter changed between two of KVM's updates: the VMM restored memory, or the guest reset it.
//! Judges the update itself, not the value last seen by others.

use stealtrace_common::{
    event::{ACCUMULATES, Event, EventKind, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN, STEAL_LAST_KNOWN},
    kvm::KVM_RUN,
};

use super::{Case, Explanation, Rule};
use crate::model::{Finding, RuleId, Severity, Value};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("steal-rewound"),
    judge,
    settle: None,
    explanation: Explanation {
        what: "the guest's counter changed between two of KVM's updates",
        why: "Ordinary: loading a snapshot brings old memory back, and a booting guest zeroes the area. It explains a \
              counter that is lower than before, so that nobody takes it for corruption.",
        evidence: "The counter as one update left it and as the next one found it; or a counter that restarted at \
                   zero while the guest ran.",
        advice: "nothing, if a snapshot was loaded or the guest rebooted; else find out who writes guest memory",
        references: &[],
    },
};

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    let (what, left, found) = match event.kind {
        EventKind::Update if rewound(event) && may_have_slept(event) => (
            "since KVM's last update it counted the host's sleep, or the VMM or the guest changed the counter",
            event.steal_last_ns,
            event.steal_before_ns,
        ),
        EventKind::Update if rewound(event) => (
            "the guest's counter was changed by the VMM or the guest since KVM's last update",
            event.steal_last_ns,
            event.steal_before_ns,
        ),
        EventKind::Update if reset(event) => {
            ("the guest set its counter to zero", event.steal_before_ns, event.steal_after_ns)
        }
        _ => return None,
    };
    Some(
        Finding::new(RULE.id, Severity::Notice, vcpu, event, what.to_owned())
            .with("steal_left", Value::Ns(left))
            .with("steal_found", Value::Ns(found)),
    )
}

/// Is the counter not what the last update left? Where loads keep deltas until guest entry, only whoever runs the vCPU can
/// tell: the counter may grow while another thread's ioctl returns.
pub(super) fn rewound(event: &Event) -> bool {
    let can_tell = event.ioctl == KVM_RUN || !event.has(ACCUMULATES);
    can_tell
        && event.has(STEAL_BEFORE_KNOWN | STEAL_LAST_KNOWN)
        && event.steal_last_ns != event.steal_before_ns
}

/// Is it further than that in a guest that asked for the host's sleep? Where nothing else was charged, that update did not
/// show.
fn may_have_slept(event: &Event) -> bool {
    event.source.counts_sleep(event.enabling_before) && event.steal_before_ns > event.steal_last_ns
}

/// Did the counter restart at zero while the guest ran? It then holds no more than was charged meanwhile.
pub(super) fn reset(event: &Event) -> bool {
    let charged = event.delta();
    let growth = event.growth();
    event.has(STEAL_BEFORE_KNOWN | STEAL_AFTER_KNOWN)
        && growth.is_underflow()
        && !charged.is_underflow()
        && event.steal_after_ns <= charged.wrapped_ns()
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::{Event, STEAL_LAST_KNOWN};

    use super::RULE;
    use crate::{
        detect::testing::{Script, judge},
        model::Severity,
    };

    fn found(left: u64, found: u64) -> Event {
        let update = Script::enabled().update(1, 900, 800, (found, found + 100));
        Event { steal_last_ns: left, flags: update.flags | STEAL_LAST_KNOWN, ..update }
    }

    #[test]
    fn a_counter_set_back_between_updates_is_a_notice() {
        assert_eq!(judge(&RULE, &[found(5000, 1000)]).map(|f| f.severity), Some(Severity::Notice));
    }

    #[test]
    fn a_counter_that_grew_by_the_hosts_sleep_is_not_laid_at_others_doors() {
        let slept = |enabling| {
            let event = Event { enabling_before: enabling, ..found(1000, 5000) };
            judge(&RULE, &[event]).is_some_and(|finding| finding.what.contains("sleep"))
        };
        assert!(slept(0x2003) && !slept(0x2001));
    }

    #[test]
    fn a_counter_that_restarts_at_zero_is_a_notice() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 900, 800, (1000, 100))]).is_some());
        assert!(judge(&RULE, &[s.update(1, 900, 800, (1000, 101))]).is_none());
        assert!(judge(&RULE, &[s.update(1, 800, 900, (1000, 0))]).is_none(), "that is an underflow");
    }

    #[test]
    fn an_untouched_counter_and_an_unknown_past_are_silent() {
        assert!(judge(&RULE, &[found(5000, 5000)]).is_none());
        assert!(judge(&RULE, &[Script::enabled().update(1, 900, 800, (1000, 1100))]).is_none());
    }
}
