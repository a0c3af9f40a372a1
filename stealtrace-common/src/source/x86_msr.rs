//! `MSR_KVM_STEAL_TIME` of x86: the guest, or the VMM that restores it, writes the area's address and an enabling bit to an
//! MSR. Mirrors `arch/x86/include/uapi/asm/kvm_para.h` and `arch/x86/include/asm/kvm_host.h`.

use core::mem::offset_of;

use super::Fields;

/// What enables it, for people.
pub const ENABLING: &str = "MSR 0x4b564d03";

/// The same where its values stand beside it.
pub const WORD: &str = "MSR";

/// `MSR_KVM_STEAL_TIME`
pub const MSR: u32 = 0x4b56_4d03;

/// `MAX_IO_MSRS` in `arch/x86/kvm/x86.c`: entries KVM accepts in one KVM_SET_MSRS.
pub const MAX_IO_MSRS: u32 = 256;

/// `KVM_MSR_ENABLED`
pub const ENABLED: u64 = 1;

/// `KVM_STEAL_VALID_BITS`: the area is aligned to its size.
const ADDRESS: u64 = !0x3f;

/// `sizeof(struct kvm_steal_time)`
pub const AREA_BYTES: u64 = 64;

/// Where the kernel keeps it.
pub const FIELDS: Fields = Fields {
    enabling: "arch.st.msr_val",
    last_steal: "arch.st.last_steal",
    cached_guest_address: "arch.st.cache.gpa",
    cached_host_address: "arch.st.cache.hva",
    accumulated: "arch.st.accum_steal",
};

/// Does this value of the MSR enable it?
#[must_use]
pub const fn is_enabled(msr: u64) -> bool {
    msr & ENABLED != 0
}

/// Where the area lies in the guest's memory.
#[must_use]
pub const fn area(msr: u64) -> u64 {
    msr & ADDRESS
}

/// `struct kvm_steal_time`, but for its padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// Nanoseconds that the vCPU was ready but did not run.
    pub steal_ns: u64,
    /// Odd while KVM writes.
    pub version: u32,
    /// 0.
    pub flags: u32,
    /// Is the vCPU scheduled out?
    pub preempted: u8,
}

/// Its beginning: what KVM counts, and all that probes read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// As in [`Area`].
    pub steal_ns: u64,
    /// As in [`Area`].
    pub version: u32,
    /// As in [`Area`].
    pub flags: u32,
}

const _: () = assert!(offset_of!(Area, version) == offset_of!(Counter, version));

impl Area {
    /// Bytes of it that mean something.
    pub const BYTES: usize = offset_of!(Self, preempted) + 1;

    /// The area in these bytes of a guest's memory.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            steal_ns: u64::from(word(0)) | u64::from(word(4)) << 32,
            version: word(offset_of!(Self, version)),
            flags: word(offset_of!(Self, flags)),
            preempted: bytes[offset_of!(Self, preempted)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Area, area, is_enabled};

    #[test]
    fn the_msr_is_an_address_and_a_bit() {
        assert!(is_enabled(0x1fc2_9041) && !is_enabled(0x1fc2_9040));
        assert_eq!(area(0x1fc2_9041), 0x1fc2_9040);
    }

    #[test]
    fn the_area_is_as_kvm_writes_it() {
        let mut bytes = [0; Area::BYTES];
        bytes[..8].copy_from_slice(&7_856_949_u64.to_le_bytes());
        (bytes[8], bytes[12], bytes[16]) = (4, 1, 2);
        let area = Area { steal_ns: 7_856_949, version: 4, flags: 1, preempted: 2 };
        assert_eq!(Area::from_bytes(&bytes), area);
    }
}
