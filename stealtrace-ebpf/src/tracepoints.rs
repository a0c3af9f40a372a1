//! The tracepoint backend: the same facts from the entry and exit of system calls, for kernels without kprobes.
//! An update is what changed during one ioctl, as far as this thread can have changed it.

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use stealtrace_common::{
    event::EventKind,
    kvm::{self, KVM_CREATE_VCPU, KVM_RUN, KVMIO},
    probe::Probe,
    vcpu::{EnablingWrite, Snapshot, ThreadState, VcpuState},
};

use crate::{
    arch, area,
    caller::{Caller, caller, caller_of, is_process_watched, watched},
    emit::{emit_call, jiffies, now_ns},
    facts::{self, Stay, keep},
    lifecycle::{self, own_vcpu, vcpu_state},
    maps::{given, reread},
    other, quiet, read, source,
};

/// `syscalls:sys_enter_ioctl`: `struct syscall_trace_enter` with its arguments as 64-bit words.
#[tracepoint]
pub(crate) fn ioctl_enter(ctx: TracePointContext) -> u32 {
    // SAFETY: the record of a system call with three arguments; the verifier knows its size.
    enter(unsafe { *ctx.as_ptr().cast::<u8>().add(16).cast::<[u64; 3]>() });
    0
}

/// `syscalls:sys_exit_ioctl`: `struct syscall_trace_exit`.
#[tracepoint]
pub(crate) fn ioctl_exit(ctx: TracePointContext) -> u32 {
    // SAFETY: as above, of a system call's return.
    leave(&ctx, unsafe { *ctx.as_ptr().cast::<u8>().add(16).cast::<i64>() });
    0
}

/// `trace_sys_enter(struct pt_regs *regs, long id)`, of every system call there is: where the kernel has no
/// tracepoints of single system calls.
#[raw_tracepoint]
pub(crate) fn sys_enter(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u64>(1) == arch::IOCTL {
        enter(arch::syscall_args(ctx.arg(0)));
    }
    0
}

/// `trace_sys_exit(struct pt_regs *regs, long ret)`
#[raw_tracepoint]
pub(crate) fn sys_exit(ctx: RawTracePointContext) -> i32 {
    leave(&ctx, ctx.arg::<u64>(1).cast_signed());
    0
}

#[inline(always)]
fn enter([fd, ioctl, argument]: [u64; 3]) {
    let (fd, ioctl) = (fd as u32, ioctl as u32);
    if kvm::ioctl_type(ioctl) != KVMIO {
        return;
    }
    let caller = caller();
    let known = lifecycle::known_thread(caller.key());
    let file = if ioctl == KVM_CREATE_VCPU { 0 } else { read::file_of_fd(fd) };
    let (vcpu, quiet) = match ioctl {
        KVM_CREATE_VCPU => (0, false),
        _ => vcpu_and_quiet(file, ioctl, caller, known.as_deref()),
    };
    if vcpu == 0 && ioctl != KVM_CREATE_VCPU {
        return;
    }
    let is_watched = match vcpu {
        0 => is_process_watched(caller),
        _ => quiet || watched(Probe::SysEnter).is_some(),
    };
    if !is_watched {
        return;
    }
    let looked_at = if quiet || vcpu == 0 { None } else { own_vcpu(Probe::SysEnter, caller, vcpu) };
    if looked_at.is_none() && !quiet && vcpu != 0 {
        return;
    }
    if let Some(thread) = known.or_else(|| lifecycle::new_thread(Probe::SysEnter, caller.key())) {
        thread.file = file;
        thread.creations = lifecycle::creations();
        thread.vcpu = vcpu;
        thread.ioctl = ioctl;
        note_time(thread, quiet);
        thread.unlooked = u32::from(quiet);
        if quiet {
            thread.entered.run_delay_ns = read::run_delay_ns();
        } else if let Some(state) = looked_at {
            entered_vcpu(caller, state, thread);
        }
        thread.enabling_position = position(ioctl, argument);
    }
}

/// Can this ioctl enable a source?
#[inline(always)]
fn is_enabling(ioctl: u32) -> bool {
    ioctl == source::IOCTL || ioctl == other::IOCTL
}

/// Where what enables one stands in what this ioctl writes, counted from 1; 0 if it is not in it.
#[inline(always)]
fn position(ioctl: u32, argument: u64) -> u32 {
    match ioctl {
        source::IOCTL => source::position(argument),
        other::IOCTL => other::position(argument),
        _ => 0,
    }
}

/// When this thread came in. A clock costs as much as all else where there is nothing to tell: there the tick will do.
#[inline(always)]
fn note_time(thread: &mut ThreadState, quiet: bool) {
    let jiffies = jiffies();
    if !quiet || thread.jiffies != jiffies {
        thread.jiffies = jiffies;
        thread.time_ns = now_ns();
    }
}

/// The vCPU behind an open file, 0 if it is not a vCPU's; and whether there is nothing to tell. What is known to be quiet
/// is a vCPU: only where there is something to tell is the file asked what it is.
#[inline(always)]
fn vcpu_and_quiet(file: u64, ioctl: u32, caller: Caller, known: Option<&ThreadState>) -> (u64, bool) {
    let vcpu = behind(file, known);
    if vcpu == 0 {
        return (0, false);
    }
    let looked_at = is_enabling(ioctl) || !passes_over();
    if !looked_at && quiet::enters(vcpu, caller.key(), ioctl) {
        return (vcpu, true);
    }
    if !read::is_vcpu(file) {
        return (0, false);
    }
    if looked_at {
        quiet::mingles(vcpu, caller.key());
    }
    (vcpu, false)
}

/// What the file has to say. If it is the one that the thread used last, that is known, as long as no vCPU was created since,
/// whose file might be in its place; if another is, what it does is passed over like the vCPU's.
#[inline(always)]
fn behind(file: u64, known: Option<&ThreadState>) -> u64 {
    match known {
        Some(thread) if thread.file == file && thread.creations == lifecycle::creations() => thread.vcpu,
        _ => read::private_data(file),
    }
}

/// May a thread be passed over that left last_steal as it was? Not where a load keeps its delta until guest entry: between
/// two of the same run_delay another thread's may have been charged, and shows when that one's ioctl returns.
#[inline(always)]
fn passes_over() -> bool {
    !area::accumulates()
}

#[inline(always)]
fn entered_vcpu(caller: Caller, state: &mut VcpuState, thread: &mut ThreadState) {
    if !passes_over() {
        facts::comes_in(caller, state, thread);
    }
    facts::entered(Probe::SysEnter, caller, state, thread);
}

#[inline(always)]
fn leave(ctx: &impl EbpfContext, ret: i64) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let Some(thread) = lifecycle::known_thread(pid_tgid as u32) else {
        return;
    };
    let caller = caller_of(pid_tgid);
    if thread.ioctl == 0 {
        return;
    }
    let quiet = passes_over()
        && thread.enabling_position == 0
        && quiet::leaves(thread.vcpu, thread.vcpu, caller.key());
    if thread.vcpu == 0 || (!quiet && watched(Probe::SysExit).is_some()) {
        left(ctx, caller, thread, ret);
    }
    thread.ioctl = 0;
}

#[inline(always)]
fn left(ctx: &impl EbpfContext, caller: Caller, thread: &mut ThreadState, ret: i64) {
    if thread.vcpu != 0 {
        report_changes(caller, thread, ret);
        if given!(TARGET.returns) != 0 {
            emit_call(Probe::SysExit, EventKind::Return, caller, 0, thread.ioctl);
        }
    } else if ret >= 0 {
        let vcpu = read::vcpu_of_fd(ret as u32);
        if vcpu != 0 {
            lifecycle::created(ctx, Probe::SysExit, caller, vcpu);
        }
    }
}

#[inline(always)]
fn report_changes(caller: Caller, thread: &mut ThreadState, ret: i64) {
    let vcpu = thread.vcpu;
    let Some(state) = vcpu_state(Probe::SysExit, caller, vcpu) else {
        return;
    };
    keep(&mut thread.after, &area::snapshot(vcpu));
    if thread.unlooked == 0 {
        let opened = facts::opened(thread, state);
        keep(&mut thread.opened, &opened);
    } else {
        keep(&mut thread.opened, &facts::opened_unseen(state, &thread.after));
        if quiet::is_mingled(vcpu) || quiet::ioctl(vcpu, caller.key()).is_none() {
            thread.opened.readable = 0;
        }
    }
    if !passes_over() && facts::goes_out(caller, state, thread) {
        thread.opened.readable = 0; // another thread's delta may have been charged since
    }
    thread.opened.run_delay_ns = thread.entered.run_delay_ns;
    let enabling_write = facts::written(state, enabling_write(thread, ret));
    let (ioctl, since_ns) = (thread.ioctl, thread.time_ns);
    let place: *const ThreadState = thread;
    let ThreadState { entered, opened, before, after, .. } = thread;
    if ioctl == other::IOCTL && enabling_write == EnablingWrite::HOST {
        facts::set_by_host(state, caller, vcpu, entered.run_delay_ns, opened, after);
    }
    keep(before, opened);
    let is_run = ioctl == KVM_RUN;
    if by_caller(before, after) {
        // An update, and a write that copies, leave the caller's run_delay of that moment in last_steal.
        before.run_delay_ns = after.last_steal_ns;
        if enabling_write == EnablingWrite::HOST {
            opened.run_delay_ns = after.last_steal_ns;
        }
    } else if enabling_write != EnablingWrite::GUEST {
        if !is_run && enabling_write == EnablingWrite::NONE && state.open_time_ns != 0 {
            return; // whatever changed, another thread did it, and shows when that one lets go
        }
        keep(before, after);
        if is_run && area::is_enabled(after.enabling) {
            facts::counted(state, after, after.enabling); // only running the guest changes its counter
        }
    }
    if !is_run {
        keep(before, &facts::with_counter(before, after));
    }
    let stay = Stay {
        probe: Probe::SysExit,
        caller,
        vcpu,
        ioctl: reread!(place.ioctl),
        enabling_write: reread!(state.enabling_write),
        opened,
        before,
        after,
        since_ns,
        until_ns: now_ns(),
        counts: is_run,
    };
    facts::left(state, &stay);
}

/// A guest's own write shows only as a new value after KVM_RUN.
#[inline(always)]
fn enabling_write(thread: &ThreadState, ret: i64) -> EnablingWrite {
    let written = match thread.ioctl {
        other::IOCTL => thread.enabling_position != 0 && ret == 0,
        _ => source::was_written(thread.enabling_position, ret),
    };
    if written {
        EnablingWrite::HOST
    } else if thread.ioctl == KVM_RUN && thread.opened.enabling != thread.after.enabling {
        EnablingWrite::GUEST
    } else {
        EnablingWrite::NONE
    }
}

/// An update by this thread leaves last_steal at a run_delay it had during the ioctl.
#[inline(always)]
fn by_caller(before: &Snapshot, after: &Snapshot) -> bool {
    before.run_delay_ns <= after.last_steal_ns && after.last_steal_ns <= after.run_delay_ns
}
