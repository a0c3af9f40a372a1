//! Which privileges tracing and writing need, and which of them this process lacks.

use std::fs;

use anyhow::{Context as _, Result};

/// A capability we need (`include/uapi/linux/capability.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Load programs and maps.
    Bpf,
    /// Attach probes and read kernel memory.
    Perfmon,
    /// Write to a guest's memory from a program; stands in for those that tracing needs.
    SysAdmin,
    /// Read a guest's memory through its VM's process.
    SysPtrace,
    /// Find that memory and the vCPUs of another user's process.
    DacReadSearch,
}

const TRACING: [Capability; 2] = [Capability::Bpf, Capability::Perfmon];

impl Capability {
    /// Its name in capabilities(7).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
        }
    }

    const fn bit(self) -> u32 {
        match self {
            Self::Bpf => 39,
            Self::Perfmon => 38,
            Self::SysAdmin => 21,
            Self::SysPtrace => 19,
            Self::DacReadSearch => 2,
        }
    }

    const fn is_in(self, effective: u64) -> bool {
        effective & (1 << self.bit()) != 0
    }

    /// Does this process have it?
    ///
    /// # Errors
    /// When /proc/self/status cannot be read.
    pub fn is_held(self) -> Result<bool> {
        Ok(self.is_in(held()?))
    }
}

/// What this process lacks for tracing.
///
/// # Errors
/// When /proc/self/status cannot be read.
pub fn missing_capabilities() -> Result<Vec<Capability>> {
    Ok(missing(held()?))
}

fn held() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    effective(&status).context("no CapEff in /proc/self/status")
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<Capability> {
    let is_held =
        |capability: &Capability| capability.is_in(effective) || Capability::SysAdmin.is_in(effective);
    TRACING.into_iter().filter(|capability| !is_held(capability)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Capability, effective, missing};

    #[test]
    fn root_lacks_nothing() {
        assert_eq!(missing(0x1ff_ffff_ffff), []);
    }

    #[test]
    fn an_ordinary_user_lacks_everything() {
        assert_eq!(missing(0), [Capability::Bpf, Capability::Perfmon]);
    }

    #[test]
    fn sys_admin_stands_in() {
        assert_eq!(missing(1 << 21), []);
    }

    #[test]
    fn the_effective_set_is_read() {
        assert_eq!(effective("CapPrm:\t01\nCapEff:\t00000080\n"), Some(0x80));
    }
}
