//! The probe table: per probe its program, what it attaches to by preference, and whether a trace can do without.
//! To add a probe: write its program, add its row.

use std::fmt;

use clap::ValueEnum;
use stealtrace_common::probe::Probe;

use super::Task;
use crate::kernel::{KernelFacts, KernelTypes};

/// A way to see what KVM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// Kprobes on KVM's functions: every load, every update.
    Kprobe,
    /// Raw tracepoints on system calls: works without kprobes, sees an update when its ioctl returns.
    Tracepoint,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The entry of the first of these functions that exists.
    Function(&'static [&'static str]),
    /// A raw tracepoint.
    RawTracepoint(&'static str),
    /// A tracepoint of one system call.
    Syscall(&'static str),
}

impl Attachment {
    /// The program that does nothing there.
    pub(super) const fn floor(self) -> &'static str {
        match self {
            Self::Function(_) => "floor_function",
            Self::RawTracepoint(_) => "floor_raw_tracepoint",
            Self::Syscall(_) => "floor_syscall",
        }
    }
}

/// One row of the probe table.
#[derive(Clone, Copy, Debug)]
pub struct ProbeRow {
    /// Its number, for the counters.
    pub probe: Probe,
    /// Name of the program in the kernel object.
    pub program: &'static str,
    /// What it attaches to.
    pub attachment: Attachment,
    /// Can a trace not do without?
    pub required: bool,
    /// What it is for.
    pub purpose: &'static str,
}

const KPROBES: &[ProbeRow] = &[
    function(Probe::VcpuIoctl, "vcpu_ioctl", &["kvm_vcpu_ioctl"], "who issues which vCPU ioctl"),
    function(Probe::VcpuLoad, "vcpu_load", &["kvm_arch_vcpu_load"], "last_steal before"),
    function(Probe::VcpuPut, "vcpu_put", &["kvm_arch_vcpu_put"], "last_steal and guest steal after"),
    function(Probe::SetMsr, "set_msr", &["kvm_set_msr_common"], "writes of the steal MSR"),
    function(
        Probe::VcpuCreate,
        "vcpu_create",
        &["kvm_arch_vcpu_create"],
        "a new vCPU, perhaps at an old address",
    ),
    function(Probe::VcpuDestroy, "vcpu_destroy", &["kvm_arch_vcpu_destroy"], "its end"),
    ProbeRow {
        required: false, // without it the delta is what changed between load and put
        ..function(
            Probe::StealUpdate,
            "steal_update",
            &["accumulate_steal_time", "record_steal_time"],
            "guest steal right before KVM's write",
        )
    },
];

/// The exit first: of an ioctl whose entry was seen, the exit is seen too.
const TRACEPOINTS: &[ProbeRow] = &[
    syscall(Probe::SysExit, "ioctl_exit", "sys_exit_ioctl", "what changed during a vCPU ioctl"),
    syscall(Probe::SysEnter, "ioctl_enter", "sys_enter_ioctl", "what is true before it"),
];

/// Where the kernel has no tracepoints of single system calls, or tracefs is not mounted: dearer for everybody else.
const RAW_TRACEPOINTS: &[ProbeRow] = &[
    tracepoint(Probe::SysExit, "sys_exit", "sys_exit", "what changed during a vCPU ioctl"),
    tracepoint(Probe::SysEnter, "sys_enter", "sys_enter", "what is true before it"),
];

const COMMON: &[ProbeRow] = &[
    tracepoint(Probe::Fork, "process_fork", "sched_process_fork", "children of a traced command"),
    tracepoint(Probe::Exit, "thread_exit", "sched_process_exit", "threads that end inside an ioctl"),
];

/// Attached to as many functions as the view of calls asks for; the return first, as above.
pub(super) static CALLS: &[ProbeRow] = &[
    ProbeRow { required: false, ..function(Probe::Return, "call_return", &[], "returns") },
    ProbeRow { required: false, ..function(Probe::Call, "call_enter", &[], "calls") },
];

/// Run over every open file, where one looks for vCPUs that do nothing.
pub(super) static FILES: ProbeRow =
    tracepoint(Probe::Files, "vcpu_files", "task_file", "vCPUs by their descriptors");

/// What `guard` attaches instead. The return first: an update that began before us has none to wait for.
static GUARD: &[ProbeRow] = &[
    function(Probe::GuardExit, "guard_exit", &["record_steal_time"], "the guest's counter after KVM's write"),
    function(Probe::GuardEnter, "guard_enter", &["record_steal_time"], "the guest's counter before it"),
];

/// Every probe of a plan on this kernel.
pub(super) fn planned(task: Task, kind: BackendKind, facts: &KernelFacts) -> Vec<&'static ProbeRow> {
    match task {
        Task::Guard(_) => GUARD.iter().chain(COMMON).collect(),
        Task::Watch => probes(kind, facts).collect(),
        Task::LookAtFiles => Vec::new(),
    }
}

/// Why `guard` cannot see the guest's counter right before and after KVM's write here, if so.
#[must_use]
pub fn guard_problem(facts: &KernelFacts) -> Option<String> {
    const NO_AREA: &str =
        "this kernel does not keep the host address of the guest's area (Linux 5.16 and later do)";
    let no_probe = GUARD.iter().find_map(|row| row.target(facts).err());
    let shows_area = facts.types.as_ref().is_ok_and(KernelTypes::shows_steal_area);
    no_probe.or_else(|| (!shows_area).then(|| NO_AREA.to_owned()))
}

/// Every probe of a backend on this kernel.
pub fn probes(kind: BackendKind, facts: &KernelFacts) -> impl Iterator<Item = &'static ProbeRow> {
    match kind {
        BackendKind::Kprobe => KPROBES,
        BackendKind::Tracepoint if facts.syscall_events => TRACEPOINTS,
        BackendKind::Tracepoint => RAW_TRACEPOINTS,
    }
    .iter()
    .chain(COMMON)
}

const fn function(
    probe: Probe,
    program: &'static str,
    symbols: &'static [&'static str],
    purpose: &'static str,
) -> ProbeRow {
    ProbeRow { probe, program, attachment: Attachment::Function(symbols), required: true, purpose }
}

const fn syscall(probe: Probe, program: &'static str, name: &'static str, purpose: &'static str) -> ProbeRow {
    ProbeRow { attachment: Attachment::Syscall(name), ..tracepoint(probe, program, name, purpose) }
}

const fn tracepoint(
    probe: Probe,
    program: &'static str,
    name: &'static str,
    purpose: &'static str,
) -> ProbeRow {
    ProbeRow { probe, program, attachment: Attachment::RawTracepoint(name), required: true, purpose }
}

impl ProbeRow {
    /// The name it attaches to on this kernel, or why it cannot.
    ///
    /// # Errors
    /// The reason, as a phrase.
    pub fn target(&self, facts: &KernelFacts) -> Result<&'static str, String> {
        match self.attachment {
            Attachment::RawTracepoint(name) | Attachment::Syscall(name) => Ok(name),
            Attachment::Function(symbols) => {
                if let Some(reason) = &facts.no_kprobes {
                    return Err(reason.clone());
                }
                symbols.iter().find(|symbol| facts.symbols.has(symbol)).copied().ok_or_else(|| {
                    format!("no function {} in this kernel (inlined or absent)", symbols.join(" or "))
                })
            }
        }
    }

    /// Is this probe worth its price where only edges are reported? There, what a thread does is looked at when it
    /// enters an ioctl and when it lets go of the vCPU.
    #[must_use]
    pub fn serves_edges(&self, target: &str) -> bool {
        self.probe != Probe::VcpuLoad && (self.probe != Probe::StealUpdate || target != "record_steal_time")
    }

    /// What it attaches to where it can.
    #[must_use]
    pub fn label(&self) -> String {
        match self.attachment {
            Attachment::Function(symbols) => symbols.join(" | "),
            Attachment::RawTracepoint(name) | Attachment::Syscall(name) => name.to_owned(),
        }
    }
}

impl BackendKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kprobe, Self::Tracepoint];

    /// Why this backend cannot be used here, if so.
    #[must_use]
    pub fn problem(self, facts: &KernelFacts) -> Option<String> {
        if self == Self::Tracepoint && facts.symbols.address("kvm_vcpu_ioctl").is_none() {
            return Some(facts.symbols.why_no_address("kvm_vcpu_ioctl"));
        }
        probes(self, facts).filter(|row| row.required).find_map(|row| row.target(facts).err())
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        })
    }
}
