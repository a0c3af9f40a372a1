//! `MSR_KVM_STEAL_TIME` of x86: the guest, or the VMM that restores it, writes the area's address and an enabling bit to an
//! MSR. Mirrors `arch/x86/include/uapi/asm/kvm_para.h` and `arch/x86/include/asm/kvm_host.h`.

use core::mem::offset_of;

use super::{Area, Fields, Source};

/// Which source this is.
pub const SOURCE: Source = Source::X86Msr;

/// What enables it, for people.
pub const ENABLING: &str = "MSR 0x4b564d03";

/// The same where its values stand beside it.
pub const WORD: &str = "MSR";

/// What a VMM restores.
pub const RESTORED: &str = "steal MSR";

/// In the output for programs.
pub const KEY: &str = "msr";

/// `MSR_KVM_STEAL_TIME`
pub const MSR: u32 = 0x4b56_4d03;

/// `MAX_IO_MSRS` in `arch/x86/kvm/x86.c`: entries KVM accepts in one KVM_SET_MSRS.
pub const MAX_IO_MSRS: u32 = 256;

/// `KVM_MSR_ENABLED`
pub const ENABLED: u64 = 1;

/// `KVM_STEAL_SUSPEND_TIME`, as proposed for Linux and where it is offered: the host's sleep is counted, too.
pub const SLEEP: u64 = 1 << 1;

/// `KVM_STEAL_VALID_BITS`: the area is aligned to its size.
const ADDRESS: u64 = !0x3f;

/// `sizeof(struct kvm_steal_time)`
pub const AREA_BYTES: u64 = 64;

/// Where the kernel keeps it.
pub const FIELDS: Fields = Fields {
    steal: ["arch.st.msr_val", "arch.st.last_steal"],
    cached_area: Some(["arch.st.cache.gpa", "arch.st.cache.hva"]),
    accumulated: Some("arch.st.accum_steal"),
};

/// The first of these that a kernel has does the subtraction.
pub const SUBTRACTS: &[&str] = &["accumulate_steal_time", "record_steal_time"];

/// What writes the guest's counter.
pub const WRITES: &[&str] = &["record_steal_time"];

/// Which steal-time code has no delta that waits for guest entry.
pub const RECORDING: &str = "Linux 4.6 or later";

/// What enables it and `last_steal`, as they lie there.
#[must_use]
pub const fn steal_time([msr, last_steal_ns]: [u64; 2]) -> (u64, u64) {
    (msr, last_steal_ns)
}

/// Does this value of the MSR enable it?
#[must_use]
pub const fn is_enabled(msr: u64) -> bool {
    msr & ENABLED != 0
}

/// Does this value ask for the host's sleep to be counted, too?
#[must_use]
pub const fn counts_sleep(msr: u64) -> bool {
    msr & SLEEP != 0
}

/// Where the area lies in the guest's memory.
#[must_use]
pub const fn area(msr: u64) -> u64 {
    msr & ADDRESS
}

/// The beginning of `struct kvm_steal_time`: what KVM counts, and all that probes read. `preempted`, a byte, follows.
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

impl Counter {
    /// As in [`Area`].
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }
}

/// By so much an update raises the area's version.
pub const VERSIONS: u32 = 2;

/// Did KVM ever write this?
#[must_use]
pub const fn lives(area: &Area) -> bool {
    area.version > 0
}

/// Bytes of the area that mean something.
pub const BYTES: usize = size_of::<Counter>() + 1;

/// The area in these bytes of a guest's memory.
#[must_use]
pub fn read(bytes: &[u8; BYTES]) -> Area {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Area {
        steal_ns: u64::from(word(0)) | u64::from(word(4)) << 32,
        version: word(offset_of!(Counter, version)),
        flags: word(offset_of!(Counter, flags)),
        preempted: bytes[size_of::<Counter>()],
    }
}

/// The bytes that hold this.
#[must_use]
pub fn write(area: &Area) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (counter, preempted) = bytes.split_at_mut(size_of::<Counter>());
    counter[..8].copy_from_slice(&area.steal_ns.to_le_bytes());
    counter[8..12].copy_from_slice(&area.version.to_le_bytes());
    counter[12..].copy_from_slice(&area.flags.to_le_bytes());
    preempted[0] = area.preempted;
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Area, BYTES, area, is_enabled, read, write};

    #[test]
    fn the_msr_is_an_address_and_a_bit() {
        assert!(is_enabled(0x1fc2_9041) && !is_enabled(0x1fc2_9040));
        assert_eq!(area(0x1fc2_9041), 0x1fc2_9040);
    }

    #[test]
    fn the_area_is_as_kvm_writes_it() {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&7_856_949_u64.to_le_bytes());
        (bytes[8], bytes[12], bytes[16]) = (4, 1, 2);
        let area = Area { steal_ns: 7_856_949, version: 4, flags: 1, preempted: 2 };
        assert_eq!((read(&bytes), write(&area)), (area, bytes));
    }
}
