//! Xen's runstate on KVM, on x86: a guest of Xen reads from its `vcpu_runstate_info` how long it was runnable and did not run.
//! The VMM says where that lies (KVM_XEN_VCPU_SET_ATTR), and restores it. Such a VM has no other steal time. Mirrors
//! `struct kvm_xen_vcpu_attr` in `arch/x86/include/uapi/asm/kvm.h`, `arch/x86/kvm/xen.c` and Xen's `public/vcpu.h`.

use super::Area;

/// What enables it, for people.
pub const ENABLING: &str = "Xen's runstate";

/// The same where its values stand beside it.
pub const WORD: &str = "Xen runstate";

/// What a VMM restores.
pub const RESTORED: &str = "Xen's runstate";

/// In the output for programs.
pub const KEY: &str = "xen";

/// `KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR`
pub const RUNSTATE_ADDR: u16 = 2;

/// `KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA`
pub const RUNSTATE_DATA: u16 = 4;

/// `RUNSTATE_running`
pub const RUNNING: u32 = 0;

/// Where `time[RUNSTATE_runnable]`, the steal time, is in the area of a guest of 64 bits, and of one of 32.
pub const COUNTER: [u64; 2] = [24, 20];

/// Where the kernel keeps it, from Linux 5.18 on: `last_steal`, the runstate's time of entry, and four times, of which the
/// second is the steal time.
pub const TIMES: [&str; 3] =
    ["arch.xen.last_steal", "arch.xen.runstate_entry_time", "arch.xen.runstate_times"];

/// Its state.
pub const STATE: &str = "arch.xen.current_runstate";

/// Guest address and host address of the area.
pub const CACHED_AREA: [&str; 2] = ["arch.xen.runstate_cache.gpa", "arch.xen.runstate_cache.uhva"];

/// Is there an area?
pub const ACTIVE: &str = "arch.xen.runstate_cache.active";

/// In a VM: are its guests of 64 bits?
pub const LONG_MODE: &str = "arch.xen.long_mode";

/// Marks the address of an area as one of this source's: no guest's memory reaches so far.
const MARK: u64 = 1 << 63;

/// The area's address, marked.
#[must_use]
pub const fn enabling(area: u64) -> u64 {
    area | MARK
}

/// Is this one of its? No value of the MSR's is: its address would be outside of memory.
#[must_use]
pub const fn is_enabled(enabling: u64) -> bool {
    enabling >> 62 == MARK >> 62
}

/// It never is.
#[must_use]
pub const fn counts_sleep(_enabling: u64) -> bool {
    false
}

/// Where the area lies in the guest's memory.
#[must_use]
pub const fn area(enabling: u64) -> u64 {
    enabling & !MARK
}

/// There is no version.
pub const VERSIONS: u32 = 0;

/// The area, from the bytes at its counter.
#[must_use]
pub fn read(bytes: &[u8]) -> Area {
    let counter = bytes.first_chunk().copied().unwrap_or_default();
    Area { steal_ns: u64::from_le_bytes(counter), ..Area::default() }
}

#[cfg(test)]
mod tests {
    use super::{area, enabling, is_enabled, read};
    use crate::{source::Source, vcpu::QuietVcpu};

    #[test]
    fn its_addresses_are_told_from_the_msrs_values() {
        assert!(is_enabled(enabling(0x2000)) && area(enabling(0x2000)) == 0x2000);
        for other in [0, 0x2001, 0x2000, QuietVcpu::WRITTEN, u64::MAX] {
            assert!(!is_enabled(other), "{other:#x}");
        }
        assert_eq!(Source::of(enabling(0x2000)), Source::XenRunstate);
        assert_eq!(Source::of(0x2001), Source::HERE);
    }

    #[test]
    fn the_counter_is_what_is_read() {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&7_856_949_u64.to_le_bytes());
        assert_eq!(read(&bytes).steal_ns, 7_856_949);
    }
}
