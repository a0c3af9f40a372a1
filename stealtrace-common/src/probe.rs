//! The probe table: per probe its number, its program in the kernel object, what that attaches to, whether a trace can do
//! without, and what it is for. To add a probe: write its program, add its row.

use crate::source::{Source, here};

/// What probes are attached for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// To watch, by KVM's functions.
    Functions,
    /// The same, where this is the source.
    X86Msr,
    /// Likewise.
    Arm64Pvtime,
    /// To watch, by tracepoints of system calls.
    Tracepoint,
    /// To watch, either way, and to guard.
    Common,
    /// To show the calls of any functions.
    Calls,
    /// To repair.
    Guard,
    /// To look at open files.
    Files,
}

impl Set {
    /// Beside [`Self::Functions`], on a host like this one.
    const OF_SOURCE: Self = match Source::HERE {
        Source::X86Msr | Source::XenRunstate => Self::X86Msr,
        Source::Arm64Pvtime => Self::Arm64Pvtime,
    };

    /// Are these rows of it? Those of the source are among the functions.
    fn has(self, of: Self) -> bool {
        of == self || (self == Self::Functions && of == Self::OF_SOURCE)
    }
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The entry, or return, of the first of these functions that exists.
    Functions(&'static [&'static str]),
    /// A raw tracepoint.
    RawTracepoint(&'static str),
    /// The tracepoint of one system call. Where the kernel has none, or tracefs is not mounted, the raw tracepoint of all
    /// of them, which costs everybody else more; the program there has that one's name.
    Syscall {
        /// The tracepoint.
        event: &'static str,
        /// The raw one.
        raw: &'static str,
    },
    /// An iterator.
    Iterator(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ProbeRow {
    /// Its number.
    pub probe: Probe,
    /// What it is attached for.
    pub set: Set,
    /// Name of its program in the kernel object.
    pub program: &'static str,
    /// Of the one for fentry or fexit, where it is attached to functions.
    pub fentry: &'static str,
    /// What that is attached to.
    pub attachment: Attachment,
    /// Can its set not do without?
    pub required: bool,
    /// What it is for.
    pub purpose: &'static str,
}

/// The numbers and the rows.
macro_rules! probes {
    ($($name:ident: $set:ident, $program:literal, $attachment:expr, $required:literal, $purpose:literal;)+) => {
        /// One probe; the number is its row in COUNTERS.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Probe {
            $(#[doc = $purpose] $name,)+
        }

        /// Every probe. Those of a set are attached in this order: of what begins after its end is watched for, the end
        /// is not missed.
        pub static PROBES: &[ProbeRow] = &[
            $(ProbeRow {
                probe: Probe::$name,
                set: Set::$set,
                program: $program,
                fentry: concat!($program, "_fentry"),
                attachment: $attachment,
                required: $required,
                purpose: $purpose,
            },)+
        ];
    };
}

use Attachment::{Functions, Iterator, RawTracepoint, Syscall};

probes! {
    VcpuIoctl: Functions, "vcpu_ioctl", Functions(&["kvm_vcpu_ioctl"]), true, "who issues which vCPU ioctl";
    VcpuLoad: Functions, "vcpu_load", Functions(&["kvm_arch_vcpu_load"]), true, "last_steal before";
    VcpuPut: Functions, "vcpu_put", Functions(&["kvm_arch_vcpu_put"]), true, "last_steal and guest steal after";
    SetMsr: X86Msr, "set_msr", Functions(&["kvm_set_msr_common"]), true, "writes of the steal MSR";
    // Not there where the kernel knows no guests of Xen.
    XenSet: X86Msr, "xen_set", Functions(&["kvm_xen_vcpu_set_attr"]), false, "writes of Xen's runstate";
    PvtimeWasSet: Arm64Pvtime, "pvtime_was_set", Functions(&["kvm_arm_pvtime_set_attr"]), true, "where the VMM put the area";
    PvtimeSet: Arm64Pvtime, "pvtime_set", Functions(&["kvm_arm_pvtime_set_attr"]), true, "what is true before";
    PvtimeBegin: Arm64Pvtime, "pvtime_begin", Functions(&["kvm_init_stolen_time"]), true, "a guest's asking for it";
    VcpuCreate: Functions, "vcpu_create", Functions(&["kvm_arch_vcpu_create"]), true, "a new vCPU, perhaps at an old address";
    VcpuDestroy: Functions, "vcpu_destroy", Functions(&["kvm_arch_vcpu_destroy"]), true, "its end";
    // Without it the delta is what changed between load and put.
    StealUpdate: Functions, "steal_update", Functions(here::SUBTRACTS), false,
        "guest steal right before KVM's write";

    SysExit: Tracepoint, "ioctl_exit", Syscall { event: "sys_exit_ioctl", raw: "sys_exit" }, true,
        "what changed during a vCPU ioctl";
    SysEnter: Tracepoint, "ioctl_enter", Syscall { event: "sys_enter_ioctl", raw: "sys_enter" }, true,
        "what is true before it";

    Fork: Common, "process_fork", RawTracepoint("sched_process_fork"), true, "children of a traced command";
    Exit: Common, "thread_exit", RawTracepoint("sched_process_exit"), true, "threads that end inside an ioctl";

    Return: Calls, "call_return", Functions(&[]), false, "returns";
    Call: Calls, "call_enter", Functions(&[]), false, "calls";

    GuardForget: Guard, "guard_forget", Functions(&["kvm_arch_vcpu_destroy"]), true, "a vCPU's end";
    GuardExit: Guard, "guard_exit", Functions(here::WRITES), true, "the guest's counter after KVM's write";
    GuardEnter: Guard, "guard_enter", Functions(here::WRITES), true, "the guest's counter before it";

    Files: Files, "vcpu_files", Iterator("task_file"), true, "vCPUs by their descriptors";
}

impl Probe {
    /// Rows in COUNTERS.
    pub const COUNT: u32 = PROBES.len() as u32;
}

/// The probes of a set.
pub fn probes(set: Set) -> impl core::iter::Iterator<Item = &'static ProbeRow> {
    PROBES.iter().filter(move |row| set.has(row.set))
}

/// The functions that some probe may attach to.
pub fn functions() -> impl core::iter::Iterator<Item = &'static str> {
    probes(Set::Functions)
        .chain(probes(Set::Guard))
        .flat_map(|row| match row.attachment {
            Functions(names) => names,
            _ => &[],
        })
        .copied()
}

/// What one probe did on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Times the probe ran for a process we watch.
    pub hits: u64,
    /// Entries it put into the ring.
    pub emitted: u64,
    /// Facts it could not keep or report: the ring or a map was full.
    pub lost: u64,
}
