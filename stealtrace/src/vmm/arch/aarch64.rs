//! arm64: registers and pvtime of a vCPU, and a few instructions for its guest, which runs without translation of addresses
//! and leaves to the VMM by a store to where there is no memory.

use anyhow::{Context as _, Result, bail};
use kvm_bindings::{
    KVM_ARM_VCPU_PSCI_0_2, KVM_CAP_STEAL_TIME, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64,
    kvm_device_attr, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::os::fd::AsRawFd as _;
use stealtrace_common::source::here::{PVTIME_CTRL, PVTIME_IPA};

use crate::vmm::guest;

/// May what enables steal time be set once only?
pub(crate) const SET_ONCE: bool = true;

/// Can a guest enable steal time only where its VMM did something for it?
pub(crate) const TAKES_AN_OFFER: bool = true;

/// `KVM_REG_ARM_CORE_REG(regs.pc)`: 256 bytes into `struct kvm_regs`, in words of 4.
const PC: u64 = core(256 / 4);
/// The same of x0.
const X0: u64 = core(0);

const fn core(word: u64) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | word
}

/// Does KVM offer steal time to guests here?
pub(crate) fn offers_steal_time(kvm: &Kvm) -> Result<bool> {
    Ok(kvm.check_extension_raw(KVM_CAP_STEAL_TIME.into()) > 0)
}

/// Does the guest leave to the VMM? By a store.
pub(crate) const fn is_exit(exit: &VcpuExit<'_>) -> bool {
    matches!(exit, VcpuExit::MmioWrite(..))
}

/// Put a new vCPU at the start of the guest's code.
pub(crate) fn set_up(_kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd) -> Result<()> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).context("ask KVM for its processor")?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    vcpu.vcpu_init(&init).context("initialise a vCPU")?;
    set_register(vcpu, PC, guest::CODE)
}

/// What enables steal time in this area.
pub(crate) const fn enabling(area: u64) -> u64 {
    area
}

/// Write what enables steal time; does KVM accept the value?
pub(crate) fn set_enabling(vcpu: &VcpuFd, value: u64) -> Result<bool> {
    match vcpu.set_device_attr(&attribute(&value)) {
        Ok(()) => Ok(true),
        Err(error) if [libc::EEXIST, libc::EINVAL].contains(&error.errno()) => Ok(false),
        Err(error) => bail!("set the address of stolen time: {error}"),
    }
}

/// Read it.
pub(crate) fn get_enabling(vcpu: &VcpuFd) -> Result<u64> {
    /// `_IOW(KVMIO, 0xe2, struct kvm_device_attr)`
    const KVM_GET_DEVICE_ATTR: u32 = 0x4018_aee2;
    let mut value = 0_u64;
    let attribute = kvm_device_attr { addr: (&raw mut value) as u64, ..attribute(&0) };
    // SAFETY: KVM writes the attribute, 8 bytes, to a place that is ours.
    let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_DEVICE_ATTR as _, &raw const attribute) };
    if result < 0 {
        bail!("get the address of stolen time: {}", std::io::Error::last_os_error());
    }
    Ok(value)
}

fn attribute(value: &u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group: PVTIME_CTRL, attr: PVTIME_IPA, addr: std::ptr::from_ref(value) as u64 }
}

/// Everything that a curious thread of a VMM may do to a vCPU: registers and its state, read and written back.
pub(crate) fn read_and_write_back(vcpu: &VcpuFd) -> Result<()> {
    for register in [PC, X0] {
        set_register(vcpu, register, get_register(vcpu, register)?)?;
    }
    let state = vcpu.get_mp_state().context("get a vCPU's state")?;
    vcpu.set_mp_state(state).context("set a vCPU's state")
}

/// An ioctl that changes nothing: KVM_GET_ONE_REG.
pub(crate) fn read_registers(vcpu: &VcpuFd) -> Result<()> {
    get_register(vcpu, X0).map(drop)
}

fn get_register(vcpu: &VcpuFd, id: u64) -> Result<u64> {
    let mut value = [0; 8];
    vcpu.get_one_reg(id, &mut value).context("get a register")?;
    Ok(u64::from_le_bytes(value))
}

fn set_register(vcpu: &VcpuFd, id: u64, value: u64) -> Result<()> {
    vcpu.set_one_reg(id, &value.to_le_bytes()).map(drop).context("set a register")
}

/// Leave to the VMM once per KVM_RUN, for ever. KVM ends an exit by setting the next instruction's address, even where
/// another was set meanwhile: all code begins with one that does nothing.
pub(crate) const EXIT_LOOP: &[u8] = &[
    0x1f, 0x20, 0x03, 0xd5, // nop
    0x13, 0x00, 0xa2, 0xd2, // mov x19, #0x10000000
    0x60, 0x02, 0x00, 0xb9, // str w0, [x19]
    0xff, 0xff, 0xff, 0x17, // b to the str
];

/// Ask for stolen time as a guest does (PV_TIME_ST), then as [`EXIT_LOOP`].
pub(crate) const ENABLE: &[u8] = &[
    0x1f, 0x20, 0x03, 0xd5, // nop
    0x13, 0x00, 0xa2, 0xd2, // mov x19, #0x10000000
    0x20, 0x04, 0x80, 0x52, // mov w0, #0x21
    0x00, 0xa0, 0xb8, 0x72, // movk w0, #0xc500, lsl #16
    0x02, 0x00, 0x00, 0xd4, // hvc #0
    0x60, 0x02, 0x00, 0xb9, // str w0, [x19]
    0xff, 0xff, 0xff, 0x17, // b to the str
];

/// Leave once, then as a booting kernel: zero the counter before believing it; then as [`EXIT_LOOP`].
pub(crate) const ZERO: &[u8] = &[
    0x1f, 0x20, 0x03, 0xd5, // nop
    0x13, 0x00, 0xa2, 0xd2, // mov x19, #0x10000000
    0x14, 0x00, 0x84, 0xd2, // mov x20, #STEAL_AREA
    0x60, 0x02, 0x00, 0xb9, // str w0, [x19]
    0x9f, 0x06, 0x00, 0xf9, // str xzr, [x20, #8]
    0x60, 0x02, 0x00, 0xb9, // str w0, [x19]
    0xff, 0xff, 0xff, 0x17, // b to the str
];

/// Stay in the guest until [`guest::STOP`] is set.
pub(crate) const SPIN: &[u8] = &[
    0x1f, 0x20, 0x03, 0xd5, // nop
    0x13, 0x00, 0xa2, 0xd2, // mov x19, #0x10000000
    0x14, 0x00, 0x86, 0xd2, // mov x20, #0x3000
    0x21, 0x00, 0x80, 0x52, // mov w1, #1
    0x81, 0x0e, 0x00, 0x39, // strb w1, [x20, #3]: STARTED
    0x81, 0x0a, 0x40, 0x39, // loop: ldrb w1, [x20, #2]: STOP
    0xe1, 0xff, 0xff, 0x34, // cbz w1, loop
    0x60, 0x02, 0x00, 0xb9, // str w0, [x19]
    0xfd, 0xff, 0xff, 0x17, // b loop
];
