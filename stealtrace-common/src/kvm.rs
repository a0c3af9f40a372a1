//! Numbers of the KVM user interface that both sides of the boundary recognise.
//! Mirrors `include/uapi/linux/kvm.h`; judges nothing.

/// Type byte of every KVM ioctl number (`KVMIO`).
pub const KVMIO: u32 = 0xae;
/// Create a vCPU; issued on the VM's descriptor, returns the vCPU's descriptor.
pub const KVM_CREATE_VCPU: u32 = 0xae41;
/// Run the guest; the only ioctl that updates the guest's steal area on Linux 4.4 and later.
pub const KVM_RUN: u32 = 0xae80;
/// Write MSRs from the host side: the way a VMM restores the steal MSR.
pub const KVM_SET_MSRS: u32 = 0x4008_ae89;
/// Set an attribute; of a vCPU on arm64, where the area of its stolen time lies.
pub const KVM_SET_DEVICE_ATTR: u32 = 0x4018_aee1;
/// Set an attribute of a vCPU of a guest of Xen: where its runstate lies, and what it is.
pub const KVM_XEN_VCPU_SET_ATTR: u32 = 0x4048_aecb;

/// The type byte of an ioctl number, as `_IOC_TYPE` does.
#[must_use]
pub const fn ioctl_type(ioctl: u32) -> u32 {
    (ioctl >> 8) & 0xff
}
