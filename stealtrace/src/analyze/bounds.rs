//! Memory is kept for each vCPU, and each thread and ioctl on it. A host has few of those and repeats them; a file may
//! have them without end. What goes beyond is left out and counted.

use rustc_hash::{FxHashMap, FxHashSet};
use stealtrace_common::event::{Event, EventKind};

use crate::model::{Finding, RuleId, VcpuKey};

/// vCPUs at once.
const MOST_VCPUS: usize = 65_536;
/// Threads and ioctls on one vCPU: what is kept of it when it has ended, too.
const MOST_PER_VCPU: usize = 1024;
/// Threads and ioctls on all vCPUs.
const MOST_CALLERS: usize = 1 << 18;
/// Threads, and processes.
const MOST_THREADS: usize = 65_536;
/// vCPUs, threads and ioctls that findings are about.
const MOST_FOUND: usize = 1 << 17;

/// Who does what to a vCPU.
type Caller = (u32, u32, [u8; 16]);

/// What was seen so far.
#[derive(Default)]
pub(super) struct Bounds {
    /// What was admitted last is admitted again.
    last: Option<(u64, u64, u64, Caller)>,
    /// By address, where only one vCPU can be.
    vcpus: FxHashMap<u64, Known>,
    /// All of them together.
    callers: usize,
    threads: FxHashSet<u32>,
    processes: FxHashSet<u32>,
    found: FxHashSet<(RuleId, VcpuKey, Caller)>,
}

struct Known {
    generation: u64,
    vm: u64,
    callers: FxHashSet<Caller>,
}

impl Bounds {
    /// Is there room for this event?
    pub(super) fn admit(&mut self, event: &Event) -> bool {
        match event.kind {
            EventKind::Call | EventKind::Return => admit(&mut self.threads, event.caller_tid, MOST_THREADS),
            EventKind::Destroyed => self.admit_call(event) && self.end(event.vcpu),
            _ => {
                let what = (event.vcpu, event.generation, event.vm, caller(event));
                if self.last == Some(what) {
                    return true;
                }
                let admitted = self.admit_call(event);
                self.last = admitted.then_some(what);
                admitted
            }
        }
    }

    /// Is there room for this finding, which no event shows?
    pub(super) fn admit_finding(&mut self, vcpu: VcpuKey, finding: &Finding) -> bool {
        let mut comm = [0; 16];
        comm.iter_mut().zip(finding.caller.comm.bytes()).for_each(|(to, from)| *to = from);
        admit(&mut self.found, (finding.rule, vcpu, (finding.caller.tid, finding.ioctl, comm)), MOST_FOUND)
    }

    fn admit_call(&mut self, event: &Event) -> bool {
        let known = self.vcpus.get(&event.vcpu).filter(|known| known.generation == event.generation);
        match known {
            Some(known) if known.vm != event.vm => return false,
            Some(_) => {}
            None => {
                self.end(event.vcpu);
                if !self.begin(event) {
                    return false;
                }
            }
        }
        self.admit_caller(event.vcpu, caller(event))
    }

    fn begin(&mut self, event: &Event) -> bool {
        if self.vcpus.len() >= MOST_VCPUS || !admit(&mut self.processes, event.vm_tgid, MOST_THREADS) {
            return false;
        }
        let known = Known { generation: event.generation, vm: event.vm, callers: FxHashSet::default() };
        self.vcpus.insert(event.vcpu, known);
        true
    }

    fn admit_caller(&mut self, vcpu: u64, caller: Caller) -> bool {
        let Some(known) = self.vcpus.get_mut(&vcpu) else { return false };
        if !known.callers.contains(&caller) {
            if self.callers >= MOST_CALLERS
                || known.callers.len() >= MOST_PER_VCPU
                || !admit(&mut self.threads, caller.0, MOST_THREADS)
            {
                return false;
            }
            self.callers += 1;
            known.callers.insert(caller);
        }
        true
    }

    /// A vCPU is no more.
    fn end(&mut self, vcpu: u64) -> bool {
        self.last = None;
        self.callers -= self.vcpus.remove(&vcpu).map_or(0, |known| known.callers.len());
        true
    }
}

const fn caller(event: &Event) -> Caller {
    (event.caller_tid, event.ioctl, event.comm)
}

/// Is it there, or is there room for it?
fn admit<T: std::hash::Hash + Eq>(set: &mut FxHashSet<T>, what: T, most: usize) -> bool {
    set.contains(&what) || (set.len() < most && set.insert(what))
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::{Event, EventKind};

    use super::{Bounds, MOST_CALLERS, MOST_PER_VCPU, MOST_THREADS, MOST_VCPUS};

    fn ioctl(vcpu: u64, caller_tid: u32, ioctl: u32) -> Event {
        Event { kind: EventKind::Ioctl, vcpu, caller_tid, ioctl, ..Event::default() }
    }

    fn admitted(events: impl Iterator<Item = Event>) -> usize {
        let mut bounds = Bounds::default();
        events.filter(|event| bounds.admit(event)).count()
    }

    #[test]
    fn what_repeats_needs_no_room() {
        assert_eq!(admitted((0..1_000_000).map(|n| ioctl(n % 9, (n % 7) as u32 + 1, 1))), 1_000_000);
        let reborn = |n| Event { generation: n, ..ioctl(1, 1, 1) };
        assert_eq!(admitted((0..1_000_000).map(reborn)), 1_000_000);
    }

    #[test]
    fn each_bound_holds() {
        let more = MOST_CALLERS as u64 * 2;
        assert_eq!(admitted((0..more).map(|n| ioctl(n, 1, 1))), MOST_VCPUS);
        assert_eq!(admitted((0..more).map(|n| ioctl(1, 1, n as u32 + 1))), MOST_PER_VCPU);
        assert_eq!(admitted((0..more).map(|n| ioctl(n / 1024, 1, n as u32 % 1024 + 1))), MOST_CALLERS);
        assert_eq!(admitted((0..more).map(|n| ioctl(n / 1024, n as u32 + 1, 1))), MOST_THREADS);
        let call = |n| Event { kind: EventKind::Call, ..ioctl(0, n as u32, 0) };
        assert_eq!(admitted((0..more).map(call)), MOST_THREADS);
        let process = |n| Event { generation: n, vm_tgid: n as u32, ..ioctl(1, 1, 1) };
        assert_eq!(admitted((0..more).map(process)), MOST_THREADS);
        let comm = |n: u64| Event { comm: u128::from(n).to_le_bytes(), ..ioctl(1, 1, 1) };
        assert_eq!(admitted((0..more).map(comm)), MOST_PER_VCPU);
    }

    #[test]
    fn a_vcpu_that_ends_makes_room() {
        let mut bounds = Bounds::default();
        for vcpu in 0..2 * MOST_VCPUS as u64 {
            assert!(bounds.admit(&ioctl(vcpu, 1, 1)));
            assert!(bounds.admit(&Event { kind: EventKind::Destroyed, ..ioctl(vcpu, 1, 0) }));
        }
        assert_eq!((bounds.callers, bounds.vcpus.len()), (0, 0));
    }

    #[test]
    fn a_vcpu_stays_in_its_vm() {
        let mut bounds = Bounds::default();
        assert!(bounds.admit(&ioctl(1, 1, 1)));
        assert!(!bounds.admit(&Event { vm: 5, ..ioctl(1, 1, 1) }));
    }
}
