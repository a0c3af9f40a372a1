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
    /// In whose numbers threads and processes are told.
    pub namespace: PidNamespace,
}

/// stealtrace's own PID namespace. All zero for the initial one, in which nothing is to be translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidNamespace {
    /// `struct pid_namespace *`; 0 if it is still to be found.
    pub address: u64,
    /// How deep it lies.
    pub level: u32,
    /// Its inode, as /proc/self/ns/pid tells it.
    pub inode: u32,
}

impl PidNamespace {
    /// The initial one.
    pub const INITIAL: Self = Self { address: 0, level: 0, inode: 0 };
}

/// Bit of a thread's or process's number that says: seen from stealtrace's PID namespace it has none, this is the one
/// in the initial namespace. No real number has it (`PID_MAX_LIMIT` is 2^22).
pub const OUTSIDE: u32 = 1 << 31;

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

const _: () = assert!(size_of::<Target>() == 56);
