//! Probes on KVM's functions, by kprobe or fentry: what each does. An update is what changed between load and put;
//! the probe on the kernel's update function, where there is one, tightens its "before".

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use stealtrace_common::{
    event::EventKind,
    probe::Probe,
    steal::StealDelta,
    vcpu::{EnablingWrite, Snapshot, ThreadState, VcpuState},
};

use crate::{
    area,
    caller::{Caller, caller, caller_key, is_process_watched, watched},
    emit::{Told, emit, now_ns},
    facts::{self, Stay, keep},
    lifecycle::{self, own_vcpu, thread, vcpu_state},
    maps::{VCPUS, given, reread},
    other, quiet,
    read::{self, Structure},
};

/// What a function was called with.
pub(crate) trait Arguments: EbpfContext {
    /// An argument as a number: an address is one, too, to know something by.
    fn number(&self, n: usize) -> u64;

    /// An argument that is no address.
    fn plain(&self, n: usize) -> u64;

    /// What an argument points to.
    fn structure(&self, n: usize) -> impl Structure;
}

/// `kvm_vcpu_ioctl(struct file *filp, unsigned int ioctl, unsigned long arg)`
#[inline(always)]
pub(crate) fn vcpu_ioctl(ctx: &impl Arguments) {
    let key = caller_key(); // first: what is known then need not be saved over the call
    enters(key, read::private_data(ctx.structure(0)), ctx);
}

/// The same where what a field of no type points to is no number to the verifier.
#[inline(always)]
pub(crate) fn vcpu_ioctl_checked(ctx: &impl Arguments) {
    let key = caller_key();
    enters(key, read::private_data(ctx.number(0)), ctx);
}

#[inline(always)]
fn enters(key: u32, vcpu: u64, ctx: &impl Arguments) {
    let ioctl = ctx.plain(1) as u32;
    if !quiet::enters(vcpu, key, ioctl) {
        entered(vcpu, ioctl);
    }
}

/// Where there is something to tell. A function of its own: registers that it needs are not saved for nothing.
#[inline(never)]
fn entered(vcpu: u64, ioctl: u32) {
    if let Some(caller) = watched(Probe::VcpuIoctl)
        && let Some(state) = own_vcpu(Probe::VcpuIoctl, caller, vcpu)
        && let Some(thread) = thread(Probe::VcpuIoctl, caller)
    {
        thread.vcpu = vcpu;
        thread.ioctl = ioctl;
        thread.time_ns = now_ns();
        thread.loaded = 0;
        facts::entered(Probe::VcpuIoctl, caller, state, thread);
    }
}

/// `kvm_arch_vcpu_load(struct kvm_vcpu *vcpu, int cpu)`: from an ioctl, or scheduled in again during one. The first of an
/// ioctl is news only to who follows each call: all else was told when the ioctl was entered.
#[inline(always)]
pub(crate) fn vcpu_load(ctx: &impl Arguments) {
    let (vcpu, structure) = (ctx.number(0), ctx.structure(0));
    if let Some(caller) = watched(Probe::VcpuLoad) {
        let mut ioctl = 0;
        if let Some(thread) = lifecycle::known_thread(caller.key())
            && thread.vcpu == vcpu
        {
            if thread.loaded == 0 && given!(TARGET.returns) == 0 {
                thread.loaded = 1;
                return;
            }
            // KVM also loads a vCPU to destroy it, then without its mutex.
            ioctl = if read::holds_mutex(structure) { thread.ioctl } else { 0 };
        }
        if let Some(state) = vcpu_state(Probe::VcpuLoad, caller, vcpu) {
            let (probe, kind) = (Probe::VcpuLoad, EventKind::Load);
            let now = area::snapshot(structure);
            emit(Told { probe, kind, time_ns: now_ns(), caller, ioctl }, vcpu, 0, state, &now, &now);
        }
    }
}

/// `accumulate_steal_time(struct kvm_vcpu *vcpu)`, or what does the subtraction where there is none: `record_steal_time`,
/// `kvm_update_stolen_time`.
#[inline(always)]
pub(crate) fn steal_update(ctx: &impl Arguments) {
    let vcpu = ctx.number(0);
    if let Some(caller) = watched(Probe::StealUpdate)
        && !quiet::updates(vcpu, caller.key())
        && let Some(state) = lifecycle::find(vcpu)
    {
        let now = area::snapshot(ctx.structure(0));
        let tells_more = state.updating == 0 || (state.updating != HALFWAY && lower(&now, &state.update));
        // Another source is also charged where its thread is scheduled out: there the stay's beginning tells.
        if area::is_enabled(now.enabling) && !area::is_of_another(now.enabling) && tells_more {
            state.update = now;
            state.updating = 1;
        }
    }
}

/// Of several updates between one load and its put, the lowest delta matters.
#[inline(always)]
fn lower(one: &Snapshot, other: &Snapshot) -> bool {
    StealDelta::between(one.last_steal_ns, one.run_delay_ns).signed_ns()
        < StealDelta::between(other.last_steal_ns, other.run_delay_ns).signed_ns()
}

/// `kvm_arch_vcpu_put(struct kvm_vcpu *vcpu)`: leaving an ioctl, or scheduled out during one.
#[inline(always)]
pub(crate) fn vcpu_put(ctx: &impl Arguments) {
    if !quiet::lets_go(ctx.number(0), ctx.structure(0)) {
        left(ctx);
    }
}

/// The same for its end. Whoever destroys the vCPU does not hold its mutex; nothing is kept of such a thread, whose end may
/// have been told already.
#[inline(never)]
fn left(ctx: &impl Arguments) {
    let (vcpu, structure) = (ctx.number(0), ctx.structure(0)); // once more: nothing need be saved until here
    if let Some(caller) = watched(Probe::VcpuPut)
        && let Some(state) = lifecycle::find(vcpu)
        && read::holds_mutex(structure)
    {
        closed(state, caller, vcpu, &area::snapshot(structure));
    }
}

/// Everything that changed since the last put, this thread did.
#[inline(always)]
pub(crate) fn closed(state: &mut VcpuState, caller: Caller, vcpu: u64, after: &Snapshot) {
    let Some(thread) = thread(Probe::VcpuPut, caller) else {
        return;
    };
    keep(&mut thread.after, after);
    let quiet_ioctl = quiet::ioctl(vcpu, caller.key());
    // What the thread entered may have been another vCPU's at the same address.
    let is_looked_at = quiet_ioctl.is_none() && thread.vcpu == vcpu && thread.time_ns >= state.generation;
    if quiet_ioctl.is_none() && !is_looked_at && state.open_time_ns == 0 {
        forget(state, &thread.after);
        return;
    }
    state.ioctl = if is_looked_at { thread.ioctl } else { quiet_ioctl.unwrap_or(state.ioctl) };
    let enabling_write = state.enabling_write;
    if state.updating == 0 || enabling_write != EnablingWrite::NONE {
        opens(state, caller, vcpu, thread, is_looked_at); // else nothing but the update tells
    }
    let ThreadState { opened, before, after, .. } = thread;
    if state.updating != 0 {
        keep(before, &state.update);
    }
    if state.updating == HALFWAY {
        before.run_delay_ns = after.last_steal_ns; // what the updates since then subtracted from, together
    }
    if !area::accumulates() && is_halfway(state, before, after) && read::is_preempted(vcpu) {
        if state.updating != 0 {
            state.updating = HALFWAY;
        }
        return; // it goes on, and lets go once more
    }
    if enabling_write == EnablingWrite::HOST {
        opened.run_delay_ns = before.run_delay_ns;
    }
    let now_ns = now_ns();
    let stay = Stay {
        probe: Probe::VcpuPut,
        caller,
        vcpu,
        ioctl: reread!(state.ioctl),
        enabling_write: reread!(state.enabling_write),
        opened,
        before,
        after,
        since_ns: now_ns,
        until_ns: now_ns,
        counts: true,
    };
    facts::left(state, &stay);
}

/// What was true when this stay began, and of that what KVM then subtracted from.
#[inline(always)]
fn opens(state: &mut VcpuState, caller: Caller, vcpu: u64, thread: &mut ThreadState, is_looked_at: bool) {
    if is_looked_at {
        let opened = facts::opened(thread, state);
        keep(&mut thread.opened, &opened);
    } else {
        keep(&mut thread.opened, &facts::opened_unseen(state, &thread.after));
    }
    let ThreadState { opened, before, after, .. } = thread;
    if state.enabling_write == EnablingWrite::HOST {
        opened.run_delay_ns = after.run_delay_ns; // it may have waited since its entry, which edges do not look at
        if state.ioctl == other::IOCTL {
            facts::set_by_host(state, caller, vcpu, state.update.run_delay_ns, opened, after);
        }
    }
    keep(before, opened);
    if before.last_steal_ns != after.last_steal_ns {
        before.run_delay_ns = after.last_steal_ns; // what KVM subtracted from
    }
}

/// [`VcpuState::updating`] where the thread was preempted since: KVM updates once more when it goes on.
const HALFWAY: u32 = 2;

/// Is KVM in the midst of an update? It was about to begin, or has set last_steal and not yet the guest's counter.
#[inline(always)]
fn is_halfway(state: &VcpuState, before: &Snapshot, after: &Snapshot) -> bool {
    let is_written = before.version != after.version && after.version.is_multiple_of(2);
    let stands = before.steal_ns == after.steal_ns && !is_written;
    if before.last_steal_ns == after.last_steal_ns {
        state.updating != 0 && stands
    } else {
        before.readable & after.readable != 0 && stands
    }
}

/// An ioctl that began before us: from here on we know.
#[inline(always)]
fn forget(state: &mut VcpuState, now: &Snapshot) {
    keep(&mut state.open, now);
    state.open_time_ns = now_ns();
    state.enabling_write = EnablingWrite::NONE;
    state.updating = 0;
}

/// `kvm_arch_vcpu_create(struct kvm_vcpu *vcpu)`, Linux 5.6 and later.
#[inline(always)]
pub(crate) fn vcpu_create(ctx: &impl Arguments) {
    let caller = caller();
    if is_process_watched(caller) {
        let _counted = watched(Probe::VcpuCreate);
        lifecycle::created(ctx, Probe::VcpuCreate, caller, ctx.number(0));
    }
}

/// `kvm_arch_vcpu_destroy(struct kvm_vcpu *vcpu)`
#[inline(always)]
pub(crate) fn vcpu_destroy(ctx: &impl Arguments) {
    let vcpu = ctx.number(0);
    if let Some(state) = lifecycle::find(vcpu) {
        let caller = caller();
        let nothing = Snapshot::default();
        let (probe, kind) = (Probe::VcpuDestroy, EventKind::Destroyed);
        emit(Told { probe, kind, time_ns: now_ns(), caller, ioctl: 0 }, vcpu, 0, state, &nothing, &nothing);
        debug!(ctx, "vCPU {:x} destroyed by thread {}", vcpu, caller.tid);
        quiet::clear(vcpu);
        let _absent = VCPUS.remove(vcpu);
    }
}
