//! What a backend saw becomes an event, if it is worth one, and the vCPU's record follows.
//! Both backends come through here, so that they tell the same story.

use stealtrace_common::{
    event::EventKind,
    kvm::{self, KVM_RUN},
    probe::Probe,
    steal::StealDelta,
    vcpu::{MsrWrite, Snapshot, VcpuState},
};

use crate::{
    emit::{Caller, emit, now_ns},
    maps::only_edges,
};

/// One ioctl's stay with a vCPU, or a part of it: from load to put, or from system call to return.
pub(crate) struct Stay<'a> {
    pub(crate) probe: Probe,
    pub(crate) caller: Caller,
    pub(crate) vcpu: u64,
    pub(crate) ioctl: u32,
    pub(crate) msr_write: MsrWrite,
    /// What was true when the stay began.
    pub(crate) opened: &'a Snapshot,
    /// What was true when KVM's update began; the same where no probe tells.
    pub(crate) before: &'a Snapshot,
    pub(crate) after: &'a Snapshot,
    /// When the stay began.
    pub(crate) since_ns: u64,
}

/// A thread entered an ioctl. The vCPU may be in another thread's hands: only `runner` and `handed_over` change.
#[inline(always)]
pub(crate) fn entered(
    probe: Probe,
    caller: Caller,
    vcpu: u64,
    state: &mut VcpuState,
    ioctl: u32,
    now: &Snapshot,
) {
    let is_run = ioctl == KVM_RUN;
    let foreign = caller.tid != state.runner && (is_run || caller.tid != state.creator);
    if foreign || !only_edges() {
        emit(probe, EventKind::Ioctl, caller, vcpu, ioctl, state, now, now);
    }
    if is_run && foreign {
        state.handed_over = u32::from(state.runner != 0);
        state.runner = caller.tid;
    }
}

/// A stay ended.
#[inline(always)]
pub(crate) fn left(state: &mut VcpuState, stay: &Stay<'_>) {
    state.msr_write = stay.msr_write as u32;
    if !matches!(stay.msr_write, MsrWrite::None) {
        msr_written(state, stay);
    }
    // A host that enables the MSR may set last_steal (Linux 3.1 to 4.3), but nothing is charged.
    let enabling = matches!(stay.msr_write, MsrWrite::Host) && !kvm::msr_enabled(stay.opened.msr_val);
    if updated(stay.before, stay.after) && !enabling {
        consumed(state, stay);
    }
}

#[inline(always)]
fn msr_written(state: &mut VcpuState, stay: &Stay<'_>) {
    let before = stay.opened;
    emit(stay.probe, EventKind::MsrWrite, stay.caller, stay.vcpu, stay.ioctl, state, before, stay.after);
    let copied = stay.after.last_steal_ns != before.last_steal_ns;
    if copied {
        state.last_steal_tid = stay.caller.tid;
    }
    if !kvm::msr_enabled(before.msr_val) {
        state.enabled_anew = 1;
    }
    if copied || state.enabled_anew != 0 {
        state.last_update_ns = stay.since_ns;
    }
    if before.msr_val != stay.after.msr_val {
        state.steal_last_known = 0;
    }
}

/// Did KVM consume a delta?
#[inline(always)]
fn updated(before: &Snapshot, after: &Snapshot) -> bool {
    before.last_steal_ns != after.last_steal_ns
        || (after.readable != 0 && (before.readable == 0 || before.version != after.version))
}

#[inline(always)]
fn consumed(state: &mut VcpuState, stay: &Stay<'_>) {
    let Stay { before, after, .. } = stay;
    state.updates += 1;
    if !only_edges() || is_edge(state, before, after) {
        emit(stay.probe, EventKind::Update, stay.caller, stay.vcpu, stay.ioctl, state, before, after);
    }
    state.last_update_ns = stay.since_ns;
    state.steal_last_ns = after.steal_ns;
    state.steal_last_known = after.readable;
    state.steal_read |= after.readable;
    state.last_steal_tid = stay.caller.tid;
    state.enabled_anew = 0;
    state.handed_over = 0;
}

/// Can this update change a judgement?
#[inline(always)]
fn is_edge(state: &VcpuState, before: &Snapshot, after: &Snapshot) -> bool {
    let delta = StealDelta::between(before.last_steal_ns, before.run_delay_ns);
    let elapsed_ns = now_ns() - state.last_update_ns;
    let rewound =
        state.steal_last_known != 0 && before.readable != 0 && state.steal_last_ns != before.steal_ns;
    let backwards = StealDelta::between(before.steal_ns, after.steal_ns).is_underflow();
    delta.is_underflow()
        || (state.last_update_ns != 0 && delta.wrapped_ns() > elapsed_ns)
        || (state.steal_read == 0 && after.readable != 0)
        || state.handed_over != 0
        || rewound
        || backwards
}
