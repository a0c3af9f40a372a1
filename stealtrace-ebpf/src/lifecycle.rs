//! vCPUs and threads that come and go, whatever the backend: the only place that adds to or removes from VCPUS.

use core::mem::MaybeUninit;

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use stealtrace_common::{
    event::EventKind,
    probe::Probe,
    vcpu::{Snapshot, ThreadState, VcpuState},
};

use crate::{
    caller::{Caller, caller, is_process_watched, is_watched, watched},
    counters::lost,
    emit::{Told, emit, emit_call, now_ns},
    maps::{CREATIONS, NAMESPACE, TARGETS, THREADS, VCPUS, given, put},
    quiet, read,
};

/// The runner of a vCPU whose runner ended: no thread has this number.
const NO_MORE: u32 = u32::MAX;

/// Begin a new vCPU at this address, whatever was there before.
#[inline(always)]
pub(crate) fn begin(probe: Probe, caller: Caller, vcpu: u64) -> Option<&'static mut VcpuState> {
    quiet::clear(vcpu);
    let (vm, vcpu_id) = read::identity(vcpu);
    let mut place = MaybeUninit::uninit();
    let state: &mut VcpuState = read::zeroed(&mut place);
    state.generation = now_ns();
    state.vm = vm;
    state.mm = read::mm(vm);
    state.vcpu_id = vcpu_id;
    state.vm_tgid = caller.tgid;
    let state: &VcpuState = state;
    if VCPUS.insert(vcpu, state, 0).is_err() {
        lost(probe);
        return None;
    }
    find(vcpu)
}

/// The vCPU created by the caller just now: of a process we watch, if not by a thread that we do.
#[inline(always)]
pub(crate) fn created(ctx: &impl EbpfContext, probe: Probe, caller: Caller, vcpu: u64) {
    if let Some(state) = begin(probe, caller, vcpu) {
        state.creator = caller.tid;
        state.creator_key = caller.key();
        count_creation();
        debug!(ctx, "vCPU {:x} created by thread {}", vcpu, caller.tid);
        let nothing = Snapshot::default();
        if is_watched(caller) {
            let time_ns = state.generation;
            let told = Told { probe, kind: EventKind::Created, time_ns, caller, ioctl: 0 };
            emit(told, vcpu, 0, state, &nothing, &nothing);
        }
    }
}

/// How many vCPUs were created since we look. Threads that count at once may count as one.
#[inline(always)]
pub(crate) fn creations() -> u32 {
    // SAFETY: a valid static, read as a whole.
    unsafe { (&raw const CREATIONS).read_volatile() }
}

#[inline(always)]
fn count_creation() {
    // SAFETY: a valid static, written as a whole.
    unsafe { (&raw mut CREATIONS).write_volatile(creations().wrapping_add(1)) };
}

/// What is known of this vCPU; begins it at first sight.
#[inline(always)]
pub(crate) fn vcpu_state(probe: Probe, caller: Caller, vcpu: u64) -> Option<&'static mut VcpuState> {
    match find(vcpu) {
        Some(state) => Some(state),
        None => begin(probe, caller, vcpu),
    }
}

/// The same for whoever enters an ioctl, if the vCPU is of a VM of its process. What is known may be of one that was at this
/// address before.
#[inline(always)]
pub(crate) fn own_vcpu(probe: Probe, caller: Caller, vcpu: u64) -> Option<&'static mut VcpuState> {
    match find(vcpu) {
        Some(state) if state.mm == read::own_mm() => Some(state),
        _ if read::owns(read::current(), vcpu) => begin(probe, caller, vcpu),
        _ => None,
    }
}

/// What is known of this thread.
#[inline(always)]
pub(crate) fn known_thread(key: u32) -> Option<&'static mut ThreadState> {
    for choice in 0..ThreadState::CHOICE {
        let slot = thread_slot(key, choice)?;
        if slot.key == key {
            return Some(slot);
        }
    }
    None
}

#[inline(always)]
fn thread_slot(key: u32, choice: u32) -> Option<&'static mut ThreadState> {
    // SAFETY: array entries live as long as the map, and only the thread that has a slot uses it.
    THREADS.get_ptr_mut(ThreadState::slot(key, choice)).map(|slot| unsafe { &mut *slot })
}

/// What this thread does now, to be filled in.
#[inline(always)]
pub(crate) fn thread(probe: Probe, caller: Caller) -> Option<&'static mut ThreadState> {
    known_thread(caller.key()).or_else(|| new_thread(probe, caller.key()))
}

/// What it does, for the first time.
#[inline(always)]
pub(crate) fn new_thread(probe: Probe, key: u32) -> Option<&'static mut ThreadState> {
    for choice in 0..ThreadState::CHOICE {
        let slot = thread_slot(key, choice)?;
        if slot.key == 0 {
            slot.key = key;
            return Some(slot);
        }
    }
    lost(probe);
    None
}

/// What is known of this vCPU.
#[inline(always)]
pub(crate) fn find(vcpu: u64) -> Option<&'static mut VcpuState> {
    // SAFETY: entries are freed by RCU after the program has left. Writers are the vCPU's holder,
    // which `vcpu->mutex` makes the only one (kprobe), or racing ioctls whose fields are judged singly (tracepoint).
    VCPUS.get_ptr_mut(vcpu).map(|state| unsafe { &mut *state })
}

/// `trace_sched_process_exit(task)`: the thread is in no ioctl any more, and runs no vCPU.
#[raw_tracepoint]
pub(crate) fn thread_exit(_ctx: RawTracePointContext) -> i32 {
    let caller = caller();
    if let Some(thread) = known_thread(caller.key()) {
        if let Some(state) = find(thread.vcpu)
            && state.runner == caller.tid
        {
            state.runner = NO_MORE;
            state.runner_key = NO_MORE;
            quiet::taken_over(thread.vcpu, NO_MORE);
        }
        if watched(Probe::Exit).is_some() {
            emit_call(Probe::Exit, EventKind::ThreadEnded, caller, 0, 0);
        }
        put! { thread, vcpu: 0, file: 0, ioctl: 0, key: 0 }
    }
    if given!(TARGET.processes) != 0 && read::is_last_thread() {
        let _absent = TARGETS.remove(caller.tgid); // another process may get its number
    }
    0
}

/// `trace_sched_process_fork(parent, child)`: children of watched processes are watched.
#[raw_tracepoint]
pub(crate) fn process_fork(ctx: RawTracePointContext) -> i32 {
    if given!(TARGET.processes) == 0 {
        return 0;
    }
    let caller = caller();
    if is_process_watched(caller) {
        let child = read::tgid(ctx.arg(1));
        debug!(&ctx, "process {} forked {}", caller.tgid, child);
        if child != caller.tgid && TARGETS.insert(child, 1, 0).is_err() {
            lost(Probe::Fork);
        }
    }
    0
}

/// `trace_sched_process_fork(parent, child)`: where the kernel keeps stealtrace's own PID namespace. Attached alone and
/// for a moment, in which stealtrace itself makes a thread.
#[raw_tracepoint]
pub(crate) fn own_namespace(_ctx: RawTracePointContext) -> i32 {
    let namespace = read::pid_namespace();
    if namespace.inode == given!(TARGET.namespace.inode) {
        let _full = NAMESPACE.set(0, namespace, 0);
    }
    0
}
