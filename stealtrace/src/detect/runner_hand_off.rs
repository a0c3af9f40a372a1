//! KVM_RUN from another thread than last time.

use stealtrace_common::{
    event::EventKind,
    kvm::{self, KVM_RUN},
};

use super::{Case, Rule};
use crate::model::{Finding, Severity, Thread, Value};

pub(crate) const RULE: Rule = Rule { id: "runner-hand-off", judge };

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, kind } = case;
    let runner = vcpu.runner.as_ref()?;
    if kind != EventKind::Ioctl || event.ioctl != KVM_RUN || runner.tid == event.caller_tid {
        return None;
    }
    let severity = if kvm::msr_enabled(event.msr_val) { Severity::Warning } else { Severity::Notice };
    let what = format!("KVM_RUN handed from {runner} to {}", Thread::caller(event));
    Some(
        Finding::new(RULE.id, severity, vcpu, event, what)
            .with("previous_runner", Value::Thread(runner.clone()))
            .with("run_delay", Value::Ns(event.run_delay_ns))
            .with("last_steal", Value::Ns(event.last_steal_before_ns)),
    )
}

#[cfg(test)]
mod tests {
    use stealtrace_common::kvm::KVM_RUN;

    use super::RULE;
    use crate::{
        detect::testing::{GET_LAPIC, Script, judge},
        model::Severity,
    };

    #[test]
    fn without_the_msr_it_is_a_notice() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Notice));
    }

    #[test]
    fn with_the_msr_enabled_it_is_a_warning() {
        let mut s = Script::enabled();
        let finding = judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Warning));
    }

    #[test]
    fn the_same_thread_the_first_run_and_other_ioctls_are_fine() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(1, KVM_RUN)]).is_none());
        assert!(judge(&RULE, &[s.created(1), s.ioctl(2, KVM_RUN)]).is_none());
        assert!(judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(2, GET_LAPIC)]).is_none());
    }
}
