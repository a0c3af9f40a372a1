//! The probe table on the running kernel: which probes a backend has, where each goes, and what keeps it from there.

use std::fmt;

use clap::ValueEnum;
use stealtrace_common::probe::{Attachment, Probe, ProbeRow, Set, probes};

use super::Task;
use crate::kernel::{KernelFacts, NO_AREA};

/// A way to see what KVM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// Kprobes on KVM's functions: every load, every update.
    Kprobe,
    /// Raw tracepoints on system calls: works without kprobes, sees an update when its ioctl returns.
    Tracepoint,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Kprobe,
    RawTracepoint,
    Syscall,
    Iterator,
}

impl Hook {
    /// The program that does nothing there.
    pub(super) const fn floor(self) -> Option<&'static str> {
        match self {
            Self::Kprobe => Some("floor_function"),
            Self::RawTracepoint => Some("floor_raw_tracepoint"),
            Self::Syscall => Some("floor_syscall"),
            Self::Iterator => None,
        }
    }
}

/// Where a probe goes on this kernel.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub(super) program: &'static str,
    pub(super) hook: Hook,
    /// The function, tracepoint or iterator.
    pub target: &'static str,
}

/// Where this one goes.
///
/// # Errors
/// Why it cannot, as a phrase.
pub fn place(row: &ProbeRow, facts: &KernelFacts) -> Result<Place, String> {
    let program = row.program;
    Ok(match row.attachment {
        Attachment::RawTracepoint(target) => Place { program, hook: Hook::RawTracepoint, target },
        Attachment::Syscall { event, .. } if facts.syscall_events => {
            Place { program, hook: Hook::Syscall, target: event }
        }
        Attachment::Syscall { raw, .. } => Place { program: raw, hook: Hook::RawTracepoint, target: raw },
        Attachment::Iterator(target) => Place { program, hook: Hook::Iterator, target },
        Attachment::Functions(names) => {
            Place { program, hook: Hook::Kprobe, target: function(names, facts)? }
        }
    })
}

fn function(names: &'static [&'static str], facts: &KernelFacts) -> Result<&'static str, String> {
    if let Some(reason) = &facts.no_kprobes {
        return Err(reason.clone());
    }
    names
        .iter()
        .find(|name| facts.symbols.has(name))
        .copied()
        .ok_or_else(|| format!("no function {} in this kernel (inlined or absent)", names.join(" or ")))
}

/// What it goes to where it can.
#[must_use]
pub fn label(row: &ProbeRow, facts: &KernelFacts) -> String {
    match row.attachment {
        Attachment::Functions(names) => names.join(" | "),
        _ => place(row, facts).map_or_else(|reason| reason, |place| place.target.to_owned()),
    }
}

/// Is this probe worth its price where only edges are reported? There, what a thread does is looked at when it enters an
/// ioctl and when it lets go of the vCPU.
pub(super) fn serves_edges(row: &ProbeRow, place: &Place) -> bool {
    row.probe != Probe::VcpuLoad && (row.probe != Probe::StealUpdate || place.target != "record_steal_time")
}

/// Every probe that a task needs.
pub(super) fn planned(task: Task, kind: BackendKind) -> Vec<&'static ProbeRow> {
    match task {
        Task::Guard(_) => probes(Set::Guard).chain(probes(Set::Common)).collect(),
        Task::Watch => kind.probes().collect(),
        Task::LookAtFiles => Vec::new(),
    }
}

/// Why `guard` cannot see the guest's counter right before and after KVM's write here, if so.
#[must_use]
pub fn guard_problem(facts: &KernelFacts) -> Option<String> {
    let no_probe = probes(Set::Guard).find_map(|row| place(row, facts).err());
    let shows_area = facts.types.as_ref().is_ok_and(|types| types.shows_steal_area);
    no_probe.or_else(|| (!shows_area).then(|| NO_AREA.to_owned()))
}

impl BackendKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kprobe, Self::Tracepoint];

    const fn set(self) -> Set {
        match self {
            Self::Kprobe => Set::Kprobe,
            Self::Tracepoint => Set::Tracepoint,
        }
    }

    /// Every probe of it.
    pub fn probes(self) -> impl Iterator<Item = &'static ProbeRow> {
        probes(self.set()).chain(probes(Set::Common))
    }

    /// Why this backend cannot be used here, if so.
    #[must_use]
    pub fn problem(self, facts: &KernelFacts) -> Option<String> {
        if self == Self::Tracepoint && facts.symbols.address("kvm_vcpu_ioctl").is_none() {
            return Some(facts.symbols.why_no_address("kvm_vcpu_ioctl"));
        }
        self.probes().filter(|row| row.required).find_map(|row| place(row, facts).err())
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
