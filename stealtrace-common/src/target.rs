//! What to watch: handed to the kernel once, before the probes are attached.

/// The kernel side's orders.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// 1: only processes in TARGETS.
    pub processes: u32,
    /// Only this thread; 0 for all.
    pub tid: u32,
    /// Only the vCPU of this id, plus 1; 0 for all.
    pub vcpu_id_plus_1: u32,
    /// A [`Volume`].
    pub volume: u32,
    /// 1: report the return of every ioctl too (tracepoint backend).
    pub returns: u32,
    /// 1: ioctls of which there is nothing to tell may be passed over unseen.
    pub pass_over: u32,
    /// Only threads of this name, zero-padded, as two words; all zero for all.
    pub comm: [u64; 2],
}

/// What `guard` may write.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardOrders {
    /// 1: write; 0: only say what would be written.
    pub write: u32,
    /// 1: also put back what an over-charge added.
    pub over_charge: u32,
    /// 1: set a counter that was poisoned before to the age of the VM's process, once per vCPU.
    pub heal: u32,
    /// No padding is left to chance.
    pub reserved: u32,
}

/// How much is reported.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Every load, ioctl and update.
    All = 0,
    /// Only what can change a judgement.
    Edges = 1,
}

const _: () = assert!(size_of::<Target>() == 40);
