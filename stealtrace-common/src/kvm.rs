//! Numbers of the KVM user interface that both sides of the boundary recognise.
//! Mirrors `include/uapi/linux/kvm.h` and `arch/x86/include/uapi/asm/kvm_para.h`; judges nothing.

/// `MSR_KVM_STEAL_TIME`: guest physical address of the steal area, bit 0 enables it.
pub const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
/// `KVM_MSR_ENABLED`: bit 0 of the MSR.
pub const MSR_ENABLED: u64 = 1;
/// `KVM_STEAL_VALID_BITS`: the area is 64-byte aligned.
pub const MSR_ADDRESS: u64 = !0x3f;

/// Type byte of every KVM ioctl number (`KVMIO`).
pub const KVMIO: u32 = 0xae;
/// Create a vCPU; issued on the VM's descriptor, returns the vCPU's descriptor.
pub const KVM_CREATE_VCPU: u32 = 0xae41;
/// Run the guest; the only ioctl that updates the guest's steal area on Linux 4.4 and later.
pub const KVM_RUN: u32 = 0xae80;
/// Write MSRs from the host side: the way a VMM restores the steal MSR.
pub const KVM_SET_MSRS: u32 = 0x4008_ae89;
/// `MAX_IO_MSRS` in `arch/x86/kvm/x86.c`: entries KVM accepts in one KVM_SET_MSRS.
pub const MAX_IO_MSRS: u32 = 256;

/// Is the steal area of this MSR value enabled?
#[must_use]
pub const fn msr_enabled(msr_val: u64) -> bool {
    msr_val & MSR_ENABLED != 0
}

/// The type byte of an ioctl number, as `_IOC_TYPE` does.
#[must_use]
pub const fn ioctl_type(ioctl: u32) -> u32 {
    (ioctl >> 8) & 0xff
}
