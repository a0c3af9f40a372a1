//! A vCPU ioctl from a thread that is neither the vCPU's creator nor its runner.

use stealtrace_common::{
    event::{Event, EventKind},
    kvm::KVM_RUN,
};

use super::{API, Case, Explanation, Open, REPORT, Rule};
use crate::{
    ioctl,
    model::{Finding, RuleId, Severity, Thread, Value, Vcpu},
};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("cross-thread-ioctl"),
    judge,
    settle: Some(settle),
    explanation: Explanation {
        what: "a vCPU ioctl by a thread that neither created nor runs the vCPU",
        why: "On Linux 3.1 to 4.3 every such ioctl charges that thread's waiting to the guest; on later kernels it \
              only costs time, since the vCPU's mutex and registers move between CPUs.",
        evidence: "Creator or runner must have been seen. A warning while another thread runs the vCPU, a notice where \
                   the creator was not seen. While nobody runs it, the next KVM_RUN decides: its own thread was no \
                   stranger, others get a notice. Asynchronous ioctls are exempt.",
        advice: "the VMM should issue vCPU ioctls on the vCPU's own thread; harmless to steal time where the kernel is not \
                 `affected` (`stealtrace verify`)",
        references: &[API, REPORT],
    },
};

/// ioctls that need no vCPU mutex and may come from any thread (`kvm_arch_vcpu_async_ioctl`): on x86 only
/// KVM_MEMORY_ENCRYPT_OP, since TDX.
const ASYNCHRONOUS: [u32; 1] = [0xc008_aeba];

/// Of a vCPU that somebody runs. Of one that nobody runs yet, or any more, whoever runs it next decides who is foreign.
fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    let runner = vcpu.living_runner()?;
    let exempt = event.ioctl == KVM_RUN || is_asynchronous(event) || vcpu.is_owned_by(event.caller_tid);
    if event.kind != EventKind::Ioctl || exempt {
        return None;
    }
    // The caller may be the creator, if that was not seen.
    let severity = if vcpu.creator.is_some() { Severity::Warning } else { Severity::Notice };
    Some(finding(severity, vcpu, event, &format!("is run by {runner}")))
}

/// The runner-to-be sets its vCPU up; others that did are foreign.
fn settle(open: Open<'_>) -> Vec<Finding> {
    let Some(creator) = open.vcpu.creator.as_ref() else {
        return Vec::new(); // nobody to be foreign to
    };
    let runner = match open.next {
        Some(next) if next.kind == EventKind::Ioctl && next.ioctl == KVM_RUN => next.caller_tid,
        _ if open.is_over() => 0,
        _ => return Vec::new(),
    };
    let foreign = |(event, _): &&(Event, u64)| event.caller_tid != runner && !is_asynchronous(event);
    let mut strangers: Vec<_> = open.vcpu.strangers.values().filter(foreign).collect();
    strangers.sort_by_key(|(event, _)| event.time_ns);
    let owner = format!("was created by {creator}");
    let told = |(event, times): &(Event, u64)| Finding {
        count: *times,
        ..finding(Severity::Notice, open.vcpu, event, &owner)
    };
    strangers.into_iter().map(told).collect()
}

fn is_asynchronous(event: &Event) -> bool {
    ASYNCHRONOUS.contains(&event.ioctl)
}

fn finding(severity: Severity, vcpu: &Vcpu, event: &Event, owner: &str) -> Finding {
    let what = format!("{} by {} on a vCPU that {owner}", ioctl::name(event.ioctl), Thread::caller(event));
    Finding { about_ioctl: true, ..Finding::new(RULE.id, severity, vcpu, event, what) }
        .with("creator", vcpu.creator.as_ref().into())
        .with("runner", Value::from(vcpu.living_runner()))
}

#[cfg(test)]
mod tests {
    use stealtrace_common::kvm::KVM_RUN;

    use super::{ASYNCHRONOUS, RULE};
    use crate::{
        detect::testing::{GET_LAPIC, Script, judge, judge_all, judge_at_end},
        model::Severity,
    };

    #[test]
    fn before_the_first_run_it_is_a_notice_but_not_of_the_thread_that_then_runs_it() {
        let mut s = Script::new();
        let setup = [s.created(1), s.ioctl(2, GET_LAPIC), s.ioctl(3, GET_LAPIC)];
        let told: Vec<_> = judge_all(&RULE, &[&setup[..], &[s.ioctl(2, KVM_RUN)]].concat())
            .iter()
            .map(|finding| (finding.severity, finding.caller.tid))
            .collect();
        assert_eq!(told, [(Severity::Notice, 3)]);
        assert_eq!(judge_at_end(&RULE, &setup).len(), 2, "nobody ran it");
    }

    #[test]
    fn a_runner_that_ended_is_none() {
        let mut s = Script::new();
        let unplugged = [s.created(1), s.ioctl(1, KVM_RUN), s.thread_ended(1), s.ioctl(2, GET_LAPIC)];
        assert!(judge(&RULE, &unplugged).is_none());
        assert!(judge(&RULE, &[&unplugged[..], &[s.ioctl(2, KVM_RUN)]].concat()).is_none());
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
