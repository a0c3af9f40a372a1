//! What the kernel side remembers between two probes: per vCPU and per thread.
//! Lives in kernel maps; user space never reads or writes it.

/// What was true of a vCPU and the calling thread at one moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The caller's `sched_info.run_delay`.
    pub run_delay_ns: u64,
    /// `vcpu->arch.st.last_steal`.
    pub last_steal_ns: u64,
    /// `vcpu->arch.st.msr_val`.
    pub msr_val: u64,
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
    /// What was true when the present holder loaded the vCPU (kprobe), or when the last ioctl left (tracepoint).
    pub open: Snapshot,
    /// What was true when the kernel's update function was entered, if it was.
    pub update: Snapshot,
    /// When `open` was taken.
    pub open_time_ns: u64,
    /// When the last update, or the enabling of the MSR, happened at the earliest; 0 if not seen.
    pub last_update_ns: u64,
    /// The guest's counter as the last update left it, if `steal_last_known`.
    pub steal_last_ns: u64,
    /// `kvm_vcpu.vcpu_id`.
    pub vcpu_id: u32,
    /// Process of the VM.
    pub vm_tgid: u32,
    /// Thread that has the vCPU loaded; 0 if none.
    pub holder: u32,
    /// The ioctl in which it was loaded; 0 outside of any.
    pub ioctl: u32,
    /// 1 if `update` is set since the load.
    pub updating: u32,
    /// [`MsrWrite`] seen since the load.
    pub msr_write: u32,
    /// Thread that made it; 0 if not seen.
    pub creator: u32,
    /// Thread that last issued KVM_RUN; 0 if not seen.
    pub runner: u32,
    /// Thread whose run_delay is in last_steal; 0 if not known.
    pub last_steal_tid: u32,
    /// Updates seen.
    pub updates: u32,
    /// 1 if `steal_last_ns` is known.
    pub steal_last_known: u32,
    /// 1 if an update's guest counter was read before.
    pub steal_read: u32,
    /// 1 if no update was seen since the MSR was enabled.
    pub enabled_anew: u32,
    /// 1 if the runner changed and no update was seen since.
    pub handed_over: u32,
}

/// How the steal MSR was written, as [`VcpuState::msr_write`] and [`ThreadState::msr_write`] keep it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrWrite {
    /// Not written.
    None = 0,
    /// By the guest's `wrmsr`.
    Guest = 1,
    /// By the VMM, through KVM_SET_MSRS.
    Host = 2,
}

/// The vCPU ioctl a thread is in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadState {
    /// `struct kvm_vcpu *`; 0 in KVM_CREATE_VCPU.
    pub vcpu: u64,
    /// When it was entered.
    pub time_ns: u64,
    /// What was true then (tracepoint backend only).
    pub entered: Snapshot,
    /// The ioctl's number.
    pub ioctl: u32,
    /// Position of the steal MSR in KVM_SET_MSRS' list, counted from 1; 0 if it is not in it.
    pub msr_position: u32,
}

const _: () = assert!(size_of::<Snapshot>() == 40);
const _: () = assert!(size_of::<VcpuState>() == 8 + 8 + 40 + 40 + 3 * 8 + 14 * 4);
const _: () = assert!(size_of::<ThreadState>() == 8 + 8 + 40 + 8);
