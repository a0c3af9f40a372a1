use stealtrace_common::{event::Event, kvm::KVM_RUN};

use super::Engine;
use crate::{
    detect::{
        cross_thread_ioctl,
        testing::{GET_LAPIC, Script},
    },
    model::Severity,
};

#[test]
fn repetition_is_told_once_and_counted() {
    let mut engine = Engine::default();
    let mut script = Script::new();
    let events = [
        script.created(1),
        script.ioctl(1, KVM_RUN),
        script.ioctl(2, GET_LAPIC),
        script.ioctl(2, GET_LAPIC),
        script.ioctl(2, GET_LAPIC),
    ];
    let told: Vec<_> = events.iter().flat_map(|event| engine.judge(event).told).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(engine.summary().findings[&(cross_thread_ioctl::RULE.id, Severity::Warning)], 3);
}

#[test]
fn a_repetition_that_is_worse_is_told_again() {
    let mut engine = Engine::default();
    let mut script = Script::new();
    let events =
        [script.created(1), script.ioctl(2, GET_LAPIC), script.ioctl(1, KVM_RUN), script.ioctl(2, GET_LAPIC)];
    let told: Vec<_> = events.iter().flat_map(|event| engine.judge(event).told).map(|f| f.severity).collect();
    assert_eq!(told, [Severity::Notice, Severity::Warning]);
}

#[test]
fn vcpus_without_end_do_not_need_memory_without_end() {
    let mut engine = Engine::default();
    for generation in 1..=super::MOST_ENDED as u64 + 50 {
        let mut script = Script::with_generation(generation);
        let events = [script.created(1), script.ioctl(1, KVM_RUN), script.ioctl(2, GET_LAPIC)];
        assert_eq!(events.iter().flat_map(|event| engine.judge(event).told).count(), 1);
    }
    let summary = engine.summary();
    assert_eq!((summary.vcpus.len(), summary.unlisted), (super::MOST_ENDED + 1, 49));
    assert_eq!(engine.said.len(), super::MOST_ENDED + 1);
    assert_eq!(
        summary.findings[&(cross_thread_ioctl::RULE.id, Severity::Warning)],
        super::MOST_ENDED as u64 + 50
    );
}

#[test]
fn a_thread_that_ended_runs_none_of_the_vcpus_that_it_ran() {
    let mut engine = Engine::default();
    let mut script = Script::new();
    let another = |event| Event { vcpu: 0xffff_8880_0000_8000, vcpu_id: 1, ..event };
    let ran = [script.ioctl(1, KVM_RUN), another(script.ioctl(1, KVM_RUN))];
    let ended = Event { vcpu: 0, ..script.thread_ended(1) };
    let next = [script.ioctl(2, GET_LAPIC), another(script.ioctl(2, GET_LAPIC))];
    let events = ran.into_iter().chain([ended]).chain(next);
    assert!(events.into_iter().all(|event| !engine.judge(&event).is_anomalous()));
}

#[test]
fn a_reused_address_is_a_new_vcpu() {
    let mut engine = Engine::default();
    let mut first = Script::new();
    let mut second = Script::with_generation(2);
    let events = [
        first.created(1),
        first.ioctl(1, KVM_RUN),
        first.destroyed(1),
        second.created(9),
        second.ioctl(9, KVM_RUN),
        second.ioctl(9, GET_LAPIC),
    ];
    assert!(events.iter().all(|event| !engine.judge(event).is_anomalous()));
    assert_eq!(engine.summary().vcpus.len(), 2);
}
