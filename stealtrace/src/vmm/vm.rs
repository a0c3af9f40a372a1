//! A VM of one memory slot, and vCPUs that can be moved from thread to thread.

use std::{
    os::fd::{AsRawFd as _, RawFd},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail, ensure};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use stealtrace_common::source::Source;

use super::{arch, guest, memory::GuestMemory, memory::StealArea, stats};
use crate::kernel::LOAD_KVM;

/// Can this host run a guest with steal time?
///
/// # Errors
/// The reason if not.
pub fn require_steal_time() -> Result<()> {
    let offers = arch::offers_steal_time(&open()?)?;
    ensure!(offers, "KVM offers no steal time on this host (the kernel has no scheduler statistics)");
    Ok(())
}

fn open() -> Result<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Ok(kvm),
        Err(error) if error.errno() == libc::EACCES => {
            bail!("no permission for /dev/kvm; run as root or join the group kvm")
        }
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            bail!("cannot open /dev/kvm ({error}); {LOAD_KVM}")
        }
        Err(error) if error.errno() == libc::EMFILE => {
            bail!("cannot open /dev/kvm ({error}); raise the limit with `ulimit -n`")
        }
        Err(error) => bail!("cannot open /dev/kvm ({error})"),
    }
}

/// A VM; shared by its vCPUs.
#[derive(Clone)]
pub struct Vm(Arc<Inner>);

struct Inner {
    kvm: Kvm,
    fd: VmFd,
    memory: Mutex<Arc<GuestMemory>>,
    source: Source,
}

impl Vm {
    /// A VM without vCPUs whose guest does nothing but leave to the VMM.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new() -> Result<Self> {
        Self::running(arch::EXIT_LOOP)
    }

    /// The same for a guest of Xen; None where KVM keeps no runstates.
    ///
    /// # Errors
    /// When KVM refuses.
    #[cfg(target_arch = "x86_64")]
    pub fn for_xen() -> Result<Option<Self>> {
        let vm = Self::with(arch::EXIT_LOOP, Source::XenRunstate)?;
        if !arch::xen::keeps_runstates(&vm.0.fd) {
            return Ok(None);
        }
        arch::xen::set_up(&vm.0.fd)?;
        Ok(Some(vm))
    }

    /// A VM without vCPUs with this code.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(crate) fn running(code: &[u8]) -> Result<Self> {
        Self::with(code, Source::HERE)
    }

    fn with(code: &[u8], source: Source) -> Result<Self> {
        let kvm = open()?;
        let fd = kvm.create_vm().context("create a VM")?;
        let memory = Mutex::new(Arc::new(GuestMemory::new(code)?));
        let vm = Self(Arc::new(Inner { kvm, fd, memory, source }));
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

    /// May steal time count the host's sleep, too?
    ///
    /// # Errors
    /// When KVM does not tell.
    #[cfg(target_arch = "x86_64")]
    pub fn may_count_sleep(&self) -> Result<bool> {
        arch::may_count_sleep(&self.0.kvm)
    }

    /// A vCPU at the start of the guest's code, made by the calling thread.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu> {
        let fd = self.create(id)?;
        arch::set_up(&self.0.kvm, &self.0.fd, &fd)?;
        Ok(self.vcpu(id, fd))
    }

    /// A vCPU that is to have no steal time; None where this kernel does not let a VMM enforce that.
    ///
    /// # Errors
    /// When KVM refuses.
    #[cfg(target_arch = "x86_64")]
    pub fn create_vcpu_without_steal_time(&self) -> Result<Option<Vcpu>> {
        if !arch::can_hide_steal_time(&self.0.fd) {
            return Ok(None);
        }
        let fd = self.create(0)?;
        arch::set_up_without_steal_time(&self.0.kvm, &fd)?;
        Ok(Some(self.vcpu(0, fd)))
    }

    fn create(&self, id: u64) -> Result<VcpuFd> {
        self.0.fd.create_vcpu(id).context("create a vCPU")
    }

    fn vcpu(&self, id: u64, fd: VcpuFd) -> Vcpu {
        Vcpu { fd, vm: self.clone(), area: guest::STEAL_AREA + id * guest::STEAL_AREA_BYTES }
    }
}

/// A vCPU; whoever owns it may use it.
pub struct Vcpu {
    fd: VcpuFd,
    vm: Vm,
    area: u64,
}

impl Vcpu {
    /// Enter the guest until it leaves to the VMM: one KVM_RUN.
    ///
    /// # Errors
    /// When the guest does anything else.
    pub fn run(&mut self) -> Result<()> {
        loop {
            match self.fd.run() {
                Ok(exit) if arch::is_exit(&exit) => return Ok(()),
                Ok(exit) => bail!("the guest left with {exit:?}"),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => bail!("KVM_RUN: {error}"),
            }
        }
    }

    /// Enable steal time in the vCPU's own area from the host side, as a VMM restoring a guest does; where that can be done
    /// but once and is, it stays.
    ///
    /// # Errors
    /// When KVM refuses the value.
    pub fn restore(&self) -> Result<()> {
        #[cfg(target_arch = "x86_64")]
        if self.vm.0.source == Source::XenRunstate {
            return arch::xen::set_area(&self.fd, self.area);
        }
        let value = arch::enabling(self.area);
        let accepted = self.set_enabling(value)? || (arch::SET_ONCE && self.enabling()? == value);
        ensure!(accepted, "KVM refuses {} = {value:#x}", Source::HERE.enabling());
        Ok(())
    }

    /// Bring a runstate of Xen's back: that much was stolen of so much time.
    ///
    /// # Errors
    /// When KVM refuses.
    #[cfg(target_arch = "x86_64")]
    pub fn restore_runstate(&self, running_ns: u64, stolen_ns: u64) -> Result<()> {
        arch::xen::set_times(&self.fd, running_ns, stolen_ns)?;
        self.restore()
    }

    /// Do what a VMM does so that its guest can enable steal time.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn offer(&self) -> Result<()> {
        if arch::TAKES_AN_OFFER { self.restore() } else { Ok(()) }
    }

    /// Write what enables steal time; does KVM accept the value?
    ///
    /// # Errors
    /// When the ioctl itself fails.
    pub fn set_enabling(&self, value: u64) -> Result<bool> {
        arch::set_enabling(&self.fd, value)
    }

    /// What enables steal time now.
    ///
    /// # Errors
    /// When KVM does not tell.
    pub fn enabling(&self) -> Result<u64> {
        arch::get_enabling(&self.fd)
    }

    /// Move the vCPU's own area; what enables steal time still points to the old one.
    pub fn set_area(&mut self, at: u64) {
        self.area = at;
    }

    /// Everything that a curious thread of a VMM may do to a vCPU: registers, segments and MSRs, read and written
    /// back. Leaves the vCPU as it was.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn read_and_write_back(&self) -> Result<()> {
        arch::read_and_write_back(&self.fd)
    }

    /// An ioctl that changes nothing: KVM_GET_REGS.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn read_registers(&self) -> Result<()> {
        arch::read_registers(&self.fd)
    }

    /// Its descriptor, for threads that only read from it.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Bring an older steal area back, as loading a snapshot does.
    pub fn set_steal_area(&self, area: StealArea) {
        self.vm.memory().set_steal_area(self.area, area);
    }

    /// What the guest sees.
    #[must_use]
    pub fn steal_area(&self) -> StealArea {
        self.vm.memory().area_of(self.vm.0.source, self.area)
    }

    /// One of KVM's own statistics of it; None if this kernel does not keep that.
    #[must_use]
    pub fn stat(&self, name: &str) -> Option<u64> {
        stats::stat(&self.fd, name)
    }

    /// Where the steal area lies in this process.
    #[must_use]
    pub fn host_address_of_area(&self) -> u64 {
        self.vm.memory().host_address() + self.area
    }

    /// Its VM.
    #[must_use]
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }
}
