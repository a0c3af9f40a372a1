//! Where no VM has another source than its host.

use stealtrace_common::vcpu::Snapshot;

use crate::read::Structure;

/// No ioctl, nor the 0 of one that is not known.
pub(crate) const IOCTL: u32 = u32::MAX;

/// Nothing is about it.
#[inline(always)]
pub(crate) fn position(_argument: u64) -> u32 {
    0
}

/// Nothing enables it.
#[inline(always)]
pub(crate) fn enabling(_vcpu: impl Structure) -> u64 {
    0
}

/// There is none.
#[inline(always)]
pub(crate) fn last_steal_ns(_vcpu: impl Structure) -> u64 {
    0
}

/// Nor any of it.
#[inline(always)]
pub(crate) fn snapshot(_vcpu: impl Structure, _enabling: u64, _run_delay_ns: u64) -> Snapshot {
    Snapshot::default()
}

/// Nothing is.
#[inline(always)]
pub(crate) fn subtracted_next(_vcpu: u64) -> u64 {
    0
}

/// It lies nowhere.
#[inline(always)]
pub(crate) fn address(_vcpu: u64) -> u64 {
    0
}
