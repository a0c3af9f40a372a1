//! The guest's counter was impossible already when first seen, or became so while nobody updated it.
//! What KVM does to it from then on is other rules' business.

use stealtrace_common::{
    event::{Event, EventKind, FIRST_READ, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    source::Source,
    steal::is_impossible,
};

use super::{Case, Explanation, REPORT, Rule, steal_rewound};
use crate::model::{Finding, RuleId, Severity, Value};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("steal-poisoned"),
    judge,
    settle: None,
    explanation: Explanation {
        what: "a guest counter that is impossible when first seen: 2^63 ns or more, or far above the host's uptime",
        why: "The corruption happened before the trace began, or on the host the guest came from. The guest counts \
              every tick as stolen until it reboots or the counter catches up.",
        evidence: "The guest's counter at the first update that shows it. An error from 2^63 ns on, which no uptime \
                   explains; a warning above twice this host's uptime, which a guest may have brought along.",
        advice: "find the thread that restores or runs the vCPU (trace from the guest's start); reboot the guest or \
                 reset its counter (`guard --heal`)",
        references: &[REPORT],
    },
};

/// A guest may have been stolen from a little longer than this host is up.
const UPTIMES: u64 = 2;

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    let steal_ns = found(event)?;
    let first = event.has(FIRST_READ);
    let severity = severity(steal_ns, event.time_ns)?;
    let came_about =
        steal_rewound::rewound(event) && !is_impossible(event.steal_last_ns) && severity == Severity::Error;
    if event.kind != EventKind::Update || !(first || came_about) {
        return None;
    }
    let what = "the guest's counter was impossible before this update".to_owned();
    let advice = advice(event.source);
    Some(
        Finding { advice, ..Finding::new(RULE.id, severity, vcpu, event, what) }
            .with("steal_found", Value::Ns(steal_ns))
            .with("host_uptime", Value::Ns(event.time_ns)),
    )
}

/// Empty for the rule's own.
const fn advice(source: Source) -> &'static str {
    match source {
        Source::XenRunstate => {
            "find the thread that restores or runs the vCPU (trace from the guest's start); reboot the guest"
        }
        _ => "",
    }
}

/// The counter before the update; where it could not be read, what the update must have found.
fn found(event: &Event) -> Option<u64> {
    let delta = event.delta();
    if event.has(STEAL_BEFORE_KNOWN) {
        Some(event.steal_before_ns)
    } else if event.has(STEAL_AFTER_KNOWN) && is_impossible(event.steal_after_ns) && !delta.is_underflow() {
        Some(event.steal_after_ns.wrapping_sub(delta.wrapped_ns()))
    } else {
        None
    }
}

fn severity(steal_ns: u64, uptime_ns: u64) -> Option<Severity> {
    if is_impossible(steal_ns) {
        Some(Severity::Error)
    } else if steal_ns > uptime_ns.saturating_mul(UPTIMES) {
        Some(Severity::Warning)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::{Event, FIRST_READ, STEAL_AFTER_KNOWN, STEAL_LAST_KNOWN};

    use super::RULE;
    use crate::{
        detect::testing::{Script, judge},
        model::Severity,
    };

    /// 2^63 ns.
    const IMPOSSIBLE_NS: u64 = 1 << 63;

    const UPTIME: u64 = 1_000_000;

    fn first(steal: u64) -> Event {
        let update = Script::enabled().update(1, 900, 800, (steal, steal.wrapping_add(100)));
        Event { time_ns: UPTIME, flags: update.flags | FIRST_READ, ..update }
    }

    fn severity(event: Event) -> Option<Severity> {
        judge(&RULE, &[event]).map(|finding| finding.severity)
    }

    #[test]
    fn from_two_to_the_63_on_it_is_an_error() {
        assert_eq!(severity(first(IMPOSSIBLE_NS)), Some(Severity::Error));
        assert_eq!(severity(first(u64::MAX - 50)), Some(Severity::Error));
    }

    #[test]
    fn above_twice_the_uptime_it_is_a_warning() {
        assert_eq!(severity(first(2 * UPTIME + 1)), Some(Severity::Warning));
        assert_eq!(severity(first(IMPOSSIBLE_NS - 1)), Some(Severity::Warning));
        assert_eq!(severity(first(2 * UPTIME)), None);
    }

    #[test]
    fn an_unreadable_before_is_worked_out() {
        let before_unknown = Event { flags: FIRST_READ | STEAL_AFTER_KNOWN, ..first(IMPOSSIBLE_NS + 7) };
        assert_eq!(severity(before_unknown), Some(Severity::Error));
        let sound = Event { flags: FIRST_READ | STEAL_AFTER_KNOWN, ..first(7) };
        assert_eq!(severity(sound), None);
    }

    #[test]
    fn later_updates_are_silent_unless_memory_was_replaced() {
        let later = Event { flags: first(0).flags & !FIRST_READ, ..first(IMPOSSIBLE_NS) };
        assert_eq!(severity(later), None);
        let replaced = Event { flags: later.flags | STEAL_LAST_KNOWN, steal_last_ns: 5, ..later };
        assert_eq!(severity(replaced), Some(Severity::Error));
        let known = Event { steal_last_ns: IMPOSSIBLE_NS + 1, ..replaced };
        assert_eq!(severity(known), None);
    }
}
