//! What the kernel side remembers between two probes: per vCPU and per thread.
//! Lives in kernel maps; of it user space reads who is quiet, and lets go of vCPUs that are no more. A thread's key is its
//! number in the initial PID namespace.

/// What was true of a vCPU and the calling thread at one moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The caller's `sched_info.run_delay`.
    pub run_delay_ns: u64,
    /// `last_steal`.
    pub last_steal_ns: u64,
    /// What enables the source.
    pub enabling: u64,
    /// The guest's counter; meaningless unless `readable`.
    pub steal_ns: u64,
    /// The guest area's version; meaningless unless `readable`.
    pub version: u32,
    /// 1 if the guest's area could be read.
    pub readable: u32,
}

/// One vCPU, from creation or first sight to destruction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuState {
    /// Time of creation or first sight: tells vCPUs at one address apart.
    pub generation: u64,
    /// `struct kvm *`.
    pub vm: u64,
    /// Its `mm`: KVM refuses the ioctls of all others with EIO.
    pub mm: u64,
    /// What was true when a thread last let go of the vCPU.
    pub open: Snapshot,
    /// What was true when the kernel's update function was entered, if it was.
    pub update: Snapshot,
    /// When `open` was taken, but for the guest's counter in it.
    pub open_time_ns: u64,
    /// When the guest's counter in `open` was.
    pub counter_time_ns: u64,
    /// When the last update, or the enabling of the source, happened (tracepoint backend: when its ioctl began); while
    /// [`QuietVcpu`] was in use, [`QuietVcpu::since_ns`]; 0 if not known.
    pub last_update_ns: u64,
    /// The guest's counter as the last update left it, if `steal_last_known`.
    pub steal_last_ns: u64,
    /// What enabled the source then: the counter is that of this area.
    pub steal_last_enabling: u64,
    /// When a thread that does not run it last entered or left an ioctl; kept where [`ThreadState::overlaps`] is.
    pub stranger_ns: u64,
    /// `kvm_vcpu.vcpu_id`.
    pub vcpu_id: u32,
    /// Process of the VM.
    pub vm_tgid: u32,
    /// The ioctl that the thread that last let go of the vCPU was in.
    pub ioctl: u32,
    /// 1 if `update` is set since a thread last let go of the vCPU; 2 if it was preempted in the midst of that update.
    pub updating: u32,
    /// By whom, since a thread last let go of the vCPU.
    pub enabling_write: EnablingWrite,
    /// Thread that made it; 0 if not seen.
    pub creator: u32,
    /// Thread that last issued KVM_RUN; 0 if not seen.
    pub runner: u32,
    /// Thread whose run_delay is in last_steal; 0 if not known.
    pub last_steal_tid: u32,
    /// Updates seen.
    pub updates: u32,
    /// The area's version then.
    pub steal_last_version: u32,
    /// 1 if `steal_last_ns` is known.
    pub steal_last_known: u32,
    /// 1 if an update's guest counter was read before.
    pub steal_read: u32,
    /// 1 if no update was seen since the source was enabled.
    pub enabled_anew: u32,
    /// 1 if the runner changed and no update was seen since.
    pub handed_over: u32,
    /// 1 if the last update was an underflow of which it is not known whether it reached the guest.
    pub unsettled: u32,
    /// A thread that does not run it and is in an ioctl on it, likewise; 0 if none.
    pub stranger: u32,
    /// The key of `creator`.
    pub creator_key: u32,
    /// The key of `runner`.
    pub runner_key: u32,
}

/// What is enough to see that nothing happened: where only edges are reported, most ioctls of most vCPUs find here
/// that there is nothing to tell. One slot per vCPU, by [`QuietVcpu::slot`]; who finds it taken goes the long way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct QuietVcpu {
    /// `struct kvm_vcpu *`; 0 if the slot is free.
    pub vcpu: u64,
    /// What enables the source; [`Self::WRITTEN`] if that was written since.
    pub enabling: u64,
    /// `last_steal`.
    pub last_steal_ns: u64,
    /// Since when the next delta can have grown; 0 if [`VcpuState::last_update_ns`] says it.
    pub since_ns: u64,
    /// Jiffies when that was last looked at.
    pub looked_jiffies: u64,
    /// Key of the thread whose stays can change no judgement as long as these two stay the same; 0 if none.
    pub thread: u32,
    /// Key of the thread that last issued KVM_RUN; 0 if not seen.
    pub runner: u32,
    /// The ioctl that `thread` entered last.
    pub ioctl: u32,
    /// 1 if another thread entered an ioctl since `thread` was last told of.
    pub mingled: u32,
    /// Ioctls entered of which there was nothing to tell, by all vCPUs that had the slot.
    pub entered: u64,
    /// Times a vCPU was let go of and there was nothing to tell.
    pub left: u64,
}

impl QuietVcpu {
    /// No value that a source has, enabled or not.
    pub const WRITTEN: u64 = u64::MAX - 1;
    /// Slots there are: a power of two, four times what a large host runs.
    pub const SLOTS: u32 = 1 << 15;

    /// The slot of this vCPU: a multiplicative hash, since addresses differ in their middle.
    #[must_use]
    pub const fn slot(vcpu: u64) -> u32 {
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        (vcpu.wrapping_mul(GOLDEN_RATIO) >> (64 - Self::SLOTS.trailing_zeros())) as u32
    }
}

impl ThreadState {
    /// Slots there are: a power of two, many times the threads that run vCPUs on a large host.
    pub const SLOTS: u32 = 1 << 15;
    /// Slots that may be a thread's, one behind the other.
    pub const CHOICE: u32 = 8;

    /// One of the slots that may be this thread's. Threads of a VM have numbers in a row, which must not meet another's.
    #[must_use]
    pub const fn slot(key: u32, choice: u32) -> u32 {
        const GOLDEN_RATIO: u32 = 0x9e37_79b9;
        (key.wrapping_mul(GOLDEN_RATIO) >> (32 - Self::SLOTS.trailing_zeros())).wrapping_add(choice)
            & (Self::SLOTS - 1)
    }
}

/// Who wrote what enables the source. No enum: the verifier follows each of its values to the end of the program.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnablingWrite(u32);

impl EnablingWrite {
    /// Nobody did.
    pub const NONE: Self = Self(0);
    /// The guest, by `wrmsr`.
    pub const GUEST: Self = Self(1);
    /// The VMM, by an ioctl.
    pub const HOST: Self = Self(2);
}

/// The vCPU ioctl a thread is in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadState {
    /// The thread's key; 0 if the slot is free.
    pub key: u32,
    /// How many vCPUs were created when `file` was seen to be one's.
    pub creations: u32,
    /// `struct file *` of the descriptor that it used last.
    pub file: u64,
    /// `struct kvm_vcpu *`; 0 in KVM_CREATE_VCPU.
    pub vcpu: u64,
    /// When it was entered; if `unlooked`, up to a tick before.
    pub time_ns: u64,
    /// Jiffies of `time_ns`.
    pub jiffies: u64,
    /// What was true then; only run_delay if `unlooked`.
    pub entered: Snapshot,
    /// What its last stay with the vCPU came to: see there in the kernel side. Kept here, and not on the stack, where the
    /// verifier would follow each way to come by them to the end of the program.
    pub opened: Snapshot,
    /// Likewise.
    pub before: Snapshot,
    /// Likewise.
    pub after: Snapshot,
    /// The ioctl's number; 0 outside of any (tracepoint backend).
    pub ioctl: u32,
    /// Position of what enables the source in the list that the ioctl writes, counted from 1; 0 if it is not in it.
    pub enabling_position: u32,
    /// 1 if there was nothing to tell of its entry, so that nothing was read (tracepoint backend).
    pub unlooked: u32,
    /// 1 if a stranger was in an ioctl on the vCPU then (tracepoint backend, where loads keep deltas).
    pub overlaps: u32,
    /// 1 if it has got hold of the vCPU since (kprobe and fentry backends).
    pub loaded: u32,
    /// No padding is left to chance.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Snapshot>() == 40);
const _: () = assert!(size_of::<VcpuState>() == 3 * 8 + 40 + 40 + 6 * 8 + 18 * 4);
const _: () = assert!(size_of::<ThreadState>() == 8 + 8 + 8 + 8 + 8 + 4 * 40 + 6 * 4);
