//! One look at every vCPU: what each is, what is known of it, and how it is judged.

use std::collections::BTreeMap;

use stealtrace_common::source::x86_msr::Area;

use super::{Judgement, Sight, Thread};

/// What an earlier look saw, by process and address of the vCPU.
pub(crate) type Sights = BTreeMap<(u32, u64), Sight>;

/// What one look shows.
pub(crate) struct Look {
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

    /// What was off in the look before, and counts right since, jumped once.
    pub(crate) fn doubt(&mut self, before: &Self) {
        let off: BTreeMap<_, _> = before.vcpus.iter().map(|vcpu| (vcpu.key, vcpu.judgement)).collect();
        for vcpu in &mut self.vcpus {
            if let (Judgement::Sound, Some(Judgement::Off(ns))) = (vcpu.judgement, off.get(&vcpu.key)) {
                vcpu.judgement = Judgement::Jumped(*ns);
            }
        }
    }

    /// For the next look.
    pub(crate) fn sights(&self) -> Sights {
        self.vcpus.iter().map(|vcpu| (vcpu.key, vcpu.sight.clone())).collect()
    }
}

/// One vCPU.
pub(crate) struct VcpuLook {
    pub(crate) key: (u32, u64),
    /// `struct kvm *`
    pub(crate) kvm: u64,
    /// Which of its process's VMs, counted from 1; None if it has only one.
    pub(crate) vm: Option<u32>,
    pub(crate) sight: Sight,
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
}
