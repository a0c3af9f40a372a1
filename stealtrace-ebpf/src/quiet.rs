//! The short way where only edges are reported: a thread whose own run_delay is in last_steal, and of which everything
//! was told, can change no judgement as long as last_steal and what enables the source stay the same. One slot,
//! found by arithmetic.

use stealtrace_common::{
    kvm::KVM_RUN,
    vcpu::{QuietVcpu, VcpuState},
};

use crate::{
    area,
    caller::{Caller, caller_key},
    emit::{jiffies, now_ns},
    maps::{QUIET, VCPUS, given, put, reread},
    read::{self, Structure},
};

/// This vCPU's slot, if it has it.
#[inline(always)]
pub(crate) fn find(vcpu: u64) -> Option<&'static mut QuietVcpu> {
    let slot = slot(vcpu);
    if slot.vcpu == vcpu { Some(slot) } else { None }
}

#[inline(always)]
fn slot(vcpu: u64) -> &'static mut QuietVcpu {
    let slots = (&raw mut QUIET).cast::<QuietVcpu>();
    // SAFETY: within the array. Threads that race write whole fields, which are judged singly.
    unsafe { &mut *slots.add(QuietVcpu::slot(vcpu) as usize) }
}

/// Is there nothing to tell of this thread's entering an ioctl? Another thread may be about to take over.
#[inline(always)]
pub(crate) fn enters(vcpu: u64, key: u32, ioctl: u32) -> bool {
    let Some(quiet) = find(vcpu) else {
        return false;
    };
    if quiet.thread != key {
        quiet.mingled = 1;
        return false;
    }
    quiet.ioctl = ioctl;
    if quiet.runner != key && (quiet.runner != 0 || ioctl == KVM_RUN) {
        return false;
    }
    quiet.entered += 1;
    true
}

/// Is there nothing to tell of this thread's end of an ioctl? KVM then added nothing to the guest's counter.
#[inline(always)]
pub(crate) fn leaves(vcpu: u64, structure: impl Structure, key: u32) -> bool {
    find(vcpu).is_some_and(|quiet| quiet.thread == key && stays(quiet, structure) && passed_over(quiet))
}

/// Is there nothing to tell of the letting go of a vCPU, which one thread has at a time? A stranger who changed nothing is
/// nothing to tell of, either, unless somebody took over: to ask who it is costs as much as all else.
#[inline(always)]
pub(crate) fn lets_go(vcpu: u64, structure: impl Structure) -> bool {
    find(vcpu).is_some_and(|quiet| {
        quiet.thread != 0 && stays(quiet, structure) && is_own(quiet) && passed_over(quiet)
    })
}

/// Is it the quiet thread that lets go, or has nobody taken over?
#[inline(always)]
fn is_own(quiet: &QuietVcpu) -> bool {
    let runner = reread!(quiet.runner);
    runner == 0 || runner == reread!(quiet.thread) || caller_key() == reread!(quiet.thread)
}

/// Is all as it was when everything was told?
#[inline(always)]
fn stays(quiet: &QuietVcpu, structure: impl Structure) -> bool {
    area::steal_time(structure) == (quiet.enabling, quiet.last_steal_ns)
}

/// Nothing was told of a stay.
#[inline(always)]
fn passed_over(quiet: &mut QuietVcpu) -> bool {
    quiet.left += 1;
    if jiffies() != reread!(quiet.looked_jiffies) {
        look(quiet);
    }
    true
}

/// Once a tick: is nothing left of what the thread waited for? Whoever else lets go of the vCPU, without having run the
/// guest, leaves that to its next update. A function of its own: registers that it needs are not saved for nothing.
#[inline(never)]
fn look(quiet: &mut QuietVcpu) {
    if caller_key() != quiet.thread {
        return;
    }
    quiet.looked_jiffies = jiffies();
    let since_ns = now_ns();
    if read::run_delay_ns() == quiet.last_steal_ns {
        quiet.since_ns = since_ns;
    }
}

/// This thread enters an ioctl that is looked at in any case.
#[inline(always)]
pub(crate) fn mingles(vcpu: u64, key: u32) {
    if let Some(quiet) = find(vcpu)
        && quiet.thread != key
    {
        quiet.mingled = 1;
    }
}

/// The ioctl of this thread, if it is the one of which there is nothing to tell.
#[inline(always)]
pub(crate) fn ioctl(vcpu: u64, key: u32) -> Option<u32> {
    if given!(TARGET.pass_over) == 0 {
        return None;
    }
    let quiet = find(vcpu)?;
    if quiet.thread == key { Some(quiet.ioctl) } else { None }
}

/// Did another thread's ioctl overlap with what the quiet thread did? Then nobody saw the counter in between.
#[inline(always)]
pub(crate) fn is_mingled(vcpu: u64) -> bool {
    find(vcpu).is_some_and(|quiet| quiet.mingled != 0)
}

/// Do this thread's updates show when it lets go? Not beside a write of what enables the source, with which some kernels
/// copy.
#[inline(always)]
pub(crate) fn updates(vcpu: u64, key: u32) -> bool {
    find(vcpu).is_some_and(|quiet| quiet.thread == key && quiet.enabling != QuietVcpu::WRITTEN)
}

/// What enables the source was written: this stay has something to tell.
#[inline(always)]
pub(crate) fn enabling_written(vcpu: u64) {
    if let Some(quiet) = find(vcpu) {
        quiet.enabling = QuietVcpu::WRITTEN;
    }
}

/// The runner changed.
#[inline(always)]
pub(crate) fn taken_over(vcpu: u64, by: u32) {
    if let Some(quiet) = find(vcpu) {
        quiet.runner = by;
    }
}

/// Since when the next delta can have grown, if the vCPU was quiet since the last update.
#[inline(always)]
pub(crate) fn since_ns(vcpu: u64) -> Option<u64> {
    if given!(TARGET.pass_over) == 0 {
        return None;
    }
    find(vcpu).map(|quiet| quiet.since_ns).filter(|since_ns| *since_ns != 0)
}

/// Everything was told: from here on this is how it looks if nothing happens.
#[inline(always)]
pub(crate) fn settle(vcpu: u64, caller: Caller, state: &VcpuState) {
    if given!(TARGET.pass_over) == 0 {
        return;
    }
    let slot = slot(vcpu);
    if slot.vcpu != vcpu && slot.vcpu != 0 && lives(slot.vcpu) {
        return;
    }
    *slot = QuietVcpu {
        vcpu,
        enabling: state.open.enabling,
        last_steal_ns: state.open.last_steal_ns,
        since_ns: 0,
        looked_jiffies: 0,
        thread: thread(state, caller),
        runner: state.runner_key,
        ioctl: state.ioctl,
        mingled: if caller.tid == state.runner { 0 } else { slot.mingled },
        ..*slot
    };
}

/// Is anything known of this vCPU? User space lets go of those that are no more.
#[inline(always)]
fn lives(vcpu: u64) -> bool {
    // SAFETY: only presence matters, the value is not read.
    unsafe { VCPUS.get(vcpu) }.is_some()
}

/// Key of the thread of which there is nothing to tell; 0 if none. Who made a vCPU that was there before us is not known:
/// whoever was told of does nothing new.
#[inline(always)]
fn thread(state: &VcpuState, caller: Caller) -> u32 {
    if area::is_of_another(state.open.enabling) {
        return 0; // what would have to stay the same is looked for elsewhere
    }
    let is_enabled = area::is_enabled(state.open.enabling);
    match (state.runner, state.creator) {
        (0, 0) if !is_enabled || !area::accumulates() => return caller.key(), // only running it could update
        (0, _) if !is_enabled => return state.creator_key,
        (_, _) if !is_enabled => return state.runner_key,
        _ => {}
    }
    let read = state.steal_last_known != 0 || !area::is_known();
    if read && state.last_steal_tid == state.runner { state.runner_key } else { 0 }
}

/// A vCPU begins or ends at this address.
#[inline(always)]
pub(crate) fn clear(vcpu: u64) {
    if let Some(slot) = find(vcpu) {
        put! {
            slot,
            vcpu: 0,
            enabling: 0,
            last_steal_ns: 0,
            since_ns: 0,
            looked_jiffies: 0,
            thread: 0,
            runner: 0,
            ioctl: 0,
            mingled: 0,
        }
    }
}
