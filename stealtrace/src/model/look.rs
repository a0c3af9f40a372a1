//! One look at every vCPU: what each is, what is known of it, and how it is judged.

use stealtrace_common::source::Area;

use super::{Account, Judgement, Thread};

/// What one look shows.
pub(crate) struct Look {
    /// When; ns of CLOCK_MONOTONIC.
    pub(crate) time_ns: u64,
    pub(crate) vcpus: Vec<VcpuLook>,
    /// Process and id of vCPUs that have a descriptor, and of which nothing was seen.
    pub(crate) unseen: Vec<(u32, String)>,
    /// That there is no vCPU at all, if so.
    pub(crate) none: Option<String>,
    /// Why a guest's memory may not be read, if so.
    pub(crate) unread: Option<String>,
    /// Why open files could not be looked at.
    pub(crate) no_iterator: Option<String>,
    /// Events that were lost.
    pub(crate) lost: u64,
}

impl Look {
    pub(crate) fn any(&self, is: fn(&Judgement) -> bool) -> bool {
        self.vcpus.iter().any(|vcpu| is(&vcpu.judgement))
    }
}

/// One vCPU.
pub(crate) struct VcpuLook {
    /// `struct kvm_vcpu *`
    pub(crate) address: u64,
    /// `struct kvm *`
    pub(crate) kvm: u64,
    /// Its descriptor.
    pub(crate) fd: u32,
    /// Which of its process's VMs, counted from 1; None if it has only one.
    pub(crate) vm: Option<u32>,
    pub(crate) pid: u32,
    pub(crate) comm: String,
    pub(crate) vm_name: Option<String>,
    pub(crate) id: u32,
    pub(crate) runner: Option<Thread>,
    pub(crate) run_delay_ns: Option<u64>,
    pub(crate) enabling: u64,
    pub(crate) last_steal_ns: u64,
    pub(crate) area: Option<Area>,
    pub(crate) judgement: Judgement,
    pub(crate) account: Account,
    /// Of its VM, by quotas of CPU time; None where there are none.
    pub(crate) throttled: Option<Throttled>,
}

/// How often a quota of CPU time was used up, and for how long that made a thread wait, since the quota was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Throttled {
    pub(crate) times: u64,
    pub(crate) time_ns: u64,
}

impl Throttled {
    /// By both of two quotas.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            times: self.times.saturating_add(other.times),
            time_ns: self.time_ns.saturating_add(other.time_ns),
        }
    }
}
