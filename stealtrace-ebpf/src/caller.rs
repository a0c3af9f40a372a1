//! Who the calling thread is, and whether it is one we watch.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use stealtrace_common::probe::Probe;

use crate::{
    counters::count,
    maps::{TARGETS, given},
    read,
};

/// The calling thread, by its numbers in stealtrace's PID namespace.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
}

impl Caller {
    /// By what this thread, the calling one, is found in maps: its number in the initial PID namespace, which is at hand.
    #[inline(always)]
    pub(crate) fn key(self) -> u32 {
        if read::is_namespace_initial() { self.tid } else { caller_key() }
    }
}

/// The calling thread.
#[inline(always)]
pub(crate) fn caller() -> Caller {
    caller_of(bpf_get_current_pid_tgid())
}

/// The same, from what `bpf_get_current_pid_tgid` said.
#[inline(always)]
pub(crate) fn caller_of(pid_tgid: u64) -> Caller {
    if read::is_namespace_initial() {
        Caller { tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32 }
    } else {
        Caller { tgid: read::tgid(read::current()), tid: read::tid(read::current()) }
    }
}

/// The calling thread's key.
#[inline(always)]
pub(crate) fn caller_key() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The calling thread, if it is one we watch; counts the hit.
#[inline(always)]
pub(crate) fn watched(probe: Probe) -> Option<Caller> {
    let caller = caller();
    if !is_watched(caller) {
        return None;
    }
    count(probe, |counter| counter.hits += 1);
    Some(caller)
}

/// Is its process one we watch?
#[inline(always)]
pub(crate) fn is_process_watched(caller: Caller) -> bool {
    // SAFETY: only presence matters, the value is not read.
    given!(TARGET.processes) == 0 || unsafe { TARGETS.get(caller.tgid) }.is_some()
}

/// Are some threads of a process watched and others not?
#[inline(always)]
pub(crate) fn are_threads_chosen() -> bool {
    given!(TARGET.tid) != 0 || given!(TARGET.comm)[0] != 0
}

/// Is the thread one we watch?
#[inline(always)]
pub(crate) fn is_watched(caller: Caller) -> bool {
    if !is_process_watched(caller) {
        return false;
    }
    let tid = given!(TARGET.tid);
    if tid != 0 && tid != caller.tid {
        return false;
    }
    let name = given!(TARGET.comm);
    name[0] == 0 || read::comm::<[u64; 2]>() == name
}
