//! The tracepoint backend: the same facts from raw sys_enter and sys_exit, for kernels without kprobes.
//! An update is what changed during one ioctl, as far as this thread can have changed it.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use stealtrace_common::{
    event::EventKind,
    kvm::{self, KVM_CREATE_VCPU, KVM_RUN, KVM_SET_MSRS, KVMIO},
    probe::Probe,
    vcpu::{MsrWrite, Snapshot, ThreadState, VcpuState},
};

use crate::{
    emit::{Caller, emit_call, lost, now_ns, watched},
    facts::{self, Stay},
    lifecycle::{self, vcpu_state},
    maps::{THREADS, target},
    read,
};

/// `__NR_ioctl` on x86-64.
const IOCTL: u64 = 16;

/// `trace_sys_enter(struct pt_regs *regs, long id)`
#[raw_tracepoint]
pub(crate) fn sys_enter(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u64>(1) != IOCTL {
        return 0;
    }
    let (fd, ioctl, argument) = read::syscall_args(ctx.arg(0));
    if kvm::ioctl_type(ioctl) == KVMIO
        && let Some(caller) = watched(Probe::SysEnter)
    {
        enter(caller, fd, ioctl, argument);
    }
    0
}

#[inline(always)]
fn enter(caller: Caller, fd: u32, ioctl: u32, argument: u64) {
    let mut thread = ThreadState { ioctl, time_ns: now_ns(), ..ThreadState::default() };
    if ioctl != KVM_CREATE_VCPU {
        thread.vcpu = read::vcpu_of_fd(fd);
        if thread.vcpu == 0 {
            return;
        }
        thread.entered = read::snapshot(thread.vcpu);
    }
    if ioctl == KVM_SET_MSRS {
        thread.msr_position = read::steal_msr_position(argument);
    }
    if THREADS.insert(caller.tid, thread, 0).is_err() {
        lost(Probe::SysEnter);
    }
    report_ioctl(caller, &thread);
}

#[inline(always)]
fn report_ioctl(caller: Caller, thread: &ThreadState) {
    if thread.vcpu == 0 {
        return;
    }
    if let Some(state) = vcpu_state(Probe::SysEnter, caller, thread.vcpu) {
        facts::entered(Probe::SysEnter, caller, thread.vcpu, state, thread.ioctl, &thread.entered);
    }
}

/// `trace_sys_exit(struct pt_regs *regs, long ret)`
#[raw_tracepoint]
pub(crate) fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let tid = aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32;
    // SAFETY: the entry is this thread's own; nobody removes it but this thread.
    let Some(thread) = (unsafe { THREADS.get(tid) }) else {
        return 0;
    };
    if let Some(caller) = watched(Probe::SysExit) {
        leave(&ctx, caller, thread);
    }
    let _absent = THREADS.remove(tid);
    0
}

#[inline(always)]
fn leave(ctx: &RawTracePointContext, caller: Caller, thread: &ThreadState) {
    let ret = ctx.arg::<u64>(1).cast_signed();
    if thread.vcpu != 0 {
        report_changes(caller, thread, ret);
        if target().returns != 0 {
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
fn report_changes(caller: Caller, thread: &ThreadState, ret: i64) {
    let vcpu = thread.vcpu;
    let Some(state) = vcpu_state(Probe::SysExit, caller, vcpu) else {
        return;
    };
    let mut opened = before(thread, state);
    let mut before = opened;
    let after = read::snapshot(vcpu);
    let msr_write = msr_write(thread, ret, &before, &after);
    if by_caller(&before, &after) {
        // An update, and a write that copies, leave the caller's run_delay of that moment in last_steal.
        opened.run_delay_ns = after.last_steal_ns;
        before.run_delay_ns = after.last_steal_ns;
    } else if matches!(msr_write, MsrWrite::None) {
        before = after; // whatever changed, another thread did it
    }
    let (caller, ioctl, since_ns) = (caller, thread.ioctl, thread.time_ns);
    facts::left(
        state,
        &Stay {
            probe: Probe::SysExit,
            caller,
            vcpu,
            ioctl,
            msr_write,
            opened: &opened,
            before: &before,
            after: &after,
            since_ns,
        },
    );
    state.open = after;
    state.open_time_ns = now_ns();
}

/// What was true when this ioctl got hold of the vCPU: at its entry, or, if it then waited for another
/// thread's ioctl, when that one left.
#[inline(always)]
fn before(thread: &ThreadState, state: &VcpuState) -> Snapshot {
    if state.open_time_ns > thread.time_ns {
        Snapshot { run_delay_ns: thread.entered.run_delay_ns, ..state.open }
    } else {
        thread.entered
    }
}

/// KVM_SET_MSRS returns how many it set; a guest's own write shows only as a new value after KVM_RUN.
#[inline(always)]
fn msr_write(thread: &ThreadState, ret: i64, before: &Snapshot, after: &Snapshot) -> MsrWrite {
    if thread.msr_position != 0 && ret >= i64::from(thread.msr_position) {
        MsrWrite::Host
    } else if thread.ioctl == KVM_RUN && before.msr_val != after.msr_val {
        MsrWrite::Guest
    } else {
        MsrWrite::None
    }
}

/// An update by this thread leaves last_steal at a run_delay it had during the ioctl.
#[inline(always)]
fn by_caller(before: &Snapshot, after: &Snapshot) -> bool {
    before.run_delay_ns <= after.last_steal_ns && after.last_steal_ns <= after.run_delay_ns
}
