//! Programs that do nothing: what the probes alone cost, for benchmarks to compare with.

use aya_ebpf::{
    macros::{fentry, kprobe, raw_tracepoint, tracepoint},
    programs::{FEntryContext, ProbeContext, RawTracePointContext, TracePointContext},
};

/// On any function.
#[kprobe]
pub(crate) fn floor_function(_ctx: ProbeContext) -> u32 {
    0
}

/// On any function's entry.
#[fentry]
pub(crate) fn floor_fentry(_ctx: FEntryContext) -> i32 {
    0
}

/// On any raw tracepoint.
#[raw_tracepoint]
pub(crate) fn floor_raw_tracepoint(_ctx: RawTracePointContext) -> i32 {
    0
}

/// On any tracepoint of a system call.
#[tracepoint]
pub(crate) fn floor_syscall(_ctx: TracePointContext) -> u32 {
    0
}
