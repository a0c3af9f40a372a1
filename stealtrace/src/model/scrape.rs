//! All that there is to know at one moment, for who asks again and again: vCPUs, findings, losses, and ourselves.

use std::collections::{BTreeMap, BTreeSet};

use super::{Judgement, Look, Lost, RuleId, Severity, VcpuLook};

/// What was known at one moment.
pub(crate) struct Scrape {
    /// Is there a kvm that the probes are in?
    pub(crate) is_attached: bool,
    pub(crate) backend: String,
    pub(crate) look: Look,
    /// Of every rule, whatever it found.
    pub(crate) findings: BTreeMap<(RuleId, Severity), u64>,
    pub(crate) lost: Lost,
    pub(crate) own: Own,
}

/// What we use ourselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Own {
    pub(crate) cpu_ns: u64,
    pub(crate) resident_bytes: u64,
    /// Since 1970.
    pub(crate) start_ns: u64,
}

impl Look {
    /// What the VM of each vCPU is called, in their order. Names that several have are told apart by their processes, and
    /// VMs of one process by their numbers; the same after we were started again.
    pub(crate) fn domains(&self) -> Vec<String> {
        let mut processes: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for vcpu in &self.vcpus {
            processes.entry(vcpu.called()).or_default().insert(vcpu.pid);
        }
        let is_shared = |name: &str| processes.get(name).is_some_and(|pids| pids.len() > 1);
        let domain = |vcpu: &VcpuLook| {
            let name = vcpu.called();
            let is_told_apart = vcpu.vm_name.is_none() || is_shared(name);
            let process = if is_told_apart { format!("-{}", vcpu.pid) } else { String::new() };
            let vm = vcpu.vm.map_or_else(String::new, |vm| format!("/{vm}"));
            format!("{name}{process}{vm}")
        };
        self.vcpus.iter().map(domain).collect()
    }
}

impl VcpuLook {
    /// Its VM's name, or its process's.
    fn called(&self) -> &str {
        self.vm_name.as_deref().unwrap_or(&self.comm)
    }

    /// Is there something that somebody should look at?
    pub(crate) const fn is_unhealthy(&self) -> bool {
        matches!(self.judgement, Judgement::Off(_) | Judgement::Poisoned(_) | Judgement::Unknown)
            || self.account.errors > 0
    }
}
