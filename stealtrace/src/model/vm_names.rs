//! Numbers for the VMs of each process, in order of appearance: addresses mean nothing to people and are reused.

use std::collections::{BTreeSet, HashMap};

use stealtrace_common::event::Event;

use super::VcpuName;

/// Gives every vCPU its name.
#[derive(Debug, Default)]
pub struct VmNames {
    alive: HashMap<u64, Vm>,
    numbered: HashMap<u32, u32>,
}

#[derive(Debug)]
struct Vm {
    number: u32,
    vcpu_ids: BTreeSet<u32>,
}

impl VmNames {
    /// The name of a vCPU seen for the first time. An id that its VM already has means that the VM is a new one
    /// at the address of one whose end was not seen.
    pub fn begin(&mut self, event: &Event) -> VcpuName {
        let known = self.alive.get_mut(&event.vm).filter(|vm| !vm.vcpu_ids.contains(&event.vcpu_id));
        let number = match known {
            Some(vm) => {
                vm.vcpu_ids.insert(event.vcpu_id);
                vm.number
            }
            None => self.number_new_vm(event),
        };
        VcpuName { pid: event.vm_tgid, vm: number, id: event.vcpu_id }
    }

    fn number_new_vm(&mut self, event: &Event) -> u32 {
        let last = self.numbered.entry(event.vm_tgid).or_default();
        *last += 1;
        self.alive.insert(event.vm, Vm { number: *last, vcpu_ids: BTreeSet::from([event.vcpu_id]) });
        *last
    }

    /// Forget how many VMs processes had that live no more.
    pub fn keep(&mut self, lives: &dyn Fn(u32) -> bool) {
        self.numbered.retain(|pid, _| lives(*pid));
    }

    /// This vCPU is no more; with its last, neither is its VM.
    pub fn end(&mut self, address: u64, vcpu_id: u32) {
        if let Some(vm) = self.alive.get_mut(&address) {
            vm.vcpu_ids.remove(&vcpu_id);
            if vm.vcpu_ids.is_empty() {
                self.alive.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::Event;

    use super::VmNames;

    fn event(vm: u64, vcpu_id: u32) -> Event {
        Event { vm, vcpu_id, vm_tgid: 100, ..Event::default() }
    }

    #[test]
    fn vcpus_of_one_vm_share_its_number() {
        let mut names = VmNames::default();
        assert_eq!(names.begin(&event(1, 0)).to_string(), "100/1/0");
        assert_eq!(names.begin(&event(1, 1)).to_string(), "100/1/1");
        assert_eq!(names.begin(&event(2, 0)).to_string(), "100/2/0");
    }

    #[test]
    fn a_vm_at_a_reused_address_is_another() {
        let mut names = VmNames::default();
        names.begin(&event(1, 0));
        names.end(1, 0);
        assert_eq!(names.begin(&event(1, 3)).vm, 2);
    }

    #[test]
    fn also_when_the_end_of_the_first_was_not_seen() {
        let mut names = VmNames::default();
        names.begin(&event(1, 0));
        assert_eq!(names.begin(&event(1, 0)).vm, 2);
    }
}
