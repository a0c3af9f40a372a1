//! Entry and return of any kernel function, for the view of calls. Attached to as many as are asked for.

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_func_ip,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use stealtrace_common::{event::EventKind, probe::Probe};

use crate::{caller::watched, emit::emit_call};

/// Entry of a function.
#[kprobe]
pub(crate) fn call_enter(ctx: ProbeContext) -> u32 {
    report(&ctx, Probe::Call, EventKind::Call);
    0
}

/// Return of a function.
#[kretprobe]
pub(crate) fn call_return(ctx: RetProbeContext) -> u32 {
    report(&ctx, Probe::Return, EventKind::Return);
    0
}

/// Entry of a function.
#[fentry]
pub(crate) fn call_enter_fentry(ctx: FEntryContext) -> i32 {
    report(&ctx, Probe::Call, EventKind::Call);
    0
}

/// Return of a function.
#[fexit]
pub(crate) fn call_return_fentry(ctx: FExitContext) -> i32 {
    report(&ctx, Probe::Return, EventKind::Return);
    0
}

/// `bpf_get_func_ip` tells a program that is attached to many functions which it is in (Linux 5.15).
#[inline(always)]
fn report(ctx: &impl EbpfContext, probe: Probe, kind: EventKind) {
    if let Some(caller) = watched(probe) {
        // SAFETY: the context is that of a function's entry or return.
        let function = unsafe { bpf_get_func_ip(ctx.as_ptr()) };
        emit_call(probe, kind, caller, function, 0);
    }
}
