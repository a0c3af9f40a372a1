//! A vCPU ioctl from a thread that is neither the vCPU's creator nor its runner.

use stealtrace_common::{event::EventKind, kvm::KVM_RUN};

use super::{API, Case, Explanation, REPORT, Rule};
use crate::{
    ioctl,
    model::{Finding, Severity, Thread, Value},
};

pub(crate) const RULE: Rule = Rule {
    id: "cross-thread-ioctl",
    judge,
    at_end: None,
    explanation: Explanation {
        what: "a vCPU ioctl by a thread that neither created nor runs the vCPU",
        why: "On Linux 3.1 to 4.3 every such ioctl charges that thread's waiting to the guest; on later kernels it \
              only costs time, since the vCPU's mutex and registers move between CPUs.",
        evidence: "Creator or runner must have been seen. A notice before the first KVM_RUN or where the creator was \
                   not seen, a warning once the vCPU runs. Asynchronous ioctls are exempt.",
        advice: "the VMM should issue vCPU ioctls on the vCPU's own thread; harmless to steal time since Linux 4.4",
        references: &[API, REPORT],
    },
};

/// ioctls that need no vCPU mutex and may come from any thread (`kvm_arch_vcpu_async_ioctl`): on x86 only
/// KVM_MEMORY_ENCRYPT_OP, since TDX.
const ASYNCHRONOUS: [u32; 1] = [0xc008_aeba];

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, kind, .. } = case;
    if kind != EventKind::Ioctl || event.ioctl == KVM_RUN || ASYNCHRONOUS.contains(&event.ioctl) {
        return None;
    }
    let severity = match (&vcpu.creator, &vcpu.runner) {
        (None, None) => return None, // nobody yet to be foreign to
        (_, Some(_)) if vcpu.creator.is_some() => Severity::Warning,
        (_, _) => Severity::Notice, // before the first run, or the caller may be the unseen creator
    };
    let is_caller =
        |thread: &Option<Thread>| thread.as_ref().is_some_and(|thread| thread.tid == event.caller_tid);
    if is_caller(&vcpu.creator) || is_caller(&vcpu.runner) {
        return None;
    }
    let owner = match &vcpu.runner {
        Some(runner) => format!("is run by {runner}"),
        None => vcpu.creator.as_ref().map_or_else(String::new, |creator| format!("was created by {creator}")),
    };
    let what = format!("{} by {} on a vCPU that {owner}", ioctl::name(event.ioctl), Thread::caller(event));
    Some(
        Finding::new(RULE.id, severity, vcpu, event, what)
            .with("creator", vcpu.creator.as_ref().into())
            .with("runner", Value::from(vcpu.runner.as_ref())),
    )
}

#[cfg(test)]
mod tests {
    use stealtrace_common::kvm::KVM_RUN;

    use super::{ASYNCHRONOUS, RULE};
    use crate::{
        detect::testing::{GET_LAPIC, Script, judge},
        model::Severity,
    };

    #[test]
    fn before_the_first_run_it_is_a_notice() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.created(1), s.ioctl(2, GET_LAPIC)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Notice));
    }

    #[test]
    fn once_there_is_a_runner_it_is_a_warning() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.created(1), s.ioctl(1, KVM_RUN), s.ioctl(2, GET_LAPIC)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Warning));
    }

    #[test]
    fn an_unseen_creator_might_be_the_caller_so_it_is_a_notice() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.ioctl(1, KVM_RUN), s.ioctl(2, GET_LAPIC)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Notice));
    }

    #[test]
    fn creator_runner_and_asynchronous_ioctls_are_fine() {
        let mut s = Script::new();
        assert!(judge(&RULE, &[s.created(1), s.ioctl(2, KVM_RUN), s.ioctl(1, GET_LAPIC)]).is_none());
        assert!(judge(&RULE, &[s.created(1), s.ioctl(2, KVM_RUN), s.ioctl(2, GET_LAPIC)]).is_none());
        assert!(judge(&RULE, &[s.created(1), s.ioctl(1, KVM_RUN), s.ioctl(3, ASYNCHRONOUS[0])]).is_none());
    }

    #[test]
    fn nobody_known_is_nobody_foreign() {
        assert!(judge(&RULE, &[Script::new().ioctl(2, GET_LAPIC)]).is_none());
    }
}
