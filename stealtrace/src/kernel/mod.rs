//! Read-only facts about the running kernel. Gathers, never judges; what cannot be known is said to be unknown.

pub(crate) mod bpf;
mod capabilities;
mod fentry;
mod layout;
mod module;
mod namespace;
mod perf;
mod symbols;

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Result, anyhow, bail};
use aya::EbpfLoader;
use stealtrace_common::target::PidNamespace;

pub use capabilities::{Capability, missing_capabilities};
pub use fentry::Fentry;
pub use layout::{KVM_BTF, KernelTypes, NO_AREA, VMLINUX_BTF};
pub use module::{kvm_is_a_module, kvm_loading, reading_maps_takes_bpf, vendor_folder};
pub use perf::perf_takes_sys_admin;
pub use symbols::Symbols;

/// How kvm is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// Part of the kernel image.
    BuiltIn,
    /// A loaded module.
    Module,
    /// Neither.
    Absent,
}

/// Which steal-time code this kernel looks like. Behaviour decides (`stealtrace verify`); fixes are backported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// 3.1 to 4.5: a delta is accumulated apart (`accum_steal`) and handed to the guest later.
    Accumulating,
    /// 4.6 and later: `record_steal_time` subtracts at guest entry.
    Recording,
    /// No type information to tell.
    Unknown,
}

impl Era {
    /// For recordings.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accumulating => "accumulating",
            Self::Recording => "recording",
            Self::Unknown => "unknown",
        }
    }
}

/// Kernel lockdown (`/sys/kernel/security/lockdown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Not locked down.
    None,
    /// Nothing may write to the kernel.
    Integrity,
    /// Nothing may read from it either: no tracing.
    Confidentiality,
    /// securityfs is not mounted or the kernel has no lockdown.
    Unknown,
}

/// Everything we know of the running kernel.
pub struct KernelFacts {
    /// `uname -r`.
    pub release: String,
    /// How kvm is present.
    pub kvm: Kvm,
    /// Vendor module (`kvm_intel`, `kvm_amd`, …), if one is there.
    pub vendor: Option<String>,
    /// Can nearly everything in it be preempted (`CONFIG_PREEMPT_RT`)?
    pub is_realtime: bool,
    /// Kernel functions.
    pub symbols: Symbols,
    /// Kernel types, or why there are none.
    pub types: Result<KernelTypes>,
    /// Why kernel functions could not be looked up, if so.
    pub no_symbols: Option<String>,
    /// Why kprobes cannot be attached through perf (`CONFIG_KPROBE_EVENTS`), if so.
    pub no_kprobes: Option<String>,
    /// Are there tracepoints of single system calls (`CONFIG_FTRACE_SYSCALLS`, and tracefs mounted)?
    pub syscall_events: bool,
    /// Lockdown mode.
    pub lockdown: Lockdown,
    /// stealtrace's own PID namespace, or why /proc does not serve it.
    pub pid_namespace: Result<PidNamespace>,
    /// aya's loader, for whoever loads first.
    loader: Mutex<Option<EbpfLoader<'static>>>,
}

/// What to do where there is no kvm.
#[cfg(target_arch = "x86_64")]
pub const LOAD_KVM: &str = "run `modprobe kvm_intel` or `modprobe kvm_amd`";
/// Likewise.
#[cfg(target_arch = "aarch64")]
pub const LOAD_KVM: &str =
    "boot a kernel that has it (CONFIG_KVM), at EL2 (`dmesg | grep -i kvm` says why not)";

impl KernelFacts {
    /// Look at the running kernel; these functions may be probed beside our own.
    #[must_use]
    pub fn gather(functions: &[String]) -> Self {
        let pid_namespace = namespace::pid_namespace();
        let namespace = *pid_namespace.as_ref().unwrap_or(&PidNamespace::INITIAL);
        let (symbols, types) = thread::scope(|scope| {
            let types = scope.spawn(|| (KernelTypes::read(namespace, functions), new_loader()));
            (Symbols::read(functions), types.join())
        });
        let (types, loader) = match types {
            Ok((types, loader)) => (types, Some(loader)),
            Err(_) => (Err(anyhow!("reading the kernel's types panicked")), None),
        };
        let (symbols, no_symbols) = match symbols {
            Ok(symbols) => (symbols, None),
            Err(error) => (Symbols::default(), Some(format!("{error:#}"))),
        };
        let perf = perf::try_perf();
        Self {
            release: read_trimmed("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            kvm: kvm_presence(&symbols),
            is_realtime: read_trimmed("/proc/sys/kernel/version")
                .is_some_and(|version| version.contains("PREEMPT_RT")),
            vendor: vendor_folder().and_then(|folder| folder.file_name()?.to_str().map(str::to_owned)),
            types,
            syscall_events: perf.is_ok()
                && ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
                    .iter()
                    .any(|tracefs| Path::new(tracefs).join("events/syscalls/sys_enter_ioctl/id").exists()),
            no_kprobes: no_kprobes(perf),
            lockdown: lockdown(),
            pid_namespace,
            symbols,
            no_symbols,
            loader: Mutex::new(loader),
        }
    }

    /// aya's loader.
    pub(crate) fn loader(&self) -> EbpfLoader<'static> {
        let mut made = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        made.take().unwrap_or_else(new_loader)
    }

    /// Which steal-time code this looks like.
    #[must_use]
    pub fn era(&self) -> Era {
        if self.symbols.has("accumulate_steal_time") {
            return Era::Accumulating; // kvm itself says so, which may be newer or older than the kernel's types
        }
        self.types.as_ref().map_or(Era::Unknown, |types| types.era)
    }

    /// Are the runstates of guests of Xen known?
    #[must_use]
    pub fn shows_xen(&self) -> bool {
        self.types.as_ref().is_ok_and(|types| types.shows_xen)
    }

    /// kvm's functions by fentry.
    ///
    /// # Errors
    /// Why there is no such way here.
    pub fn fentry(&self) -> Result<&Fentry, String> {
        if !self.symbols.has_direct_calls() {
            return Err("no function's entry calls a program here (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, on arm64 \
                        Linux 6.4)"
                .to_owned());
        }
        let types = self.types.as_ref().map_err(|error| format!("{error:#}"))?;
        types.fentry.as_ref().map_err(Clone::clone)
    }

    /// In whose numbers threads and processes are told.
    ///
    /// # Errors
    /// When /proc does not serve stealtrace's own PID namespace.
    pub fn own_namespace(&self) -> Result<PidNamespace> {
        self.pid_namespace.as_ref().copied().map_err(|error| anyhow!("{error:#}"))
    }

    /// The reasons why nothing can be traced here, whatever the backend.
    ///
    /// # Errors
    /// The first reason, and what to do about it.
    pub fn require_traceable(&self) -> Result<&KernelTypes> {
        self.own_namespace()?;
        if let Some(reason) = &self.no_symbols {
            bail!("{reason}; kernel functions cannot be looked up");
        }
        let missing = missing_capabilities()?;
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|capability| capability.name()).collect();
            bail!("missing privilege: {}; run as root", names.join(", "));
        }
        if self.kvm == Kvm::Absent {
            bail!("kvm is not loaded; {LOAD_KVM}");
        }
        if self.lockdown == Lockdown::Confidentiality {
            bail!(
                "the kernel is locked down (confidentiality) and refuses tracing; boot with lockdown=integrity or none"
            );
        }
        self.types.as_ref().map_err(|error| anyhow!("{error:#}"))
    }
}

fn no_kprobes(perf: Result<(), String>) -> Option<String> {
    if Path::new("/sys/bus/event_source/devices/kprobe/type").exists() {
        perf.err()
    } else {
        Some("this kernel has no kprobes".to_owned())
    }
}

/// It reads all of the kernel's types, of which nothing of ours asks for any: made beside what else is read, it takes no
/// time, and lets go of them.
fn new_loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

fn kvm_presence(symbols: &Symbols) -> Kvm {
    if !symbols.has("kvm_arch_vcpu_load") {
        Kvm::Absent
    } else if Path::new("/sys/module/kvm/initstate").exists() {
        Kvm::Module
    } else {
        Kvm::BuiltIn
    }
}

fn lockdown() -> Lockdown {
    match read_trimmed("/sys/kernel/security/lockdown") {
        Some(text) if text.contains("[confidentiality]") => Lockdown::Confidentiality,
        Some(text) if text.contains("[integrity]") => Lockdown::Integrity,
        Some(text) if text.contains("[none]") => Lockdown::None,
        Some(_) | None => Lockdown::Unknown,
    }
}

fn read_trimmed(file: &str) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}
