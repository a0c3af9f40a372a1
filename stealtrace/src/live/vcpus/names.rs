//! Names and control groups of VMs and their threads: read once, kept as long as every look asks for them.

use std::{collections::HashMap, mem, path::PathBuf, rc::Rc};

use super::{cgroup, proc};
use crate::{model::Thread, os::process};

/// Names known by the last look, and by this one.
#[derive(Default)]
pub(super) struct Names {
    before: Known,
    now: Known,
}

#[derive(Default)]
struct Known {
    /// By `struct kvm *` and process.
    vms: HashMap<(u64, u32), Vm>,
    /// The runner of a vCPU.
    runners: HashMap<u64, Runner>,
}

/// What a VM and its process are called.
#[derive(Clone)]
pub(super) struct Vm {
    pub(super) comm: String,
    pub(super) name: Option<String>,
    pub(super) groups: Groups,
}

/// A thread that runs a vCPU.
#[derive(Clone)]
pub(super) struct Runner {
    pub(super) thread: Thread,
    pub(super) groups: Groups,
}

/// The control groups whose quotas hold for a thread.
pub(super) type Groups = Rc<[PathBuf]>;

impl Names {
    /// A look begins: what the last one did not ask for is forgotten.
    pub(super) fn begin_look(&mut self) {
        self.before = mem::take(&mut self.now);
    }

    pub(super) fn vm(&mut self, kvm: u64, pid: u32) -> Vm {
        let Self { before, now } = self;
        let read = || Vm { comm: process::comm(pid), name: proc::name(pid), groups: cgroup::groups(pid) };
        let known = || before.vms.remove(&(kvm, pid)).unwrap_or_else(read);
        now.vms.entry((kvm, pid)).or_insert_with(known).clone()
    }

    pub(super) fn runner(&mut self, vcpu: u64, tid: u32) -> Runner {
        let Self { before, now } = self;
        let read =
            || Runner { thread: Thread { tid, comm: process::comm(tid) }, groups: cgroup::groups(tid) };
        let known = before.runners.remove(&vcpu).filter(|runner| runner.thread.tid == tid);
        let runner = known.unwrap_or_else(read);
        now.runners.insert(vcpu, runner.clone());
        runner
    }
}
