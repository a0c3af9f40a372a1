//! Plan: what to attach and what to watch, decided before anything is loaded.

use stealtrace_common::target::{GuardOrders, PidNamespace, Target, Volume};

use super::BackendKind;

/// Which processes to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Processes {
    /// All of them.
    All,
    /// These.
    These(Vec<u32>),
    /// This one and its children.
    Tree(u32),
}

impl Processes {
    /// These; all if none is named.
    #[must_use]
    pub fn named(pids: &[u32]) -> Self {
        if pids.is_empty() { Self::All } else { Self::These(pids.to_vec()) }
    }

    /// Those that are told by their numbers.
    #[must_use]
    pub fn pids(&self) -> &[u32] {
        match self {
            Self::All => &[],
            Self::These(pids) => pids,
            Self::Tree(pid) => std::slice::from_ref(pid),
        }
    }
}

/// What the probes are for.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Report what happens.
    Watch,
    /// Put back what an update corrupted.
    Guard(GuardOrders),
    /// None: only open files are looked at.
    LookAtFiles,
}

/// What to attach and what to watch.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How; None: the better usable way.
    pub wanted: Option<BackendKind>,
    /// Whose vCPUs.
    pub processes: Processes,
    /// Only this thread.
    pub tid: Option<u32>,
    /// Only vCPUs of this id.
    pub vcpu_id: Option<u32>,
    /// Only threads of this name.
    pub comm: Option<String>,
    /// How much to report.
    pub volume: Volume,
    /// Functions whose calls and returns to report.
    pub functions: Vec<String>,
    /// Size of the ring of events.
    pub ring_bytes: u32,
    /// What the probes are for.
    pub task: Task,
    /// Attach programs that do nothing instead?
    pub floor: bool,
    /// Show the kernel side's diagnostics?
    pub verbose: bool,
}

impl Plan {
    /// Everything that these processes do.
    #[must_use]
    pub const fn of(processes: Processes, volume: Volume, ring_bytes: u32) -> Self {
        Self {
            wanted: None,
            processes,
            tid: None,
            vcpu_id: None,
            comm: None,
            volume,
            functions: Vec::new(),
            ring_bytes,
            task: Task::Watch,
            floor: false,
            verbose: false,
        }
    }

    /// The part of `guard` that the kernel side needs to know.
    pub(super) fn guard_orders(&self) -> GuardOrders {
        match self.task {
            Task::Guard(orders) => orders,
            Task::Watch | Task::LookAtFiles => GuardOrders::default(),
        }
    }

    /// May ioctls of which there is nothing to tell be passed over? Not where threads are chosen: what the others do would
    /// be taken for the doing of those.
    pub(super) fn passes_over(&self) -> bool {
        self.volume == Volume::Edges && self.tid.is_none() && self.comm.is_none()
    }

    /// The part that the kernel side needs to know.
    #[must_use]
    pub(super) fn target(&self, namespace: PidNamespace) -> Target {
        Target {
            processes: u32::from(self.processes != Processes::All),
            tid: self.tid.unwrap_or(0),
            vcpu_id_plus_1: self.vcpu_id.map_or(0, |id| id.saturating_add(1)),
            volume: self.volume as u32,
            returns: u32::from(!self.functions.is_empty()),
            pass_over: u32::from(self.passes_over()),
            comm: self.comm.as_deref().map_or([0; 2], words),
            namespace,
        }
    }
}

/// The same as two words.
fn words(comm: &str) -> [u64; 2] {
    let padded = padded(comm);
    [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|i| padded[at + i])))
}

/// As the kernel keeps a thread's name: cut to 15 bytes, zero-padded.
pub(crate) fn padded(comm: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    let length = comm.len().min(15);
    padded[..length].copy_from_slice(&comm.as_bytes()[..length]);
    padded
}

#[cfg(test)]
mod tests {
    use super::padded;

    #[test]
    fn names_are_cut_as_the_kernel_cuts_them() {
        assert_eq!(&padded("vcpu0"), b"vcpu0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&padded("qemu-system-x86_64"), b"qemu-system-x86\0");
    }
}
