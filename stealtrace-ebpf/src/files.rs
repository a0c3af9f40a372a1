//! Every vCPU there is, found by its descriptor: a BPF iterator over every task's files. Reads only what the kernel
//! keeps; the guest's memory belongs to another process here.

use core::ffi::c_void;

use stealtrace_common::{probe::Probe, ring::Sighting};

use crate::{
    area,
    emit::{now_ns, tell},
    read,
};

/// `struct bpf_iter__task_file`: meta, task, fd, file.
const TASK: usize = 8;
const FD: usize = 16;
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
        let time_ns = now_ns(); // what follows may be overtaken by an event, and is then known to be older
        let (enabling, last_steal_ns) = area::any_steal_time(vcpu);
        let (vm, vcpu_id) = read::identity(vcpu);
        // SAFETY: the same.
        let fd = unsafe { *ctx.byte_add(FD).cast::<u32>() };
        let sighting = Sighting {
            time_ns,
            vcpu,
            vm,
            enabling,
            last_steal_ns,
            area: area::address_of(vcpu, enabling),
            run_delay_ns: read::runners_run_delay_ns(vcpu),
            vcpu_id,
            fd,
            holder_tgid: read::tgid(task),
            runner_tid: read::runner(vcpu),
            owned: u32::from(read::owns(task, vcpu)),
            reserved: 0,
        };
        tell(Probe::Files, sighting);
    }
    0
}
