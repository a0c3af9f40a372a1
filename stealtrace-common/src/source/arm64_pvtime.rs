//! pvtime of arm64: the VMM says where the area lies, once (KVM_ARM_VCPU_PVTIME_IPA); the guest asks for it
//! (PV_TIME_ST), which begins the counter at zero. Mirrors `arch/arm64/include/asm/pvclock-abi.h`, `arch/arm64/kvm/pvtime.c`
//! and ARM's DEN0057.

use super::{Area, Fields, Source};

/// Which source this is.
pub const SOURCE: Source = Source::Arm64Pvtime;

/// What enables it, for people.
pub const ENABLING: &str = "pvtime's address";

/// The same where its values stand beside it.
pub const WORD: &str = "pvtime";

/// What a VMM restores.
pub const RESTORED: &str = "stolen time's address";

/// In the output for programs.
pub const KEY: &str = "pvtime";

/// `KVM_ARM_VCPU_PVTIME_CTRL`, the group of the attribute that says where the area lies.
pub const PVTIME_CTRL: u32 = 2;

/// `KVM_ARM_VCPU_PVTIME_IPA`, in that group.
pub const PVTIME_IPA: u64 = 0;

/// How the area is aligned; it is not larger.
pub const AREA_BYTES: u64 = 64;

/// Where the kernel keeps it.
pub const FIELDS: Fields =
    Fields { steal: ["arch.steal.last_steal", "arch.steal.base"], cached_area: None, accumulated: None };

/// What does the subtraction.
pub const SUBTRACTS: &[&str] = WRITES;

/// What writes the guest's counter.
pub const WRITES: &[&str] = &["kvm_update_stolen_time"];

/// Which steal-time code has no delta that waits for guest entry.
pub const RECORDING: &str = "that of every Linux so far";

/// What enables it and `last_steal`, as they lie there.
#[must_use]
pub const fn steal_time([last_steal_ns, base]: [u64; 2]) -> (u64, u64) {
    (base, last_steal_ns)
}

/// Does this address enable it? Not `INVALID_GPA`, nor 0, which is nobody's: no VMM puts the area where memory of many
/// machines begins.
#[must_use]
pub const fn is_enabled(base: u64) -> bool {
    base != u64::MAX && base != 0
}

/// Does this address ask for the host's sleep to be counted, too? None can.
#[must_use]
pub const fn counts_sleep(_base: u64) -> bool {
    false
}

/// Where the area lies in the guest's memory.
#[must_use]
pub const fn area(base: u64) -> u64 {
    base
}

/// `struct pvclock_vcpu_stolen_time`, but for its padding: KVM counts in it, and probes read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// 0.
    pub revision: u32,
    /// 0.
    pub attributes: u32,
    /// Nanoseconds that the vCPU was ready but did not run.
    pub steal_ns: u64,
}

impl Counter {
    /// There is none.
    #[must_use]
    pub const fn version(&self) -> u32 {
        0
    }
}

/// By so much an update raises the area's version.
pub const VERSIONS: u32 = 0;

/// Did KVM ever write this? Nothing in it says so.
#[must_use]
pub const fn lives(_area: &Area) -> bool {
    true
}

/// Bytes of the area that mean something.
pub const BYTES: usize = size_of::<Counter>();

/// The area in these bytes of a guest's memory.
#[must_use]
pub fn read(bytes: &[u8; BYTES]) -> Area {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Area {
        steal_ns: u64::from(word(8)) | u64::from(word(12)) << 32,
        flags: word(0) | word(4),
        ..Area::default()
    }
}

/// The bytes that hold this.
#[must_use]
pub fn write(area: &Area) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[8..].copy_from_slice(&area.steal_ns.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Area, BYTES, is_enabled, read, steal_time, write};

    #[test]
    fn an_address_enables_it_and_none_does_not() {
        assert!(is_enabled(0x2000) && !is_enabled(u64::MAX) && !is_enabled(0));
        assert_eq!(steal_time([5, 0x2000]), (0x2000, 5));
    }

    #[test]
    fn the_area_is_as_kvm_writes_it() {
        let mut bytes = [0; BYTES];
        bytes[8..].copy_from_slice(&7_856_949_u64.to_le_bytes());
        let area = Area { steal_ns: 7_856_949, ..Area::default() };
        assert_eq!((read(&bytes), write(&area)), (area, bytes));
    }
}
