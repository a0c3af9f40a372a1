//! KVM_RUN from another thread than last time. With steal time enabled the verdict waits for the steal update that
//! follows at guest entry: if that underflows, the hand-off is the underflow's cause and no finding of its own.

use stealtrace_common::{
    event::{Event, EventKind, NUMBERS_UNKNOWN},
    kvm::KVM_RUN,
    source::Source,
};

use super::{API, Case, Explanation, Open, Rule, SUBTRACTS, steal_over_charge};
use crate::model::{Finding, HandOff, RuleId, Severity, Thread, Value, Vcpu};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("runner-hand-off"),
    judge,
    settle: Some(settle),
    explanation: Explanation {
        what: "KVM_RUN moved to another thread",
        why: "KVM subtracts last_steal, which is the old runner's, from the new runner's run_delay: the guest's \
              counter goes back, wraps, or jumps ahead. No Linux up to 7.3 clamps this but for guests of Xen.",
        evidence: "Two KVM_RUN by different threads. A warning if steal time is enabled. If the delta underflows or \
                   over-charges, that is told instead, with the hand-off as its cause.",
        advice: advice(Source::HERE),
        references: &[SUBTRACTS, API],
    },
};

const fn advice(source: Source) -> &'static str {
    hiding!(source, "the VMM should keep a vCPU on one thread for life; or hide the feature from the guest (")
}

fn judge(case: Case<'_>) -> Option<Finding> {
    (case.event.kind == EventKind::Ioctl).then(|| disabled(case.vcpu, case.event))?
}

/// The update that follows tells what the hand-off did.
fn settle(open: Open<'_>) -> Vec<Finding> {
    let is_decided = match open.next {
        Some(update) if update.kind == EventKind::Update => {
            open.vcpu.ended_hand_off(update).is_some()
                && !update.delta().is_underflow()
                && !steal_over_charge::over_charged(open.vcpu, update)
        }
        Some(next) if next.kind == EventKind::Ioctl => next.ioctl == KVM_RUN,
        _ => open.is_over(),
    };
    if is_decided { unfinished(open.vcpu).into_iter().collect() } else { Vec::new() }
}

/// A hand-off with steal time disabled, which can do no harm.
fn disabled(vcpu: &Vcpu, event: &Event) -> Option<Finding> {
    let from = vcpu.runner.as_ref()?;
    if event.ioctl != KVM_RUN || vcpu.is_run_by(event.caller_tid) || event.is_enabled() {
        return None;
    }
    Some(finding(Severity::Notice, vcpu, from, event))
}

/// A hand-off with steal time enabled whose update did not underflow, or was not seen.
fn unfinished(vcpu: &Vcpu) -> Option<Finding> {
    let HandOff { from, run, .. } = vcpu.hand_off.as_ref().filter(|hand_off| !hand_off.is_past)?;
    Some(finding(Severity::Warning, vcpu, from, run))
}

fn finding(severity: Severity, vcpu: &Vcpu, from: &Thread, run: &Event) -> Finding {
    let what = format!("KVM_RUN handed from {from} to {}", Thread::caller(run));
    Finding { advice: advice(run.source), ..Finding::new(RULE.id, severity, vcpu, run, what) }
        .with("previous_runner", Value::Thread(from.clone()))
        .with("run_delay", measured(run, run.run_delay_ns))
        .with("last_steal", measured(run, run.last_steal_before_ns))
}

/// A log does not show it.
const fn measured(run: &Event, ns: u64) -> Value {
    if run.has(NUMBERS_UNKNOWN) { Value::Unknown } else { Value::Ns(ns) }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::kvm::KVM_RUN;

    use super::RULE;
    use crate::{
        detect::{
            Engine, steal_underflow,
            testing::{GET_LAPIC, Script, judge},
        },
        model::Severity,
    };

    #[test]
    fn without_the_msr_it_is_a_notice_at_once() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Notice));
    }

    #[test]
    fn with_the_msr_enabled_it_is_a_warning_once_the_update_is_known() {
        let mut s = Script::enabled();
        let events = [s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN), s.update(2, 900, 500, (0, 400))];
        assert!(judge(&RULE, &events[..2]).is_none());
        assert_eq!(judge(&RULE, &events).map(|f| f.severity), Some(Severity::Warning));
    }

    #[test]
    fn an_underflow_takes_it_over() {
        let mut s = Script::enabled();
        let events = [s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN), s.update(2, 100, 900, (900, 100))];
        assert!(judge(&RULE, &events).is_none());
    }

    #[test]
    fn without_an_update_it_is_told_with_the_next_run_or_at_the_end() {
        let mut s = Script::enabled();
        let events = [s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN), s.ioctl(2, KVM_RUN), s.ioctl(2, KVM_RUN)];
        assert_eq!(judge(&RULE, &events[..3]).map(|f| f.severity), Some(Severity::Warning));
        assert!(judge(&RULE, &events).is_none(), "once");
        assert!(judge(&RULE, &[events[0], events[1], s.ioctl(2, GET_LAPIC)]).is_none());
        let mut engine = Engine::default();
        assert!(events[..2].iter().all(|event| !engine.judge(event).is_anomalous()));
        assert_eq!(engine.finish().len(), 1);
    }

    #[test]
    fn only_the_new_runners_update_tells_what_it_did() {
        let mut s = Script::enabled();
        let others = s.update(3, 950, 500, (0, 450));
        let runners = s.update(2, 100, 950, (450, 0u64.wrapping_sub(400)));
        let events = [s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN), others, s.ioctl(2, KVM_RUN), runners];
        assert!(judge(&RULE, &events[..3]).is_none(), "a load by an ioctl of a third thread");
        let underflow = judge(&steal_underflow::RULE, &events).expect("fires");
        assert!(underflow.what.contains("took KVM_RUN over"), "{}", underflow.what);
    }

    #[test]
    fn a_new_thread_with_the_number_of_one_that_ended_is_another() {
        let mut s = Script::enabled();
        let events =
            [s.ioctl(1, KVM_RUN), s.thread_ended(1), s.ioctl(1, KVM_RUN), s.update(1, 900, 500, (0, 400))];
        assert_eq!(judge(&RULE, &events).map(|f| f.severity), Some(Severity::Warning));
    }

    #[test]
    fn the_same_thread_the_first_run_and_other_ioctls_are_fine() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(1, KVM_RUN)]).is_none());
        assert!(judge(&RULE, &[s.created(1), s.ioctl(2, KVM_RUN)]).is_none());
        assert!(judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(2, GET_LAPIC)]).is_none());
    }
}
