//! Fill an event, put it into the ring, count what did not fit.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid,
    generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
};
use stealtrace_common::{
    event::{Event, EventKind, HOST_INITIATED, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    probe::Probe,
    vcpu::{MsrWrite, Snapshot, VcpuState},
};

use crate::maps::{COUNTERS, EVENTS, TARGETS, filtering};

/// The calling thread.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
}

/// The calling thread, if its process is one we watch; counts the hit.
#[inline(always)]
pub(crate) fn watched(probe: Probe) -> Option<Caller> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let caller = Caller { tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32 };
    // SAFETY: only presence matters, the value is not read.
    if filtering() && unsafe { TARGETS.get(caller.tgid) }.is_none() {
        return None;
    }
    count(probe, |counter| counter.hits += 1);
    Some(caller)
}

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments and always succeeds.
    unsafe { bpf_ktime_get_ns() }
}

/// A fact that could not be kept or reported.
#[inline(always)]
pub(crate) fn lost(probe: Probe) {
    count(probe, |counter| counter.lost += 1);
}

/// Report that `kind` happened to the vCPU between two snapshots (the same one twice for a moment).
#[inline(always)]
pub(crate) fn emit(
    probe: Probe,
    kind: EventKind,
    caller: Caller,
    vcpu: u64,
    state: &VcpuState,
    before: &Snapshot,
    after: &Snapshot,
) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        lost(probe);
        return;
    };
    entry.write(Event {
        time_ns: now_ns(),
        vcpu,
        generation: state.generation,
        vm: state.vm,
        run_delay_ns: before.run_delay_ns,
        last_steal_before_ns: before.last_steal_ns,
        last_steal_after_ns: after.last_steal_ns,
        msr_before: before.msr_val,
        msr_val: after.msr_val,
        steal_before_ns: before.steal_ns,
        steal_after_ns: after.steal_ns,
        version_before: before.version,
        version_after: after.version,
        kind: kind as u32,
        flags: flags(kind, state, before, after),
        vcpu_id: state.vcpu_id,
        vm_tgid: state.vm_tgid,
        caller_tgid: caller.tgid,
        caller_tid: caller.tid,
        ioctl: state.ioctl,
        // SAFETY: the helper has no arguments and always succeeds.
        cpu: unsafe { bpf_get_smp_processor_id() },
        comm: bpf_get_current_comm().unwrap_or_default(),
    });
    entry.submit(0);
    count(probe, |counter| counter.emitted += 1);
}

#[inline(always)]
fn flags(kind: EventKind, state: &VcpuState, before: &Snapshot, after: &Snapshot) -> u32 {
    let mut flags = 0;
    if before.readable != 0 {
        flags |= STEAL_BEFORE_KNOWN;
    }
    if after.readable != 0 {
        flags |= STEAL_AFTER_KNOWN;
    }
    if matches!(kind, EventKind::MsrWrite) && state.msr_write == MsrWrite::Host as u32 {
        flags |= HOST_INITIATED;
    }
    flags
}

#[inline(always)]
fn count(probe: Probe, add: impl FnOnce(&mut stealtrace_common::probe::Counter)) {
    if let Some(counter) = COUNTERS.get_ptr_mut(probe as u32) {
        // SAFETY: this CPU's own slot; BPF programs are not preempted by another that shares it.
        add(unsafe { &mut *counter });
    }
}
