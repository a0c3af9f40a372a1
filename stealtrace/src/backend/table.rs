//! The probe table on the running kernel: which probes a backend has, where each goes, and what keeps it from there.

use std::fmt;

use clap::ValueEnum;
use stealtrace_common::{
    probe::{Attachment, Probe, ProbeRow, Set, probes},
    source::here,
};

use super::Task;
use crate::kernel::{KernelFacts, NO_AREA};

/// A way to see what KVM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum BackendKind {
    /// Programs on the entries of KVM's functions, for half of a kprobe's price.
    Fentry,
    /// Kprobes on KVM's functions: every load, every update.
    Kprobe,
    /// Raw tracepoints on system calls: works without kprobes, sees an update when its ioctl returns.
    Tracepoint,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Fentry,
    Fexit,
    Kprobe,
    Kretprobe,
    RawTracepoint,
    Syscall,
    Iterator,
}

impl Hook {
    /// The program that does nothing there.
    pub(super) const fn floor(self) -> Option<&'static str> {
        match self {
            Self::Fentry | Self::Fexit => Some("floor_fentry"),
            Self::Kprobe | Self::Kretprobe => Some("floor_function"),
            Self::RawTracepoint => Some("floor_raw_tracepoint"),
            Self::Syscall => Some("floor_syscall"),
            Self::Iterator => None,
        }
    }
}

/// Where a probe goes on this kernel.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub(super) program: &'static str,
    pub(super) hook: Hook,
    /// The function, tracepoint or iterator.
    pub target: &'a str,
}

/// Where this one goes, of a backend.
///
/// # Errors
/// Why it cannot, as a phrase.
pub fn place(row: &ProbeRow, kind: BackendKind, facts: &KernelFacts) -> Result<Place<'static>, String> {
    let program = row.program;
    Ok(match row.attachment {
        Attachment::RawTracepoint(target) => Place { program, hook: Hook::RawTracepoint, target },
        Attachment::Syscall { event, .. } if facts.syscall_events => {
            Place { program, hook: Hook::Syscall, target: event }
        }
        Attachment::Syscall { raw, .. } => Place { program: raw, hook: Hook::RawTracepoint, target: raw },
        Attachment::Iterator(target) => Place { program, hook: Hook::Iterator, target },
        Attachment::Functions(names) => {
            if let Some(reason) = kind.absence(facts) {
                return Err(reason);
            }
            let target = function(names, facts)?;
            let (program, hook) = by(row, kind);
            if kind == BackendKind::Fentry && facts.fentry()?.function(target).is_none() {
                return Err(format!("no {target} among the kernel's types"));
            }
            Place { program, hook, target }
        }
    })
}

/// The program for a function's entry or return, and how it is attached.
pub(super) fn by(row: &ProbeRow, kind: BackendKind) -> (&'static str, Hook) {
    let is_return = matches!(row.probe, Probe::Return | Probe::GuardExit | Probe::PvtimeWasSet);
    match kind {
        BackendKind::Fentry if is_return => (row.fentry, Hook::Fexit),
        BackendKind::Fentry => (row.fentry, Hook::Fentry),
        _ if is_return => (row.program, Hook::Kretprobe),
        _ => (row.program, Hook::Kprobe),
    }
}

fn function(names: &'static [&'static str], facts: &KernelFacts) -> Result<&'static str, String> {
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
        _ => place(row, BackendKind::Tracepoint, facts)
            .map_or_else(|reason| reason, |place| place.target.to_owned()),
    }
}

/// Is this probe worth its price where only edges are reported? There, what a thread does is looked at when it enters an
/// ioctl and when it lets go of the vCPU.
pub(super) fn serves_edges(row: &ProbeRow, place: &Place<'_>) -> bool {
    row.probe != Probe::VcpuLoad && (row.probe != Probe::StealUpdate || !here::WRITES.contains(&place.target))
}

/// Every probe that a task needs.
pub(super) fn planned(task: Task, ways: &[BackendKind]) -> Vec<&'static ProbeRow> {
    match task {
        Task::Guard(_) => probes(Set::Guard).chain(probes(Set::Common)).collect(),
        Task::Watch => ways.first().map_or_else(Vec::new, |kind| kind.probes().collect()),
        Task::LookAtFiles => Vec::new(),
    }
}

/// Why `guard` cannot see the guest's counter right before and after KVM's write here, if so.
#[must_use]
pub fn guard_problem(facts: &KernelFacts) -> Option<String> {
    let in_no_way = |row| match place(row, BackendKind::Fentry, facts) {
        Ok(_) => None,
        Err(_) => place(row, BackendKind::Kprobe, facts).err(),
    };
    let no_probe = probes(Set::Guard).find_map(in_no_way);
    let shows_area = facts.types.as_ref().is_ok_and(|types| types.shows_steal_area);
    no_probe.or_else(|| (!shows_area).then(|| NO_AREA.to_owned()))
}

impl BackendKind {
    /// The cheapest first, and of those that see functions first.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    const fn set(self) -> Set {
        match self {
            Self::Fentry | Self::Kprobe => Set::Functions,
            Self::Tracepoint => Set::Tracepoint,
        }
    }

    /// Every probe of it.
    pub fn probes(self) -> impl Iterator<Item = &'static ProbeRow> {
        probes(self.set()).chain(probes(Set::Common))
    }

    /// Why this kernel has no such probes on functions at all, if so.
    #[must_use]
    pub fn absence(self, facts: &KernelFacts) -> Option<String> {
        match self {
            Self::Fentry => facts.fentry().err(),
            Self::Kprobe if facts.symbols.has_kprobe_multi() => None,
            Self::Kprobe => facts.no_kprobes.clone(),
            Self::Tracepoint => None,
        }
    }

    /// Does each required probe of these, which see the same, go somewhere in one of them?
    pub(super) fn are_enough(ways: &[Self], facts: &KernelFacts) -> bool {
        let mut required = ways.iter().flat_map(|kind| kind.probes()).filter(|row| row.required);
        required.all(|row| ways.iter().any(|kind| place(row, *kind, facts).is_ok()))
    }

    /// Why this backend cannot be used here, if so.
    #[must_use]
    pub fn problem(self, facts: &KernelFacts) -> Option<String> {
        if self == Self::Tracepoint && facts.symbols.address("kvm_vcpu_ioctl").is_none() {
            return Some(facts.symbols.why_no_address("kvm_vcpu_ioctl"));
        }
        self.probes().filter(|row| row.required).find_map(|row| place(row, self, facts).err())
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        })
    }
}
