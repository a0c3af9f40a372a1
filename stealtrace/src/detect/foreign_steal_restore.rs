//! Steal time enabled from the host side by a thread that is not the one that runs the vCPU.
//! With no runner yet, the first KVM_RUN decides who that is.

use stealtrace_common::{
    event::{EventKind, HOST_INITIATED},
    kvm::KVM_RUN,
    source::Source,
};

use super::{API, Case, Explanation, FIX, LOONGARCH, REPORT, Rule, XEN};
use crate::model::{Finding, Restore, RuleId, Severity, Thread, Value, Vcpu};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("foreign-steal-restore"),
    judge,
    settle: None,
    explanation: Explanation {
        what: match Source::HERE {
            Source::X86Msr | Source::XenRunstate => {
                "the steal MSR (0x4b564d03), or Xen's runstate, set by another thread than the one that runs the vCPU"
            }
            Source::Arm64Pvtime => {
                "stolen time enabled (KVM_ARM_VCPU_PVTIME_IPA) by another thread than the one that runs the vCPU"
            }
        },
        why: match Source::HERE {
            Source::X86Msr | Source::XenRunstate => {
                "Linux 3.1 to 4.3 copy the caller's run_delay into last_steal, and every Linux does where Xen's runstate is \
                 restored; the runner's first delta is then wrong, and negative if the caller had waited longer: the guest \
                 stops accounting CPU time."
            }
            Source::Arm64Pvtime => {
                "A kernel that copies the caller's run_delay into last_steal makes the runner's first delta wrong, and \
                 negative if the caller had waited longer. No Linux for arm64 does; x86's did until 4.3, and LoongArch's does."
            }
        },
        evidence: "The write, and who runs the vCPU. An error if the kernel was seen to copy; a notice if the \
                   creator restored before anybody ran the vCPU, as Firecracker and Cloud Hypervisor do.",
        advice: advice(Source::HERE),
        references: match Source::HERE {
            Source::X86Msr | Source::XenRunstate => &[REPORT, FIX, XEN, API, LOONGARCH],
            Source::Arm64Pvtime => &[REPORT, API, LOONGARCH],
        },
    },
};

const fn advice(source: Source) -> &'static str {
    match source {
        Source::X86Msr => {
            "harmless where the kernel left last_steal alone, as Linux does since 4.4; where it copied, update it, or \
             restore MSRs on the vCPU's thread (VMM)"
        }
        Source::Arm64Pvtime => {
            "harmless where the kernel left last_steal alone, as every Linux for arm64 does; where it copied, set it on \
             the vCPU's thread (VMM)"
        }
        Source::XenRunstate => {
            "harmless where the kernel left last_steal alone; where it copied, as every Linux does with the runstate's data, \
             restore that on the vCPU's thread (VMM)"
        }
    }
}

fn judge(case: Case<'_>) -> Option<Finding> {
    match case.event.kind {
        EventKind::EnablingWrite => restored_under_a_runner(case),
        EventKind::Ioctl if case.event.ioctl == KVM_RUN => first_run_after_restore(case),
        _ => None,
    }
}

fn restored_under_a_runner(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    let runner = vcpu.living_runner()?;
    if !event.has(HOST_INITIATED) || !event.is_enabled() || runner.tid == event.caller_tid {
        return None;
    }
    let restore = Restore::from_event(event);
    let severity = match event.source {
        _ if restore.copied() => Severity::Error,
        Source::X86Msr => Severity::Warning,
        Source::Arm64Pvtime | Source::XenRunstate => Severity::Notice,
    };
    Some(finding(case, severity, &restore, runner))
}

fn first_run_after_restore(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    let restore = vcpu.unrun_restore.as_ref()?;
    let runner = Thread::caller(event);
    if vcpu.living_runner().is_some() || restore.by.tid == runner.tid {
        return None;
    }
    Some(finding(case, severity_before_first_run(vcpu, event.source, restore), restore, &runner))
}

/// VMMs that configure every vCPU on one thread before any runs are ordinary, and harmless unless the kernel copies. On arm64
/// QEMU's main thread always says where the area lies; where that of a guest of Xen's does is copied by no kernel.
fn severity_before_first_run(vcpu: &Vcpu, source: Source, restore: &Restore) -> Severity {
    let by_creator = vcpu.creator.as_ref().is_some_and(|creator| creator.tid == restore.by.tid);
    match (restore.copied(), by_creator || source != Source::X86Msr) {
        (true, _) => Severity::Error,
        (false, true) => Severity::Notice,
        (false, false) => Severity::Warning,
    }
}

fn finding(case: Case<'_>, severity: Severity, restore: &Restore, runner: &Thread) -> Finding {
    let effect = if restore.copied() {
        "the kernel copied its run_delay into last_steal"
    } else {
        "the kernel left last_steal alone"
    };
    let thing = case.event.source.restored();
    let what = format!("{thing} restored by {} on a vCPU that {runner} runs; {effect}", restore.by);
    Finding {
        advice: advice(case.event.source),
        ..Finding::new(RULE.id, severity, case.vcpu, case.event, what)
    }
    .with("restorer", Value::Thread(restore.by.clone()))
    .with("runner", Value::Thread(runner.clone()))
    .with("restorer_run_delay", Value::Ns(restore.run_delay_ns))
    .with("last_steal_before", Value::Ns(restore.last_steal_before_ns))
    .with("last_steal_after", Value::Ns(restore.last_steal_after_ns))
}

#[cfg(test)]
mod tests {
    use stealtrace_common::kvm::KVM_RUN;

    use super::RULE;
    use crate::{
        detect::testing::{Script, judge},
        model::Severity,
    };

    #[test]
    fn its_own_runner_ran_it_if_an_update_shows_so() {
        let mut s = Script::new();
        let events = [
            s.ioctl(1, KVM_RUN),
            s.restore(1, 5, (0, 0)),
            s.update(1, 9, 0, (0, 9)),
            s.ioctl(2, KVM_RUN), // edges do not tell of the runner's own
        ];
        assert!(judge(&RULE, &events).is_none());
    }

    #[test]
    fn under_a_runner_it_is_a_warning() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.ioctl(1, KVM_RUN), s.restore(2, 500, (0, 0))]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Warning));
    }

    #[test]
    fn a_copied_run_delay_is_an_error() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.ioctl(1, KVM_RUN), s.restore(2, 500, (0, 500))]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Error));
    }

    #[test]
    fn before_the_first_run_it_waits_for_the_runner() {
        let mut s = Script::new();
        assert!(judge(&RULE, &[s.created(1), s.restore(2, 500, (0, 500))]).is_none());
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.created(1), s.restore(2, 500, (0, 500)), s.ioctl(1, KVM_RUN)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Error));
    }

    #[test]
    fn by_a_third_thread_before_the_first_run_it_is_a_warning() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.created(1), s.restore(2, 500, (0, 0)), s.ioctl(1, KVM_RUN)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Warning));
    }

    #[test]
    fn a_vmm_that_configures_then_starts_gets_a_notice() {
        let mut s = Script::new();
        let finding = judge(&RULE, &[s.created(1), s.restore(1, 500, (0, 0)), s.ioctl(2, KVM_RUN)]);
        assert_eq!(finding.map(|f| f.severity), Some(Severity::Notice));
    }

    #[test]
    fn by_the_runner_itself_it_is_fine() {
        let mut s = Script::new();
        assert!(judge(&RULE, &[s.ioctl(1, KVM_RUN), s.restore(1, 500, (0, 500))]).is_none());
        let mut s = Script::new();
        assert!(judge(&RULE, &[s.created(1), s.restore(1, 500, (0, 500)), s.ioctl(1, KVM_RUN)]).is_none());
    }
}
