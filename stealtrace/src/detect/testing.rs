//! Events for tests, as short to write as they are to read.

use stealtrace_common::{
    event::{Event, EventKind, HOST_INITIATED, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    kvm::{KVM_RUN, KVM_SET_MSRS},
};

use super::{Case, Open, Rule};
use crate::model::{Finding, Threads, Vcpu, VcpuName};

pub(crate) const GET_LAPIC: u32 = 0x8400_ae8e;
pub(crate) const ENABLED: u64 = 0x1000 | 1;

/// Makes the events of one vCPU, each a microsecond after the one before.
#[derive(Clone)]
pub(crate) struct Script {
    generation: u64,
    time_ns: u64,
    enabling: u64,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self::with_generation(1)
    }

    pub(crate) fn with_generation(generation: u64) -> Self {
        Self { generation, time_ns: 0, enabling: 0 }
    }

    pub(crate) fn enabled() -> Self {
        Self { enabling: ENABLED, ..Self::new() }
    }

    fn event(&mut self, kind: EventKind, tid: u32, ioctl: u32) -> Event {
        self.time_ns += 1000;
        Event {
            time_ns: self.time_ns,
            vcpu: 0xffff_8880_0000_0000,
            generation: self.generation,
            kind,
            vm_tgid: 100,
            caller_tgid: 100,
            caller_tid: tid,
            ioctl,
            enabling_before: self.enabling,
            enabling_after: self.enabling,
            comm: *b"qemu\0\0\0\0\0\0\0\0\0\0\0\0",
            ..Event::default()
        }
    }

    pub(crate) fn created(&mut self, tid: u32) -> Event {
        self.event(EventKind::Created, tid, 0)
    }

    pub(crate) fn destroyed(&mut self, tid: u32) -> Event {
        self.event(EventKind::Destroyed, tid, 0)
    }

    /// A thread is no more.
    pub(crate) fn thread_ended(&mut self, tid: u32) -> Event {
        self.event(EventKind::ThreadEnded, tid, 0)
    }

    pub(crate) fn ioctl(&mut self, tid: u32, ioctl: u32) -> Event {
        self.event(EventKind::Ioctl, tid, ioctl)
    }

    /// The VMM enables steal time; the kernel leaves `last_steal` at `after`.
    pub(crate) fn restore(&mut self, tid: u32, run_delay_ns: u64, last_steal: (u64, u64)) -> Event {
        self.enabling = ENABLED;
        Event {
            run_delay_ns,
            last_steal_before_ns: last_steal.0,
            last_steal_after_ns: last_steal.1,
            flags: HOST_INITIATED,
            ..self.event(EventKind::EnablingWrite, tid, KVM_SET_MSRS)
        }
    }

    /// KVM consumes `run_delay_ns - last_steal_ns`; the guest's counter goes from `steal.0` to `steal.1`.
    pub(crate) fn update(
        &mut self,
        tid: u32,
        run_delay_ns: u64,
        last_steal_ns: u64,
        steal: (u64, u64),
    ) -> Event {
        Event {
            run_delay_ns,
            last_steal_before_ns: last_steal_ns,
            last_steal_after_ns: run_delay_ns,
            steal_before_ns: steal.0,
            steal_after_ns: steal.1,
            version_after: 2,
            flags: STEAL_BEFORE_KNOWN | STEAL_AFTER_KNOWN,
            ..self.event(EventKind::Update, tid, KVM_RUN)
        }
    }
}

/// The first that one rule says at the last of these events, after the others have been learned.
pub(crate) fn judge(rule: &Rule, events: &[Event]) -> Option<Finding> {
    judge_all(rule, events).into_iter().next()
}

/// All that it says.
pub(crate) fn judge_all(rule: &Rule, events: &[Event]) -> Vec<Finding> {
    let Some((event, earlier)) = events.split_last() else { return Vec::new() };
    let (vcpu, mut threads) = learned(earlier);
    threads.learn(event);
    let (vcpu, threads) = (&vcpu, &threads);
    let settled = rule.settle.map(|settle| settle(Open { vcpu, threads, next: Some(event) }));
    let judged = (rule.judge)(Case { vcpu, threads, event });
    settled.into_iter().flatten().chain(judged).collect()
}

/// What it says where nothing follows.
pub(crate) fn judge_at_end(rule: &Rule, events: &[Event]) -> Vec<Finding> {
    let (vcpu, threads) = learned(events);
    rule.settle.map(|settle| settle(Open { vcpu: &vcpu, threads: &threads, next: None })).unwrap_or_default()
}

fn learned(events: &[Event]) -> (Vcpu, Threads) {
    let (mut vcpu, mut threads) = (Vcpu::first_seen(VcpuName::default()), Threads::default());
    for event in events {
        threads.learn(event);
        vcpu.learn(event);
    }
    (vcpu, threads)
}
