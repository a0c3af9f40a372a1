//! A VM of one memory slot, and vCPUs that can be moved from thread to thread.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use stealtrace_common::kvm::{MSR_ENABLED, MSR_KVM_STEAL_TIME};

use super::{guest, memory::GuestMemory, memory::StealArea};

/// `KVM_CPUID_FEATURES` leaf and `KVM_FEATURE_STEAL_TIME` bit (`arch/x86/include/uapi/asm/kvm_para.h`).
const FEATURES_LEAF: u32 = 0x4000_0001;
const FEATURE_STEAL_TIME: u32 = 1 << 5;

/// Can this host run a guest with steal time?
///
/// # Errors
/// The reason if not.
pub fn require_steal_time() -> Result<()> {
    let kvm = open()?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("ask KVM for its CPUID")?;
    let offered = cpuid
        .as_slice()
        .iter()
        .any(|leaf| leaf.function == FEATURES_LEAF && leaf.eax & FEATURE_STEAL_TIME != 0);
    ensure!(offered, "KVM offers no steal time on this host (the kernel has no scheduler statistics)");
    Ok(())
}

fn open() -> Result<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Ok(kvm),
        Err(error) if error.errno() == libc::EACCES => {
            bail!("no permission for /dev/kvm; run as root or join the group kvm")
        }
        Err(error) => bail!("cannot open /dev/kvm ({error}); load kvm_intel or kvm_amd"),
    }
}

/// A VM; shared by its vCPUs.
#[derive(Clone)]
pub struct Vm(Arc<Inner>);

struct Inner {
    kvm: Kvm,
    fd: VmFd,
    memory: GuestMemory,
}

impl Vm {
    /// A VM without vCPUs.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new() -> Result<Self> {
        let kvm = open()?;
        let fd = kvm.create_vm().context("create a VM")?;
        let memory = GuestMemory::new()?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: guest::MEMORY_BYTES as u64,
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the memory lives in the same Inner as the VM and is dropped after it.
        unsafe { fd.set_user_memory_region(slot) }.context("give the VM memory")?;
        Ok(Self(Arc::new(Inner { kvm, fd, memory })))
    }

    /// A vCPU at the start of the guest's code, made by the calling thread.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu> {
        let fd = self.0.fd.create_vcpu(id).context("create a vCPU")?;
        let cpuid = self.0.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("ask KVM for its CPUID")?;
        fd.set_cpuid2(&cpuid).context("set CPUID")?;
        let mut sregs = fd.get_sregs().context("get segment registers")?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        fd.set_sregs(&sregs).context("set segment registers")?;
        let regs = kvm_regs { rip: guest::CODE, rflags: 2, ..kvm_regs::default() };
        fd.set_regs(&regs).context("set registers")?;
        Ok(Vcpu { fd, vm: self.clone() })
    }

    /// The steal area of its one vCPU.
    #[must_use]
    pub fn steal_area(&self) -> StealArea {
        self.0.memory.steal_area()
    }
}

/// A vCPU; whoever owns it may use it.
pub struct Vcpu {
    fd: VcpuFd,
    vm: Vm,
}

impl Vcpu {
    /// Enter the guest until its next port exit: one KVM_RUN.
    ///
    /// # Errors
    /// When the guest does anything else.
    pub fn run(&mut self) -> Result<()> {
        loop {
            match self.fd.run() {
                Ok(VcpuExit::IoOut(_, _)) => return Ok(()),
                Ok(exit) => bail!("the guest left with {exit:?} instead of a port exit"),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => bail!("KVM_RUN: {error}"),
            }
        }
    }

    /// Write the steal MSR from the host side, as a VMM restoring a guest does.
    ///
    /// # Errors
    /// When KVM refuses the value.
    pub fn restore_steal_msr(&self) -> Result<()> {
        let data = guest::STEAL_AREA | MSR_ENABLED;
        let entry = kvm_msr_entry { index: MSR_KVM_STEAL_TIME, data, ..kvm_msr_entry::default() };
        let msrs = Msrs::from_entries(&[entry]).context("build the MSR list")?;
        let set = self.fd.set_msrs(&msrs).context("set MSR 0x4b564d03")?;
        ensure!(set == 1, "KVM refuses MSR 0x4b564d03 = {data:#x}");
        Ok(())
    }

    /// An ioctl that changes nothing: KVM_GET_REGS.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn read_registers(&self) -> Result<()> {
        self.fd.get_regs().map(drop).context("get registers")
    }

    /// Bring an older steal area back, as loading a snapshot does.
    pub fn set_steal_area(&mut self, area: StealArea) {
        self.vm.0.memory.set_steal_area(area);
    }

    /// What the guest sees.
    #[must_use]
    pub fn steal_area(&self) -> StealArea {
        self.vm.steal_area()
    }
}
