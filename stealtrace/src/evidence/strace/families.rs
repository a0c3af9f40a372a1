//! Which threads are of one process, as a log's fork and clone calls tell: descriptors are a process's own.

use rustc_hash::FxHashMap;

use super::{MOST, number};

/// Processes by thread. A thread of whose beginning the log does not tell is of process 0, with all others of that kind.
#[derive(Default)]
pub(super) struct Families {
    processes: FxHashMap<u32, u32>,
    /// Calls that strace has told half of: do they make a thread?
    half_told: FxHashMap<u32, bool>,
}

impl Families {
    pub(super) fn process(&self, tid: u32) -> u32 {
        self.processes.get(&tid).copied().unwrap_or(0)
    }

    /// `clone(child_stack=..., flags=CLONE_VM|...) = 12`, `clone3({flags=...} => {...}, 88) = 12`, `fork() = 12`
    pub(super) fn learn(&mut self, parent: u32, call: &str) {
        let resumed = call.strip_prefix("<... ").filter(|rest| makes_one(rest));
        if !makes_one(call) && resumed.is_none() {
            return;
        }
        let is_half_told = resumed.is_some().then(|| self.half_told.remove(&parent)).flatten();
        let is_thread = call.contains("CLONE_THREAD") || is_half_told.unwrap_or(false);
        match call.rsplit_once("= ").and_then(|(_, result)| number(result)) {
            Some(child) if self.processes.len() < MOST => {
                let process = if is_thread { self.process(parent) } else { child };
                self.processes.insert(child, process);
            }
            None if call.ends_with("<unfinished ...>") && self.half_told.len() < MOST => {
                self.half_told.insert(parent, is_thread);
            }
            _ => {}
        }
    }
}

fn makes_one(call: &str) -> bool {
    ["clone", "fork", "vfork"].iter().any(|name| call.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::Families;

    #[test]
    fn threads_are_of_their_makers_process_and_processes_are_their_own() {
        let mut families = Families::default();
        families.learn(1, "clone(child_stack=0x7f, flags=CLONE_VM|CLONE_FS|CLONE_THREAD|CLONE_SETTLS) = 2");
        families.learn(1, "fork() = 3");
        families.learn(3, "clone3({flags=CLONE_VM|CLONE_THREAD, stack=0x7f} <unfinished ...>");
        families.learn(1, "vfork( <unfinished ...>");
        families.learn(3, "<... clone3 resumed> => {parent_tid=[4]}, 88) = 4");
        families.learn(1, "<... vfork resumed>) = 5");
        families.learn(5, "fork() = -1 EAGAIN (Resource temporarily unavailable)");
        families.learn(5, "ioctl(4, KVM_RUN, 0) = 0");
        assert_eq!([1, 2, 3, 4, 5, 6].map(|tid| families.process(tid)), [0, 0, 3, 3, 5, 0]);
    }
}
