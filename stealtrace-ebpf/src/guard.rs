//! The only programs that write: they put the guest's counter back when KVM's update corrupted it, on the vCPU's own
//! thread and before the guest runs. Loaded by `stealtrace guard` and by nothing else.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe, map},
    maps::{HashMap, LruHashMap},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use stealtrace_common::{
    probe::Probe,
    ring::Repair,
    source::here::VERSIONS,
    steal::{StealDelta, is_impossible},
    vcpu::Snapshot,
};

use crate::{
    area,
    caller::{Caller, caller, watched},
    counters::lost,
    emit::{now_ns, tell},
    functions::Arguments,
    maps::{BPF_F_NO_PREALLOC, given},
    read, source,
};

/// Threads inside KVM's update of the guest's counter, by their number in the initial PID namespace.
#[map]
static UPDATING: HashMap<u32, Update> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// What is remembered of each vCPU, by `struct kvm_vcpu *`. One that is forgotten begins anew.
#[map]
static GUARDED: LruHashMap<u64, Guarded> = LruHashMap::with_max_entries(16_384, 0);

/// An update that has begun.
#[repr(C)]
#[derive(Clone, Copy)]
struct Update {
    vcpu: u64,
    /// Host address of the guest's area; 0 if KVM has none yet.
    area: u64,
    /// The load's delta, on kernels that keep it until guest entry; else 0.
    accumulated: u64,
    before: Snapshot,
}

/// What the last update left.
#[repr(C)]
#[derive(Clone, Copy)]
struct Guarded {
    /// The guest's counter, and its version.
    steal_ns: u64,
    version: u32,
    /// The thread that made it; 0 if no update was seen.
    tid: u32,
    /// What that thread had waited by then.
    run_delay_ns: u64,
    /// By how much the counter is ahead of what KVM would have it: to be taken from later over-charges.
    debt_ns: u64,
    healed: u64,
}

const NOTHING: Guarded = Guarded { steal_ns: 0, version: 0, tid: 0, run_delay_ns: 0, debt_ns: 0, healed: 0 };

/// `record_steal_time(struct kvm_vcpu *vcpu)`, or `kvm_update_stolen_time`
#[kprobe]
pub(crate) fn guard_enter(ctx: ProbeContext) -> u32 {
    enter(&ctx);
    0
}

/// The same by fentry.
#[fentry]
pub(crate) fn guard_enter_fentry(ctx: FEntryContext) -> i32 {
    enter(&ctx);
    0
}

/// It returned; the guest has not run yet.
#[kretprobe]
pub(crate) fn guard_exit(_ctx: RetProbeContext) -> u32 {
    leave();
    0
}

/// The same by fexit, which misses none.
#[fexit]
pub(crate) fn guard_exit_fentry(_ctx: FExitContext) -> i32 {
    leave();
    0
}

/// `kvm_arch_vcpu_destroy(struct kvm_vcpu *vcpu)`: the next at this address is another, which may look like it where areas
/// have no version: nothing charged, nothing waited.
#[kprobe]
pub(crate) fn guard_forget(ctx: ProbeContext) -> u32 {
    forget(&ctx);
    0
}

/// The same by fentry.
#[fentry]
pub(crate) fn guard_forget_fentry(ctx: FEntryContext) -> i32 {
    forget(&ctx);
    0
}

#[inline(always)]
fn forget(ctx: &impl Arguments) {
    let _absent = GUARDED.remove(ctx.number(0));
}

#[inline(always)]
fn enter(ctx: &impl Arguments) {
    if let Some(caller) = watched(Probe::GuardEnter) {
        begin(caller, ctx.number(0));
    }
}

#[inline(always)]
fn leave() {
    let caller = caller();
    // SAFETY: the entry is this thread's own and is only read here.
    if let Some(update) = unsafe { UPDATING.get(caller.key()) } {
        end(caller, update);
        let _absent = UPDATING.remove(caller.key());
    }
}

#[inline(always)]
fn begin(caller: Caller, vcpu: u64) {
    if UPDATING.remove(caller.key()).is_ok() {
        lost(Probe::GuardExit); // a return that was not seen
    }
    let before = area::snapshot(vcpu);
    if !area::is_enabled(before.enabling) || area::is_of_another(before.enabling) {
        return; // of another source's area it is not known how to write it
    }
    let area = area::address(vcpu, before.enabling);
    let update = Update { vcpu, area, accumulated: area::accumulated(vcpu), before };
    if UPDATING.insert(caller.key(), update, 0).is_err() {
        lost(Probe::GuardEnter);
    }
}

#[inline(always)]
fn end(caller: Caller, update: &Update) {
    let mut after = area::snapshot(update.vcpu);
    after.last_steal_ns -= area::accumulated(update.vcpu); // of a load since: the next update's
    if after.readable == 0 {
        let _absent = GUARDED.remove(update.vcpu);
        if after.last_steal_ns != update.before.last_steal_ns {
            lost(Probe::GuardExit); // KVM wrote what we cannot see
        }
        return;
    }
    let change = Change::of(caller, update, &after);
    let mut next = Guarded { steal_ns: after.steal_ns, version: after.version, ..change.guarded };
    if let Some(repaired) = repaired(&change, &after) {
        if put_back(caller, update, &after, &change, repaired.steal_ns) {
            next = Guarded { version: after.version + VERSIONS, ..repaired };
        } else {
            next.healed = repaired.healed; // told once
        }
    }
    next.run_delay_ns = after.last_steal_ns;
    next.tid = caller.tid;
    if GUARDED.insert(update.vcpu, next, 0).is_err() {
        lost(Probe::GuardExit);
    }
}

/// What an update did.
struct Change {
    /// What KVM added.
    delta: StealDelta,
    before_ns: u64,
    /// What the caller waited since it made the last update, all that a sound delta is; 0 if another thread made it.
    own_ns: u64,
    /// Is `before_ns` what the guest saw, rather than what it must have been if KVM added the delta as it is?
    certain: bool,
    /// What is remembered of this very area.
    guarded: Guarded,
}

impl Change {
    #[inline(always)]
    fn of(caller: Caller, update: &Update, after: &Snapshot) -> Self {
        let delta = consumed(update, after);
        // Where a memory slot was replaced, what was read before is not what KVM read.
        let seen = update.before.readable != 0 && update.area == area::address(update.vcpu, after.enabling);
        let before_ns =
            if seen { update.before.steal_ns } else { after.steal_ns.wrapping_sub(delta.wrapped_ns()) };
        // SAFETY: the vCPU's holder is the only one that reads and writes its entry.
        let known = unsafe { GUARDED.get(update.vcpu) }.copied().unwrap_or(NOTHING);
        // Else the VMM brought other memory back, the area is another, or a new vCPU is at an old one's address.
        let same_area = match VERSIONS {
            0 => update.before.last_steal_ns == known.run_delay_ns, // nothing else moves it there
            _ => after.version == known.version + VERSIONS,
        };
        let goes_on = known.tid != 0 && before_ns == known.steal_ns && same_area;
        let certain = seen || goes_on;
        let guarded = if goes_on { known } else { NOTHING };
        let waited = StealDelta::between(guarded.run_delay_ns, after.last_steal_ns);
        let own = guarded.tid == caller.tid && !waited.is_underflow();
        Self { delta, before_ns, own_ns: if own { waited.wrapped_ns() } else { 0 }, certain, guarded }
    }
}

/// What KVM added, exactly: the caller may be preempted between the probes and KVM's subtraction.
#[inline(always)]
fn consumed(update: &Update, after: &Snapshot) -> StealDelta {
    let loaded_anew = after.last_steal_ns != update.before.last_steal_ns;
    if update.accumulated != 0 && !loaded_anew {
        StealDelta::between(0, update.accumulated)
    } else {
        StealDelta::between(update.before.last_steal_ns, after.last_steal_ns)
    }
}

/// What to leave instead of what KVM left, if that is not right.
#[inline(always)]
fn repaired(change: &Change, after: &Snapshot) -> Option<Guarded> {
    let Change { delta, before_ns, own_ns, guarded, .. } = *change;
    let growth = StealDelta::between(before_ns, after.steal_ns);
    if delta.is_underflow() && growth.is_underflow() {
        let steal_ns = before_ns.wrapping_add(own_ns);
        let debt_ns = guarded.debt_ns.wrapping_add(steal_ns.wrapping_sub(after.steal_ns));
        return Some(Guarded { steal_ns, debt_ns, ..guarded });
    }
    // A kernel that is sound across a hand-off does not add the plain difference.
    let plain = guarded.tid != 0 && growth == delta && !delta.is_underflow() && !is_impossible(before_ns);
    if plain && growth.wrapped_ns() > own_ns {
        let foreign_ns = growth.wrapped_ns() - own_ns;
        let owed_ns = if foreign_ns < guarded.debt_ns { foreign_ns } else { guarded.debt_ns };
        let back_ns = if given!(GUARD.over_charge) != 0 { foreign_ns } else { owed_ns };
        if back_ns != 0 {
            let (steal_ns, debt_ns) = (after.steal_ns.wrapping_sub(back_ns), guarded.debt_ns - owed_ns);
            return Some(Guarded { steal_ns, debt_ns, ..guarded });
        }
    }
    if given!(GUARD.heal) != 0 && guarded.healed == 0 && is_impossible(after.steal_ns) {
        let age_ns = now_ns() - read::process_start_ns();
        return Some(Guarded { steal_ns: age_ns, debt_ns: 0, healed: 1, ..guarded });
    }
    None
}

/// Write as KVM does. Was it written?
#[inline(always)]
fn put_back(caller: Caller, update: &Update, after: &Snapshot, change: &Change, good_ns: u64) -> bool {
    let area = area::address(update.vcpu, after.enabling);
    // A kernel that clamps a negative delta would have left this too, unless it is impossible.
    let sure = change.certain || is_impossible(after.steal_ns);
    let written = sure && given!(GUARD.write) != 0 && source::rewrite(area, after, good_ns);
    let (_vm, vcpu_id) = read::identity(update.vcpu);
    let repair = Repair {
        time_ns: now_ns(),
        added_ns: change.delta.wrapped_ns(),
        corrupt_ns: after.steal_ns,
        good_ns,
        version: after.version,
        written: u32::from(written),
        vcpu_id,
        vm_tgid: caller.tgid,
        caller_tid: caller.tid,
        reserved: 0,
        comm: read::comm(),
    };
    tell(Probe::GuardExit, repair);
    written
}
