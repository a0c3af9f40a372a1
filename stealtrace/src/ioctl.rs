//! Names of the vCPU ioctls of x86 and arm64 (`include/uapi/linux/kvm.h`).

use std::{borrow::Cow, sync::LazyLock};

use rustc_hash::FxHashMap;
use stealtrace_common::kvm::KVM_CREATE_VCPU;

/// `(number, name)`; of several names that share a number across architectures, that of x86.
const NAMES: &[(u32, &str)] = &[
    (0xae80, "KVM_RUN"),
    (0x8090_ae81, "KVM_GET_REGS"),
    (0x4090_ae82, "KVM_SET_REGS"),
    (0x8138_ae83, "KVM_GET_SREGS"),
    (0x4138_ae84, "KVM_SET_SREGS"),
    (0xc018_ae85, "KVM_TRANSLATE"),
    (0x4004_ae86, "KVM_INTERRUPT"),
    (0xc008_ae88, "KVM_GET_MSRS"),
    (0x4008_ae89, "KVM_SET_MSRS"),
    (0x4008_ae8a, "KVM_SET_CPUID"),
    (0x4004_ae8b, "KVM_SET_SIGNAL_MASK"),
    (0x81a0_ae8c, "KVM_GET_FPU"),
    (0x41a0_ae8d, "KVM_SET_FPU"),
    (0x8400_ae8e, "KVM_GET_LAPIC"),
    (0x4400_ae8f, "KVM_SET_LAPIC"),
    (0x4008_ae90, "KVM_SET_CPUID2"),
    (0xc008_ae91, "KVM_GET_CPUID2"),
    (0xc028_ae92, "KVM_TPR_ACCESS_REPORTING"),
    (0x4008_ae93, "KVM_SET_VAPIC_ADDR"),
    (0x8004_ae98, "KVM_GET_MP_STATE"),
    (0x4004_ae99, "KVM_SET_MP_STATE"),
    (0xae9a, "KVM_NMI"),
    (0x4048_ae9b, "KVM_SET_GUEST_DEBUG"),
    (0x4008_ae9c, "KVM_X86_SETUP_MCE"),
    (0x4040_ae9e, "KVM_X86_SET_MCE"),
    (0x8040_ae9f, "KVM_GET_VCPU_EVENTS"),
    (0x4040_aea0, "KVM_SET_VCPU_EVENTS"),
    (0x8080_aea1, "KVM_GET_DEBUGREGS"),
    (0x4080_aea2, "KVM_SET_DEBUGREGS"),
    (0xaea2, "KVM_SET_TSC_KHZ"),
    (0xaea3, "KVM_GET_TSC_KHZ"),
    (0x4068_aea3, "KVM_ENABLE_CAP"),
    (0x9000_aea4, "KVM_GET_XSAVE"),
    (0x5000_aea5, "KVM_SET_XSAVE"),
    (0x8188_aea6, "KVM_GET_XCRS"),
    (0x4188_aea7, "KVM_SET_XCRS"),
    (0x4010_aeab, "KVM_GET_ONE_REG"),
    (0x4010_aeac, "KVM_SET_ONE_REG"),
    (0xaead, "KVM_KVMCLOCK_CTRL"),
    (0xaeb7, "KVM_SMI"),
    (0xc008_aeb0, "KVM_GET_REG_LIST"),
    (0xc008_aeba, "KVM_MEMORY_ENCRYPT_OP"),
    (0xc080_aebe, "KVM_GET_NESTED_STATE"),
    (0x4080_aebf, "KVM_SET_NESTED_STATE"),
    (0xc008_aec1, "KVM_GET_SUPPORTED_HV_CPUID"),
    (0xc048_aeca, "KVM_XEN_VCPU_GET_ATTR"),
    (0x4048_aecb, "KVM_XEN_VCPU_SET_ATTR"),
    (0x8140_aecc, "KVM_GET_SREGS2"),
    (0x4140_aecd, "KVM_SET_SREGS2"),
    (0x9000_aecf, "KVM_GET_XSAVE2"),
    (0xc040_aed5, "KVM_PRE_FAULT_MEMORY"),
    (0x4018_aee1, "KVM_SET_DEVICE_ATTR"),
    (0x4018_aee2, "KVM_GET_DEVICE_ATTR"),
    (0x4018_aee3, "KVM_HAS_DEVICE_ATTR"),
    (0xaece, "KVM_GET_STATS_FD"),
    (0x4010_aeab, "KVM_GET_ONE_REG"),
    (0x4010_aeac, "KVM_SET_ONE_REG"),
    (0x4020_aeae, "KVM_ARM_VCPU_INIT"),
    (0xc008_aeb0, "KVM_GET_REG_LIST"),
    (0x4004_aec2, "KVM_ARM_VCPU_FINALIZE"),
];

static NUMBERS: LazyLock<FxHashMap<&str, u32>> = LazyLock::new(|| {
    NAMES
        .iter()
        .chain(&[(KVM_CREATE_VCPU, "KVM_CREATE_VCPU")])
        .map(|(number, name)| (*name, *number))
        .collect()
});

/// The ioctl's name, or its number where it has none; `-` for no ioctl.
#[must_use]
pub fn name(ioctl: u32) -> Cow<'static, str> {
    if ioctl == 0 {
        return "-".into();
    }
    match NAMES.iter().find(|(number, _)| *number == ioctl) {
        Some((_, name)) => (*name).into(),
        None => format!("{ioctl:#x}").into(),
    }
}

/// The vCPU ioctl with this name, or KVM_CREATE_VCPU; None for any other.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    NUMBERS.get(name).copied()
}

/// Is this number one of a vCPU ioctl that we know?
#[must_use]
pub fn is_known(ioctl: u32) -> bool {
    NAMES.iter().any(|(number, _)| *number == ioctl)
}

#[cfg(test)]
mod tests {
    use super::{name, number};

    #[test]
    fn names_have_numbers() {
        assert_eq!(number("KVM_RUN"), Some(0xae80));
        assert_eq!(number("KVM_CREATE_VCPU"), Some(0xae41));
        assert_eq!(number("KVM_SIGNAL_MSI"), None);
    }

    #[test]
    fn known_numbers_have_names_and_others_show_as_they_are() {
        assert_eq!(name(0xae80), "KVM_RUN");
        assert_eq!(name(0x4008_ae89), "KVM_SET_MSRS");
        assert_eq!(name(0xae00_0001), "0xae000001");
        assert_eq!(name(0), "-");
    }
}
