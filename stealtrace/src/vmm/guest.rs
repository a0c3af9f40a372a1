//! Where things lie in the guest's memory. Its instructions are in [`super::arch`].

use stealtrace_common::source::here;

/// Bytes of guest memory.
pub(crate) const MEMORY_BYTES: usize = 0x10_000;
/// Where the code lies.
pub(crate) const CODE: u64 = 0x1000;
/// Where the steal areas lie: the first vCPU's, then the next's.
pub(crate) const STEAL_AREA: u64 = 0x2000;
/// How large steal areas are, and how they are aligned.
pub(crate) const STEAL_AREA_BYTES: u64 = here::AREA_BYTES;
/// Another place for a steal area.
pub(crate) const OTHER_AREA: u64 = 0x5000;
/// An address behind the guest's memory.
pub(crate) const UNBACKED: u64 = 0x10_0000;
#[cfg(target_arch = "x86_64")]
/// [`super::arch::SPIN`] ors the steal area's `preempted` into this byte.
pub(crate) const SEEN_PREEMPTED: u64 = 0x3000;
/// [`super::arch::SPIN`] leaves to the VMM while this byte is not 0.
pub(crate) const STOP: u64 = 0x3002;
#[cfg(target_arch = "x86_64")]
/// [`super::arch::SPIN`] sets this byte to 1 first.
pub(crate) const STARTED: u64 = 0x3003;
