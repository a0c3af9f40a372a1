//! The only programs that write: they put the guest's counter back when KVM's update corrupted it, on the vCPU's own
//! thread and before the guest runs. Loaded by `stealtrace guard` and by nothing else.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_probe_write_user,
    macros::{kprobe, kretprobe, map},
    maps::HashMap,
    programs::{ProbeContext, RetProbeContext},
};
use stealtrace_common::{event::EventKind, kvm, probe::Probe, steal::StealDelta, vcpu::Snapshot};

use crate::{
    emit::{Caller, caller, could_wait_since_ns, emit_plain, lost, now_ns, watched},
    maps::{BPF_F_NO_PREALLOC, given},
    read,
};

/// Threads inside `record_steal_time`, by tid.
#[map]
static UPDATING: HashMap<u32, Update> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// When each vCPU's counter was last updated, and whether it was healed, by `struct kvm_vcpu *`.
#[map]
static GUARDED: HashMap<u64, Guarded> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// An update that has begun.
#[repr(C)]
#[derive(Clone, Copy)]
struct Update {
    vcpu: u64,
    /// What KVM is about to add.
    delta: u64,
    before: Snapshot,
}

/// What is remembered of a vCPU.
#[repr(C)]
#[derive(Clone, Copy)]
struct Guarded {
    /// Since when the next delta can grow.
    updated_ns: u64,
    /// Thread whose run_delay is in last_steal since then.
    tid: u32,
    /// 1 if a corruption was found: the next hand-off is its other half.
    corrupted: u16,
    healed: u16,
}

/// `record_steal_time(struct kvm_vcpu *vcpu)`
#[kprobe]
pub(crate) fn guard_enter(ctx: ProbeContext) -> u32 {
    if let Some(caller) = watched(Probe::GuardEnter) {
        begin(caller, ctx.arg(0).unwrap_or_default());
    }
    0
}

#[inline(always)]
fn begin(caller: Caller, vcpu: u64) {
    let before = read::snapshot(vcpu);
    if !kvm::msr_enabled(before.msr_val) {
        return;
    }
    // SAFETY: only presence matters, the value is not read.
    if unsafe { UPDATING.get(caller.tid) }.is_some() {
        lost(Probe::GuardExit); // a return that was not seen
    }
    let update = Update { vcpu, delta: delta(vcpu, &before), before };
    if UPDATING.insert(caller.tid, update, 0).is_err() {
        lost(Probe::GuardEnter);
    }
}

/// On Linux 3.1 to 4.3 computed at the load; the load's own delta if that was not consumed.
#[inline(always)]
fn delta(vcpu: u64, before: &Snapshot) -> u64 {
    match read::accumulated(vcpu) {
        0 => StealDelta::between(before.last_steal_ns, before.run_delay_ns).wrapped_ns(),
        accumulated => accumulated,
    }
}

/// It returned; the guest has not run yet.
#[kretprobe]
pub(crate) fn guard_exit(_ctx: RetProbeContext) -> u32 {
    let caller = caller();
    // SAFETY: the entry is this thread's own and is only read here.
    if let Some(update) = unsafe { UPDATING.get(caller.tid) } {
        end(caller, update);
        let _absent = UPDATING.remove(caller.tid);
    }
    0
}

#[inline(always)]
fn end(caller: Caller, update: &Update) {
    let after = read::snapshot(update.vcpu);
    if after.readable == 0 {
        return;
    }
    let mut guarded = guarded(caller, update);
    if let Some(good_ns) = good(caller, update, &after, &mut guarded) {
        put_back(caller, update, &after, good_ns);
    }
    guarded.updated_ns = could_wait_since_ns();
    guarded.tid = caller.tid;
    if GUARDED.insert(update.vcpu, guarded, 0).is_err() {
        lost(Probe::GuardExit);
    }
}

/// What is remembered; nothing at KVM's first write to an area, that of a new vCPU at an old one's address too.
#[inline(always)]
fn guarded(caller: Caller, update: &Update) -> Guarded {
    // SAFETY: the vCPU's holder is the only one that reads and writes its entry.
    let known = unsafe { GUARDED.get(update.vcpu) }.filter(|_| update.before.readable != 0);
    known.copied().unwrap_or(Guarded { updated_ns: 0, tid: caller.tid, corrupted: 0, healed: 0 })
}

/// What the counter should be, if not what KVM left.
#[inline(always)]
fn good(caller: Caller, update: &Update, after: &Snapshot, guarded: &mut Guarded) -> Option<u64> {
    let before = &update.before;
    let underflow = (update.delta.cast_signed()) < 0;
    let growth = StealDelta::between(before.steal_ns, after.steal_ns);
    if before.readable == 0 {
        // KVM's first write to the area. A counter that was not impossible before is one that KVM added the delta to.
        if !underflow || !is_impossible(after.steal_ns) {
            return None;
        }
        guarded.corrupted = 1;
        return Some(after.steal_ns.wrapping_sub(update.delta));
    }
    if underflow {
        if !growth.is_underflow() {
            return None;
        }
        guarded.corrupted = 1;
        return Some(before.steal_ns);
    }
    let handed_back = guarded.corrupted != 0 && guarded.tid != caller.tid;
    let over_charged = given!(GUARD.over_charge) != 0
        && guarded.updated_ns != 0
        && growth.wrapped_ns() > now_ns() - guarded.updated_ns;
    if growth.wrapped_ns() != 0 && growth.wrapped_ns() == update.delta && (handed_back || over_charged) {
        return Some(before.steal_ns);
    }
    if given!(GUARD.heal) != 0 && guarded.healed == 0 && is_impossible(after.steal_ns) {
        guarded.healed = 1;
        return Some(now_ns() - read::process_start_ns());
    }
    None
}

/// More than 292 years.
#[inline(always)]
fn is_impossible(steal_ns: u64) -> bool {
    steal_ns.cast_signed() < 0
}

/// Write as KVM does: the version is odd while the counter is not what it says.
#[inline(always)]
fn put_back(caller: Caller, update: &Update, after: &Snapshot, good_ns: u64) {
    let area = read::steal_area_address(update.vcpu, after.msr_val);
    let written = given!(GUARD.write) != 0
        && write(area + VERSION, after.version + 1)
        && write(area, good_ns)
        && write(area + VERSION, after.version + 2);
    let kind = if written { EventKind::Repaired } else { EventKind::Unrepaired };
    let before = Snapshot {
        steal_ns: good_ns,
        readable: 1,
        run_delay_ns: update.before.last_steal_ns.wrapping_add(update.delta),
        ..update.before
    };
    emit_plain(Probe::GuardExit, kind, caller, update.vcpu, area, &before, after);
}

/// Where `version` lies in `struct kvm_steal_time`.
const VERSION: u64 = 8;

#[inline(always)]
fn write<T: Copy>(address: u64, value: T) -> bool {
    // SAFETY: the helper checks the address and fails instead of faulting; the area is the calling thread's VM's.
    let result = unsafe {
        bpf_probe_write_user(address as *mut c_void, (&raw const value).cast(), size_of::<T>() as u32)
    };
    result == 0
}
