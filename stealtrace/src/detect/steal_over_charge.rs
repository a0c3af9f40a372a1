//! A steal delta larger than the time in which it can have grown. Names the hand-off or the first run as its cause.

use stealtrace_common::{
    event::{Event, EventKind, FIRST_SINCE_ENABLED, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    steal::StealDelta,
};

use super::{API, Case, Explanation, Rule, SUBTRACTS};
use crate::model::{Finding, HandOff, RuleId, Severity, Thread, Value, Vcpu};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("steal-over-charge"),
    judge,
    settle: None,
    explanation: Explanation {
        what: "a steal delta larger than the wall time in which it can have grown",
        why: "The guest believes that it was robbed of time that it never asked for; Linux guests cap each tick, so \
              they show 100 % steal for a while.",
        evidence: "The delta, and what can have been due: exactly what the thread waited since it enabled steal \
                   time itself; else the time since the update before, the enabling, or a later moment at which nothing \
                   was left to charge, and 10 ms more, by which clocks differ. A thread's own wait since its last \
                   update is always due. Silent where nothing of that was seen, or the delta did not reach the guest. \
                   A first run is a notice below 10 ms or 1 % of the vCPU's age.",
        advice: "keep each vCPU on one thread; a charge at the first run after enabling is KVM's own and passes",
        references: &[SUBTRACTS, API],
    },
};

/// The scheduler's clock, by which waiting is measured, may lag behind the one that we read, by ticks where it has no
/// stable TSC.
const CLOCK_LAG_NS: u64 = 10_000_000;
/// What /proc/stat counts in (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    let excess_ns = excess_ns(vcpu, event).filter(|_| event.kind == EventKind::Update)?;
    let cause = Cause::of(vcpu, event);
    let what = format!("the guest was charged more than the time that passed: {}", cause.words(case));
    let passed = (event.previous_update_ns != 0).then(|| passed_ns(event));
    let finding = Finding::new(RULE.id, cause.severity(event, excess_ns), vcpu, event, what);
    Some(
        Finding { cause: cause.word(), ..finding }
            .with("cause", Value::Text(cause.word().to_owned()))
            .with("last_steal_of", case.last_steal_of().as_ref().into())
            .with("run_delay", Value::Ns(event.run_delay_ns))
            .with("last_steal", Value::Ns(event.last_steal_before_ns))
            .with("delta", Value::SignedNs(event.delta().signed_ns()))
            .with("time_passed", passed.into())
            .with("over_charge", Value::Ns(excess_ns)),
    )
}

/// Did the guest get more than it was due?
pub(super) fn over_charged(vcpu: &Vcpu, event: &Event) -> bool {
    excess_ns(vcpu, event).is_some()
}

/// What the guest got beyond what it was due, if anything.
fn excess_ns(vcpu: &Vcpu, event: &Event) -> Option<u64> {
    let excess_ns = charged_ns(event)?.saturating_sub(due_ns(vcpu, event)?);
    (excess_ns > 0).then_some(excess_ns)
}

/// What this update put into the guest's counter: no more than that grew by (Linux 3.1 to 4.3, when a later load
/// overwrites the delta, and kernels that drop the delta of a hand-off); None for a negative delta.
fn charged_ns(event: &Event) -> Option<u64> {
    let delta_ns = Some(event.delta()).filter(|delta| !delta.is_underflow())?.wrapped_ns();
    if !event.has(STEAL_AFTER_KNOWN) {
        return Some(delta_ns);
    }
    // KVM's first write to an area has no "before": the counter then cannot have grown by more than it shows.
    let before = if event.has(STEAL_BEFORE_KNOWN) { event.steal_before_ns } else { 0 };
    let growth = StealDelta::between(before, event.steal_after_ns);
    Some(if growth.is_underflow() { 0 } else { delta_ns.min(growth.wrapped_ns()) })
}

/// At most what it could be due. A thread's own wait since its last update is due whatever clocks say, and so is what
/// it waited since it enabled steal time itself; else no more than the time that passed; None where that is not known.
fn due_ns(vcpu: &Vcpu, event: &Event) -> Option<u64> {
    let is_first = event.has(FIRST_SINCE_ENABLED);
    if !is_first && event.last_steal_tid == event.caller_tid {
        return None;
    }
    let own = vcpu.enabling.filter(|enabling| is_first && enabling.tid == event.caller_tid);
    let by_clock = || passed_ns(event).saturating_add(CLOCK_LAG_NS);
    match own {
        Some(enabling) => Some(event.run_delay_ns.saturating_sub(enabling.run_delay_ns)),
        None => (event.previous_update_ns != 0).then(by_clock),
    }
}

/// Since the last moment at which nothing was left to charge.
fn passed_ns(event: &Event) -> u64 {
    event.time_ns.saturating_sub(event.previous_update_ns)
}

/// The word for the first run after enabling.
pub(crate) const FIRST_RUN: &str = "first-run";

/// How a thread comes to charge what it did not wait.
enum Cause<'a> {
    HandOff(&'a HandOff),
    FirstRun,
    /// Another thread's ioctl left its run_delay in `last_steal` (Linux 3.1 to 4.3).
    ForeignIoctl,
    Unknown,
}

impl<'a> Cause<'a> {
    fn of(vcpu: &'a Vcpu, event: &Event) -> Self {
        match vcpu.ended_hand_off(event) {
            Some(hand_off) => Self::HandOff(hand_off),
            None if event.has(FIRST_SINCE_ENABLED) => Self::FirstRun,
            None if event.last_steal_tid != 0 => Self::ForeignIoctl,
            None => Self::Unknown,
        }
    }

    /// KVM charges every first run; a guest takes no notice of less than a tick, or than a hundredth of its life.
    fn severity(&self, event: &Event, excess_ns: u64) -> Severity {
        let age_ns = event.time_ns.saturating_sub(event.generation);
        match self {
            Self::FirstRun if excess_ns < TICK_NS.max(age_ns / 100) => Severity::Notice,
            _ => Severity::Warning,
        }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::HandOff(_) => "hand-off",
            Self::FirstRun => FIRST_RUN,
            Self::ForeignIoctl => "foreign-ioctl",
            Self::Unknown => "unknown",
        }
    }

    fn words(&self, case: Case<'_>) -> String {
        let caller = Thread::caller(case.event);
        match self {
            Self::HandOff(hand_off) => {
                format!("{caller} took KVM_RUN over from {}, which had waited less", hand_off.from)
            }
            Self::FirstRun => format!("the first run after enabling charges {caller}'s past"),
            Self::ForeignIoctl => format!("an ioctl by another thread made {caller} charge its past again"),
            Self::Unknown => format!("{caller} consumed it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::{
        event::{Event, FIRST_SINCE_ENABLED, STEAL_AFTER_KNOWN},
        kvm::KVM_RUN,
    };

    use super::{CLOCK_LAG_NS, RULE};
    use crate::{
        detect::testing::{Script, judge},
        model::{Finding, Severity, Value},
    };

    const PASSED: u64 = 1000;
    /// The most that can be due by the clock.
    const MOST: u64 = PASSED + CLOCK_LAG_NS;

    /// Thread 1 charges a delta that began with another thread's run_delay.
    fn charged(delta: u64, flags: u16) -> Event {
        let update = Script::enabled().update(1, 500 + delta, 500, (0, delta));
        Event {
            time_ns: 9000 + PASSED,
            previous_update_ns: 9000,
            last_steal_tid: 2,
            flags: update.flags | flags,
            ..update
        }
    }

    fn cause(finding: Option<Finding>) -> Option<Value> {
        finding?.evidence.into_iter().find_map(|(name, value)| (name == "cause").then_some(value))
    }

    #[test]
    fn more_than_the_time_that_passed_is_a_warning() {
        assert_eq!(judge(&RULE, &[charged(MOST + 1, 0)]).map(|f| f.severity), Some(Severity::Warning));
        assert!(judge(&RULE, &[charged(MOST, 0)]).is_none());
    }

    #[test]
    fn a_threads_own_wait_is_due_whatever_clocks_say() {
        let own = Event { last_steal_tid: 1, ..charged(100 * MOST, 0) };
        assert!(judge(&RULE, &[own]).is_none());
    }

    #[test]
    fn an_unseen_past_proves_nothing() {
        let unseen = Event { previous_update_ns: 0, ..charged(MOST + 1, 0) };
        assert!(judge(&RULE, &[unseen]).is_none());
    }

    #[test]
    fn what_never_reached_the_guest_is_no_charge() {
        for grew in [0, MOST] {
            let withheld = Event { steal_after_ns: grew, ..charged(MOST + 1, 0) };
            assert!(judge(&RULE, &[withheld]).is_none());
        }
    }

    #[test]
    fn a_first_write_charged_no_more_than_it_shows() {
        let first = |shown| Event { flags: STEAL_AFTER_KNOWN, steal_after_ns: shown, ..charged(MOST + 1, 0) };
        assert!(judge(&RULE, &[first(MOST)]).is_none());
        assert!(judge(&RULE, &[first(MOST + 1)]).is_some());
    }

    #[test]
    fn a_first_run_of_who_enabled_is_known_to_the_nanosecond_and_a_notice_if_no_guest_notices() {
        let mut s = Script::new();
        let enabling = s.restore(1, 500, (0, 0));
        let first = |waited: u64| Event {
            flags: FIRST_SINCE_ENABLED,
            last_steal_tid: 0,
            ..s.clone().update(1, 500 + waited, 0, (0, 500 + waited))
        };
        let finding = judge(&RULE, &[enabling, first(7)]).expect("500 ns too much");
        assert_eq!(finding.severity, Severity::Notice);
        assert!(finding.evidence.contains(&("over_charge", Value::Ns(500))), "{finding:?}");
        let past = Event { run_delay_ns: 10_000_000, ..enabling };
        let first = Event { run_delay_ns: 10_000_007, steal_after_ns: 10_000_007, ..first(0) };
        assert_eq!(judge(&RULE, &[past, first]).map(|f| f.severity), Some(Severity::Warning));
        let old = Event { time_ns: first.time_ns + 1_000_000_001, ..first };
        assert_eq!(judge(&RULE, &[past, old]).map(|f| f.severity), Some(Severity::Notice), "1 % of a second");
    }

    #[test]
    fn the_cause_is_named() {
        let text = |word: &str| Some(Value::Text(word.to_owned()));
        assert_eq!(cause(judge(&RULE, &[charged(MOST + 1, FIRST_SINCE_ENABLED)])), text("first-run"));
        let mut s = Script::enabled();
        let events = [s.ioctl(2, KVM_RUN), s.ioctl(1, KVM_RUN), charged(MOST + 1, 0)];
        assert_eq!(cause(judge(&RULE, &events)), text("hand-off"));
        assert_eq!(cause(judge(&RULE, &[charged(MOST + 1, 0)])), text("foreign-ioctl"));
        let unknown = Event { last_steal_tid: 0, ..charged(MOST + 1, 0) };
        assert_eq!(cause(judge(&RULE, &[unknown])), text("unknown"));
    }
}
