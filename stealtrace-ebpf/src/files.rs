//! Every vCPU there is, found by its descriptor: a BPF iterator over every task's files. Reads only what the kernel
//! keeps; the guest's memory belongs to another process here.

use core::ffi::c_void;

use stealtrace_common::{
    event::{EventKind, OWNED},
    probe::Probe,
    vcpu::Snapshot,
};

use crate::{
    emit::{Caller, emit_plain},
    read,
};

/// `struct bpf_iter__task_file`: meta, task, fd, file.
const TASK: usize = 8;
const FILE: usize = 24;

/// Called with every open file.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn vcpu_files(ctx: *const c_void) -> i32 {
    // SAFETY: the iterator's context, whose pointers the verifier knows.
    let [task, file] = [TASK, FILE].map(|at| unsafe { *ctx.byte_add(at).cast::<u64>() });
    if task == 0 || file == 0 {
        return 0;
    }
    let vcpu = read::vcpu_of_file(file);
    if vcpu != 0 {
        let (msr_val, last_steal_ns) = read::steal_time(vcpu);
        let now = Snapshot { msr_val, last_steal_ns, ..Snapshot::default() };
        let owner = Caller { tgid: read::tgid(task), tid: read::runner(vcpu) };
        let area = read::steal_area_address(vcpu, msr_val);
        let flags = if read::owns(task, vcpu) { OWNED } else { 0 };
        emit_plain(Probe::Files, EventKind::Seen, owner, vcpu, area, flags, &now, &now);
    }
    0
}
