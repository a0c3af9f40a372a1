//! A VM of one memory slot, and vCPUs that can be moved from thread to thread.

use std::{
    os::fd::{AsRawFd as _, RawFd},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail, ensure};
use kvm_bindings::{
    CpuId, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_enable_cap, kvm_msr_entry,
    kvm_regs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use stealtrace_common::kvm::{MSR_ENABLED, MSR_KVM_STEAL_TIME};

use super::{guest, memory::GuestMemory, memory::StealArea, stats};

/// `KVM_CPUID_FEATURES` leaf and `KVM_FEATURE_STEAL_TIME` bit (`arch/x86/include/uapi/asm/kvm_para.h`).
const FEATURES_LEAF: u32 = 0x4000_0001;
const FEATURE_STEAL_TIME: u32 = 1 << 5;
/// An MSR that has nothing to do with steal time: IA32_SYSENTER_CS.
const OTHER_MSR: u32 = 0x174;

/// Can this host run a guest with steal time?
///
/// # Errors
/// The reason if not.
pub fn require_steal_time() -> Result<()> {
    let cpuid = supported_cpuid(&open()?)?;
    let offers = |cpuid: &CpuId| {
        cpuid
            .as_slice()
            .iter()
            .any(|leaf| leaf.function == FEATURES_LEAF && leaf.eax & FEATURE_STEAL_TIME != 0)
    };
    ensure!(offers(&cpuid), "KVM offers no steal time on this host (the kernel has no scheduler statistics)");
    Ok(())
}

fn open() -> Result<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Ok(kvm),
        Err(error) if error.errno() == libc::EACCES => {
            bail!("no permission for /dev/kvm; run as root or join the group kvm")
        }
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            bail!("cannot open /dev/kvm ({error}); load kvm_intel or kvm_amd")
        }
        Err(error) if error.errno() == libc::EMFILE => {
            bail!("cannot open /dev/kvm ({error}); raise the limit with `ulimit -n`")
        }
        Err(error) => bail!("cannot open /dev/kvm ({error})"),
    }
}

fn supported_cpuid(kvm: &Kvm) -> Result<CpuId> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("ask KVM for its CPUID")
}

/// A VM; shared by its vCPUs.
#[derive(Clone)]
pub struct Vm(Arc<Inner>);

struct Inner {
    kvm: Kvm,
    fd: VmFd,
    memory: Mutex<Arc<GuestMemory>>,
}

impl Vm {
    /// A VM without vCPUs whose guest does nothing but leave to the VMM.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new() -> Result<Self> {
        Self::running(guest::PORT_EXIT_LOOP)
    }

    /// A VM without vCPUs with this code.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(crate) fn running(code: &[u8]) -> Result<Self> {
        let kvm = open()?;
        let fd = kvm.create_vm().context("create a VM")?;
        let vm = Self(Arc::new(Inner { kvm, fd, memory: Mutex::new(Arc::new(GuestMemory::new(code)?)) }));
        vm.set_slot(&vm.memory(), guest::MEMORY_BYTES)?;
        Ok(vm)
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> Arc<GuestMemory> {
        Arc::clone(&self.0.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Delete the memory slot and make it anew from a copy; the memory that was there before.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn replace_memory(&self) -> Result<Arc<GuestMemory>> {
        let old = self.memory();
        let new = Arc::new(old.copied()?);
        self.set_slot(&old, 0)?;
        self.set_slot(&new, guest::MEMORY_BYTES)?;
        *self.0.memory.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(old)
    }

    /// The one memory slot; of 0 bytes it is deleted.
    fn set_slot(&self, memory: &GuestMemory, bytes: usize) -> Result<()> {
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: bytes as u64,
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the memory lives as long as the VM, or until its slot was deleted; KVM notices an unmapping anyhow.
        unsafe { self.0.fd.set_user_memory_region(slot) }.context("give the VM memory")
    }

    /// A vCPU at the start of the guest's code, made by the calling thread.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu> {
        self.create_with_cpuid(id, &supported_cpuid(&self.0.kvm)?)
    }

    /// A vCPU whose CPUID hides steal time; None where this kernel does not let a VMM enforce that.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu_without_steal_time(&self) -> Result<Option<Vcpu>> {
        let mut cpuid = supported_cpuid(&self.0.kvm)?;
        for leaf in cpuid.as_mut_slice().iter_mut().filter(|leaf| leaf.function == FEATURES_LEAF) {
            leaf.eax &= !FEATURE_STEAL_TIME;
        }
        if self.0.fd.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) <= 0 {
            return Ok(None);
        }
        let vcpu = self.create_with_cpuid(0, &cpuid)?;
        let enforce = kvm_enable_cap {
            cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
            args: [1, 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        vcpu.fd.enable_cap(&enforce).context("enforce CPUID")?;
        Ok(Some(vcpu))
    }

    fn create_with_cpuid(&self, id: u64, cpuid: &CpuId) -> Result<Vcpu> {
        let fd = self.0.fd.create_vcpu(id).context("create a vCPU")?;
        fd.set_cpuid2(cpuid).context("set CPUID")?;
        let mut sregs = fd.get_sregs().context("get segment registers")?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        fd.set_sregs(&sregs).context("set segment registers")?;
        let regs = kvm_regs { rip: guest::CODE, rflags: 2, ..kvm_regs::default() };
        fd.set_regs(&regs).context("set registers")?;
        Ok(Vcpu { fd, vm: self.clone(), area: guest::STEAL_AREA + id * guest::STEAL_AREA_BYTES })
    }
}

/// A vCPU; whoever owns it may use it.
pub struct Vcpu {
    fd: VcpuFd,
    vm: Vm,
    area: u64,
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

    /// Enable the steal MSR at the vCPU's own area from the host side, as a VMM restoring a guest does.
    ///
    /// # Errors
    /// When KVM refuses the value.
    pub fn restore_steal_msr(&self) -> Result<()> {
        let value = self.area | MSR_ENABLED;
        ensure!(self.write_steal_msr(value)?, "KVM refuses MSR 0x4b564d03 = {value:#x}");
        Ok(())
    }

    /// Write the steal MSR; does KVM accept the value?
    ///
    /// # Errors
    /// When the ioctl itself fails.
    pub fn write_steal_msr(&self, value: u64) -> Result<bool> {
        Ok(self.fd.set_msrs(&msr(MSR_KVM_STEAL_TIME, value)?).context("set MSR 0x4b564d03")? == 1)
    }

    /// The steal MSR.
    ///
    /// # Errors
    /// When KVM does not tell.
    pub fn steal_msr(&self) -> Result<u64> {
        self.read_msr(MSR_KVM_STEAL_TIME)
    }

    fn read_msr(&self, index: u32) -> Result<u64> {
        let mut msrs = msr(index, 0)?;
        let read = self.fd.get_msrs(&mut msrs).context("get an MSR")?;
        ensure!(read == 1, "KVM does not tell MSR {index:#x}");
        Ok(msrs.as_slice()[0].data)
    }

    /// Move the vCPU's own area; the MSR still points to the old one.
    pub fn set_area(&mut self, at: u64) {
        self.area = at;
    }

    /// Everything that a curious thread of a VMM may do to a vCPU: registers, segments and MSRs, read and written
    /// back. Leaves the vCPU as it was.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn read_and_write_back(&self) -> Result<()> {
        let regs = self.fd.get_regs().context("get registers")?;
        self.fd.set_regs(&regs).context("set registers")?;
        let sregs = self.fd.get_sregs().context("get segment registers")?;
        self.fd.set_sregs(&sregs).context("set segment registers")?;
        let value = self.read_msr(OTHER_MSR)?;
        self.fd.set_msrs(&msr(OTHER_MSR, value)?).map(drop).context("set an MSR")
    }

    /// An ioctl that changes nothing: KVM_GET_REGS.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn read_registers(&self) -> Result<()> {
        self.fd.get_regs().map(drop).context("get registers")
    }

    /// Its descriptor, for threads that only read from it.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Bring an older steal area back, as loading a snapshot does.
    pub fn set_steal_area(&self, area: StealArea) {
        self.vm.memory().set(self.area, area);
    }

    /// What the guest sees.
    #[must_use]
    pub fn steal_area(&self) -> StealArea {
        self.vm.memory().steal_area(self.area)
    }

    /// One of KVM's own statistics of it; None if this kernel does not keep that.
    #[must_use]
    pub fn stat(&self, name: &str) -> Option<u64> {
        stats::stat(&self.fd, name)
    }

    /// Its VM.
    #[must_use]
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }
}

fn msr(index: u32, data: u64) -> Result<Msrs> {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..kvm_msr_entry::default() }])
        .context("build the MSR list")
}
