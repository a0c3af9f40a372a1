//! Fill an event, put it into the ring, count what did not fit.

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns};
use stealtrace_common::{
    event::{
        ACCUMULATES, Event, EventKind, FIRST_READ, FIRST_SINCE_ENABLED, HOST_INITIATED, STEAL_AFTER_KNOWN,
        STEAL_BEFORE_KNOWN, STEAL_LAST_KNOWN,
    },
    probe::Probe,
    source::Source,
    vcpu::{EnablingWrite, Snapshot, VcpuState},
};

use crate::{
    area,
    caller::Caller,
    counters::{count, lost},
    maps::{EVENTS, given, only_edges, put},
    read,
};

/// `include/uapi/linux/bpf.h`
const BPF_RB_NO_WAKEUP: u64 = 1;

/// Is this one of the vCPUs we watch?
#[inline(always)]
pub(crate) fn is_target_vcpu(vcpu_id: u32) -> bool {
    let wanted = given!(TARGET.vcpu_id_plus_1);
    wanted == 0 || wanted == vcpu_id + 1
}

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments and always succeeds.
    unsafe { bpf_ktime_get_ns() }
}

/// Cheaper than a clock.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: the helper has no arguments and always succeeds.
    unsafe { bpf_jiffies64() }
}

/// What is told.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    pub(crate) probe: Probe,
    pub(crate) kind: EventKind,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub(crate) time_ns: u64,
    pub(crate) caller: Caller,
    /// The ioctl that the caller is in; 0 if none or not known.
    pub(crate) ioctl: u32,
}

/// Report that it happened to the vCPU between two snapshots (the same one twice for a moment).
#[inline(always)]
pub(crate) fn emit(told: Told, vcpu: u64, area: u64, state: &VcpuState, before: &Snapshot, after: &Snapshot) {
    if !is_target_vcpu(state.vcpu_id) {
        return;
    }
    let Told { probe, kind, .. } = told;
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        lost(probe);
        return;
    };
    let event = entry.as_mut_ptr();
    put_common(event, told);
    put! {
        event,
        function: 0,
        area: area,
        vcpu: vcpu,
        generation: state.generation,
        vm: state.vm,
        run_delay_ns: before.run_delay_ns,
        last_steal_before_ns: before.last_steal_ns,
        last_steal_after_ns: after.last_steal_ns,
        enabling_before: before.enabling,
        enabling_after: after.enabling,
        steal_before_ns: before.steal_ns,
        steal_after_ns: after.steal_ns,
        steal_last_ns: state.steal_last_ns,
        previous_update_ns: state.last_update_ns,
        version_before: before.version,
        version_after: after.version,
        flags: flags(kind, state, before, after),
        source: Source::of(if area::is_enabled(after.enabling) { after.enabling } else { before.enabling }),
        vcpu_id: state.vcpu_id,
        vm_tgid: state.vm_tgid,
        last_steal_tid: state.last_steal_tid,
        updates: state.updates,
    }
    entry.submit(wake_up());
    count(probe, |counter| counter.emitted += 1);
}

/// Edges are rare and worth a wake-up each. All events are many: user space comes for them by the clock.
#[inline(always)]
fn wake_up() -> u64 {
    if only_edges() { 0 } else { BPF_RB_NO_WAKEUP }
}

/// Report that a function was entered or left; for an ioctl as a whole, `function` is 0.
#[inline(always)]
pub(crate) fn emit_call(probe: Probe, kind: EventKind, caller: Caller, function: u64, ioctl: u32) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        lost(probe);
        return;
    };
    let event = entry.as_mut_ptr();
    put_common(event, Told { probe, kind, time_ns: now_ns(), caller, ioctl });
    put! {
        event,
        function: function,
        area: 0,
        vcpu: 0,
        generation: 0,
        vm: 0,
        run_delay_ns: 0,
        last_steal_before_ns: 0,
        last_steal_after_ns: 0,
        enabling_before: 0,
        enabling_after: 0,
        steal_before_ns: 0,
        steal_after_ns: 0,
        steal_last_ns: 0,
        previous_update_ns: 0,
        version_before: 0,
        version_after: 0,
        flags: 0,
        source: Source::HERE,
        vcpu_id: 0,
        vm_tgid: caller.tgid,
        last_steal_tid: 0,
        updates: 0,
    }
    entry.submit(wake_up());
    count(probe, |counter| counter.emitted += 1);
}

/// Put something that is no event into the ring.
#[inline(always)]
pub(crate) fn tell<T: 'static>(probe: Probe, what: T) {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        lost(probe);
        return;
    };
    entry.write(what);
    entry.submit(wake_up());
    count(probe, |counter| counter.emitted += 1);
}

/// Who, when, where, in what.
#[inline(always)]
fn put_common(event: *mut Event, told: Told) {
    put! {
        event,
        time_ns: told.time_ns,
        kind: told.kind,
        caller_tgid: told.caller.tgid,
        caller_tid: told.caller.tid,
        ioctl: told.ioctl,
        cpu: bpf_get_smp_processor_id(),
    }
    // SAFETY: as in `put`; the name begins with a word.
    unsafe { (&raw mut (*event).comm).cast::<[u64; 2]>().write_volatile(read::comm()) };
}

#[inline(always)]
fn flags(kind: EventKind, state: &VcpuState, before: &Snapshot, after: &Snapshot) -> u16 {
    let known = |snapshot: &Snapshot, flag| if snapshot.readable != 0 { flag } else { 0 };
    let mut flags = known(before, STEAL_BEFORE_KNOWN) | known(after, STEAL_AFTER_KNOWN);
    if state.steal_last_known != 0 {
        flags |= STEAL_LAST_KNOWN;
    }
    if matches!(kind, EventKind::Update) && state.enabled_anew != 0 {
        flags |= FIRST_SINCE_ENABLED;
    }
    if matches!(kind, EventKind::Update) && state.steal_read == 0 && after.readable != 0 {
        flags |= FIRST_READ;
    }
    if matches!(kind, EventKind::Update) && area::accumulates() {
        flags |= ACCUMULATES;
    }
    if matches!(kind, EventKind::EnablingWrite) && state.enabling_write == EnablingWrite::HOST {
        flags |= HOST_INITIATED;
    }
    flags
}
