//! Guests of Xen: what makes a VM one of theirs, and a vCPU's runstate (`Documentation/virt/kvm/api.rst`).

use std::{io, os::fd::AsRawFd};

use anyhow::{Context as _, Result};
use kvm_bindings::{
    KVM_CAP_XEN_HVM, kvm_xen_hvm_attr, kvm_xen_hvm_attr__bindgen_ty_1 as OfVm, kvm_xen_hvm_config,
    kvm_xen_vcpu_attr, kvm_xen_vcpu_attr__bindgen_ty_1 as OfVcpu,
    kvm_xen_vcpu_attr__bindgen_ty_1__bindgen_ty_1 as Runstate,
};
use kvm_ioctls::{VcpuFd, VmFd};
use stealtrace_common::{
    kvm::KVM_XEN_VCPU_SET_ATTR,
    source::xen_runstate::{RUNNING, RUNSTATE_ADDR, RUNSTATE_DATA},
};

/// `KVM_XEN_HVM_CONFIG_RUNSTATE`
const RUNSTATE: i32 = 1 << 3;
/// `_IOW(KVMIO, 0x7a, struct kvm_xen_hvm_config)`
const KVM_XEN_HVM_CONFIG: libc::c_ulong = 0x4038_ae7a;
/// `_IOW(KVMIO, 0xc9, struct kvm_xen_hvm_attr)`
const KVM_XEN_HVM_SET_ATTR: libc::c_ulong = 0x4048_aec9;
/// `KVM_XEN_ATTR_TYPE_LONG_MODE`
const LONG_MODE: u16 = 0;
/// By which a guest asks for a page of hypercalls; ours never does.
const HYPERCALL_PAGE_MSR: u32 = 0x4000_0000;

/// Does KVM keep runstates here?
pub(crate) fn keeps_runstates(vm: &VmFd) -> bool {
    vm.check_extension_raw(KVM_CAP_XEN_HVM.into()) & RUNSTATE != 0
}

/// Make a VM one for a guest of Xen, of 64 bits.
pub(crate) fn set_up(vm: &VmFd) -> Result<()> {
    let config = kvm_xen_hvm_config { msr: HYPERCALL_PAGE_MSR, ..kvm_xen_hvm_config::default() };
    set(vm, KVM_XEN_HVM_CONFIG, &config).context("make a VM for a guest of Xen")?;
    let long_mode =
        kvm_xen_hvm_attr { type_: LONG_MODE, u: OfVm { long_mode: 1 }, ..kvm_xen_hvm_attr::default() };
    set(vm, KVM_XEN_HVM_SET_ATTR, &long_mode).context("make it one of 64 bits")
}

/// Nowhere: `KVM_XEN_INVALID_GPA`.
const NOWHERE: u64 = u64::MAX;

/// Say where a vCPU's runstate lies. A guest that reboots has it taken away first.
pub(crate) fn set_area(vcpu: &VcpuFd, area: u64) -> Result<()> {
    for area in [NOWHERE, area] {
        set_attr(vcpu, RUNSTATE_ADDR, OfVcpu { gpa: area }).context("say where Xen's runstate lies")?;
    }
    Ok(())
}

/// Bring a vCPU's runstate back: it runs, and that much was stolen of so much time.
pub(crate) fn set_times(vcpu: &VcpuFd, running_ns: u64, stolen_ns: u64) -> Result<()> {
    let runstate = Runstate {
        state: RUNNING.into(),
        state_entry_time: running_ns + stolen_ns,
        time_running: running_ns,
        time_runnable: stolen_ns,
        ..Runstate::default()
    };
    set_attr(vcpu, RUNSTATE_DATA, OfVcpu { runstate }).context("restore Xen's runstate")
}

fn set_attr(vcpu: &VcpuFd, type_: u16, u: OfVcpu) -> Result<()> {
    let attr = kvm_xen_vcpu_attr { type_, u, ..kvm_xen_vcpu_attr::default() };
    set(vcpu, KVM_XEN_VCPU_SET_ATTR.into(), &attr)
}

fn set<T>(of: &impl AsRawFd, ioctl: libc::c_ulong, value: &T) -> Result<()> {
    // SAFETY: KVM reads a structure of the kind that this ioctl takes.
    let done = unsafe { libc::ioctl(of.as_raw_fd(), ioctl, std::ptr::from_ref(value)) };
    if done < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}
