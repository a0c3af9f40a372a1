//! The probes of both backends by number: index of their counters and mark of origin in an event.
//! Which symbol each attaches to is user space's business (`backend::ebpf`).

/// One probe; the number is its row in COUNTERS.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Entry of `kvm_vcpu_ioctl`
    VcpuIoctl = 0,
    /// Entry of `kvm_arch_vcpu_load`
    VcpuLoad = 1,
    /// Entry of `kvm_arch_vcpu_put`
    VcpuPut = 2,
    /// Entry of `kvm_set_msr_common`
    SetMsr = 3,
    /// Entry of `accumulate_steal_time` or `record_steal_time`
    StealUpdate = 4,
    /// Entry of `kvm_arch_vcpu_create`
    VcpuCreate = 5,
    /// Entry of `kvm_arch_vcpu_destroy`
    VcpuDestroy = 6,
    /// Raw tracepoint `sys_enter`
    SysEnter = 7,
    /// Raw tracepoint `sys_exit`
    SysExit = 8,
    /// Raw tracepoint `sched_process_fork`
    Fork = 9,
    /// Raw tracepoint `sched_process_exit`
    Exit = 10,
    /// Entry of any function, for the view of calls
    Call = 11,
    /// Return of any function, for the view of calls
    Return = 12,
    /// Entry of `record_steal_time`, for `guard`
    GuardEnter = 13,
    /// Return of `record_steal_time`, for `guard`
    GuardExit = 14,
    /// Iterator over every task's files, for `inspect`
    Files = 15,
}

impl Probe {
    /// Rows in COUNTERS.
    pub const COUNT: u32 = 16;

    /// Every probe, in numeric order.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::VcpuIoctl,
        Self::VcpuLoad,
        Self::VcpuPut,
        Self::SetMsr,
        Self::StealUpdate,
        Self::VcpuCreate,
        Self::VcpuDestroy,
        Self::SysEnter,
        Self::SysExit,
        Self::Fork,
        Self::Exit,
        Self::Call,
        Self::Return,
        Self::GuardEnter,
        Self::GuardExit,
        Self::Files,
    ];
}

/// What one probe did on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Times the probe ran for a process we watch.
    pub hits: u64,
    /// Events it put into the ring.
    pub emitted: u64,
    /// Facts it could not keep or report: the ring or a map was full.
    pub lost: u64,
}
