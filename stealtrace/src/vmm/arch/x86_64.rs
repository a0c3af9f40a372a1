//! x86-64: CPUID, registers and MSRs of a vCPU, and a few real-mode instructions for its guest.

use anyhow::{Context as _, Result, ensure};
use kvm_bindings::{
    CpuId, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_enable_cap, kvm_msr_entry,
    kvm_regs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use stealtrace_common::source::here::{ENABLED, MSR};

use crate::vmm::guest;

/// `KVM_CPUID_FEATURES` leaf and `KVM_FEATURE_STEAL_TIME` bit (`arch/x86/include/uapi/asm/kvm_para.h`).
const FEATURES_LEAF: u32 = 0x4000_0001;
const FEATURE_STEAL_TIME: u32 = 1 << 5;
/// `KVM_FEATURE_SUSPEND_STEAL`, as proposed for Linux: the bit by which a guest asks for the host's sleep to be counted is not reserved.
const FEATURE_SUSPEND_STEAL: u32 = 1 << 18;
/// An MSR that has nothing to do with steal time: IA32_SYSENTER_CS.
const OTHER_MSR: u32 = 0x174;

/// Does KVM offer steal time to guests here?
pub(crate) fn offers_steal_time(kvm: &Kvm) -> Result<bool> {
    offers(kvm, FEATURE_STEAL_TIME)
}

/// May steal time count the host's sleep, too?
pub(crate) fn may_count_sleep(kvm: &Kvm) -> Result<bool> {
    offers(kvm, FEATURE_SUSPEND_STEAL)
}

fn offers(kvm: &Kvm, feature: u32) -> Result<bool> {
    let cpuid = supported_cpuid(kvm)?;
    Ok(cpuid.as_slice().iter().any(|leaf| is_features(leaf) && leaf.eax & feature != 0))
}

const fn is_features(leaf: &kvm_bindings::kvm_cpuid_entry2) -> bool {
    leaf.function == FEATURES_LEAF
}

fn supported_cpuid(kvm: &Kvm) -> Result<CpuId> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("ask KVM for its CPUID")
}

/// May what enables steal time be set once only?
pub(crate) const SET_ONCE: bool = false;

/// Can a guest enable steal time only where its VMM did something for it?
pub(crate) const TAKES_AN_OFFER: bool = false;

/// Does the guest leave to the VMM? By a port.
pub(crate) const fn is_exit(exit: &VcpuExit<'_>) -> bool {
    matches!(exit, VcpuExit::IoOut(..))
}

/// Put a new vCPU at the start of the guest's code.
pub(crate) fn set_up(kvm: &Kvm, _vm: &VmFd, vcpu: &VcpuFd) -> Result<()> {
    set_up_with(vcpu, &supported_cpuid(kvm)?)
}

fn set_up_with(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<()> {
    vcpu.set_cpuid2(cpuid).context("set CPUID")?;
    let mut sregs = vcpu.get_sregs().context("get segment registers")?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).context("set segment registers")?;
    let regs = kvm_regs { rip: guest::CODE, rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&regs).context("set registers")
}

/// Can a VMM keep steal time from a guest, as CPUID says it does?
pub(crate) fn can_hide_steal_time(vm: &VmFd) -> bool {
    vm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) > 0
}

/// The same for a vCPU that is to have no steal time.
pub(crate) fn set_up_without_steal_time(kvm: &Kvm, vcpu: &VcpuFd) -> Result<()> {
    let mut cpuid = supported_cpuid(kvm)?;
    for leaf in cpuid.as_mut_slice().iter_mut().filter(|leaf| is_features(leaf)) {
        leaf.eax &= !FEATURE_STEAL_TIME;
    }
    set_up_with(vcpu, &cpuid)?;
    let enforce = kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        args: [1, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vcpu.enable_cap(&enforce).context("enforce CPUID")
}

/// What enables steal time in this area.
pub(crate) const fn enabling(area: u64) -> u64 {
    area | ENABLED
}

/// Write what enables steal time; does KVM accept the value?
pub(crate) fn set_enabling(vcpu: &VcpuFd, value: u64) -> Result<bool> {
    Ok(vcpu.set_msrs(&msr(MSR, value)?).context("set MSR 0x4b564d03")? == 1)
}

/// Read it.
pub(crate) fn get_enabling(vcpu: &VcpuFd) -> Result<u64> {
    read_msr(vcpu, MSR)
}

/// Everything that a curious thread of a VMM may do to a vCPU: registers, segments and MSRs, read and written back.
pub(crate) fn read_and_write_back(vcpu: &VcpuFd) -> Result<()> {
    let regs = vcpu.get_regs().context("get registers")?;
    vcpu.set_regs(&regs).context("set registers")?;
    let sregs = vcpu.get_sregs().context("get segment registers")?;
    vcpu.set_sregs(&sregs).context("set segment registers")?;
    let value = read_msr(vcpu, OTHER_MSR)?;
    vcpu.set_msrs(&msr(OTHER_MSR, value)?).map(drop).context("set an MSR")
}

/// An ioctl that changes nothing: KVM_GET_REGS.
pub(crate) fn read_registers(vcpu: &VcpuFd) -> Result<()> {
    vcpu.get_regs().map(drop).context("get registers")
}

fn read_msr(vcpu: &VcpuFd, index: u32) -> Result<u64> {
    let mut msrs = msr(index, 0)?;
    let read = vcpu.get_msrs(&mut msrs).context("get an MSR")?;
    ensure!(read == 1, "KVM does not tell MSR {index:#x}");
    Ok(msrs.as_slice()[0].data)
}

fn msr(index: u32, data: u64) -> Result<Msrs> {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..kvm_msr_entry::default() }])
        .context("build the MSR list")
}

/// One port exit per KVM_RUN, for ever.
pub(crate) const EXIT_LOOP: &[u8] = &[
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];

/// Enable steal time as a guest does, then as [`EXIT_LOOP`].
pub(crate) const ENABLE: &[u8] = &[
    0x66, 0xb9, 0x03, 0x4d, 0x56, 0x4b, // mov ecx, 0x4b564d03
    0x66, 0xb8, 0x01, 0x20, 0x00, 0x00, // mov eax, STEAL_AREA | 1
    0x66, 0x31, 0xd2, // xor edx, edx
    0x0f, 0x30, // wrmsr
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];

/// A port exit, disable steal time, a port exit, enable it, then as [`EXIT_LOOP`].
pub(crate) const OFF_ON: &[u8] = &[
    0xe6, 0x10, // out 0x10, al
    0x66, 0xb9, 0x03, 0x4d, 0x56, 0x4b, // mov ecx, 0x4b564d03
    0x66, 0x31, 0xd2, // xor edx, edx
    0x66, 0x31, 0xc0, // xor eax, eax
    0x0f, 0x30, // wrmsr
    0xe6, 0x10, // out 0x10, al
    0x66, 0xb8, 0x01, 0x20, 0x00, 0x00, // mov eax, STEAL_AREA | 1
    0x0f, 0x30, // wrmsr
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];

/// A port exit, then as a booting kernel: zero the counter before believing it; then port exits.
pub(crate) const ZERO: &[u8] = &[
    0xe6, 0x10, // out 0x10, al
    0x66, 0xc7, 0x06, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, // mov dword [STEAL_AREA], 0
    0x66, 0xc7, 0x06, 0x04, 0x20, 0x00, 0x00, 0x00, 0x00, // mov dword [STEAL_AREA + 4], 0
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];

/// Stay in the guest until [`STOP`] is set, looking at `preempted` of the first steal area.
pub(crate) const SPIN: &[u8] = &[
    0xc6, 0x06, 0x03, 0x30, 0x01, // mov byte [STARTED], 1
    0xa0, 0x10, 0x20, // loop: mov al, [STEAL_AREA + 16]
    0x08, 0x06, 0x00, 0x30, // or [SEEN_PREEMPTED], al
    0x80, 0x3e, 0x02, 0x30, 0x00, // cmp byte [STOP], 0
    0x74, 0xf2, // je loop
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xee, // jmp loop
];
