//! Guest memory, and the steal area in it as the guest would read it.

use std::{io, ptr::NonNull, slice};

use anyhow::{Context as _, Result, ensure};

use super::guest;

/// `struct kvm_steal_time` (`arch/x86/include/uapi/asm/kvm_para.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StealArea {
    /// Nanoseconds the vCPU was ready but did not run.
    pub steal_ns: u64,
    /// Odd while KVM writes.
    pub version: u32,
    /// 0.
    pub flags: u32,
    /// Is the vCPU scheduled out?
    pub preempted: u8,
}

/// Memory of a guest, mapped here; unmapped when dropped.
#[derive(Debug)]
pub struct GuestMemory {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to the value alone, and all access is through volatile reads or before the guest runs.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Zeroed memory with the guest's code in it.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                guest::MEMORY_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, // resident, as a restored guest is
                -1,
                0,
            )
        };
        ensure!(address != libc::MAP_FAILED, "map guest memory: {}", io::Error::last_os_error());
        let base = NonNull::new(address.cast()).context("guest memory at address 0")?;
        let mut memory = Self { base };
        memory.write(guest::CODE, guest::PORT_EXIT_LOOP)?;
        Ok(memory)
    }

    /// Where it lies in this process.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let at = usize::try_from(at)?;
        // SAFETY: `base` maps MEMORY_BYTES bytes, ours alone through `&mut self`.
        let memory = unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), guest::MEMORY_BYTES) };
        let target = memory.get_mut(at..at + bytes.len()).context("outside guest memory")?;
        target.copy_from_slice(bytes);
        Ok(())
    }

    /// The steal area as it is now.
    #[must_use]
    pub fn steal_area(&self) -> StealArea {
        // SAFETY: inside the mapping and aligned to 64; volatile because KVM writes it.
        unsafe { self.area().read_volatile() }
    }

    /// Overwrite the steal area.
    pub fn set_steal_area(&self, area: StealArea) {
        // SAFETY: as in `steal_area`; the one vCPU that uses it is not running.
        unsafe { self.area().write_volatile(area) };
    }

    fn area(&self) -> *mut StealArea {
        const { assert!(guest::STEAL_AREA as usize + size_of::<StealArea>() <= guest::MEMORY_BYTES) };
        // SAFETY: inside the mapping (asserted above).
        unsafe { self.base.as_ptr().add(guest::STEAL_AREA as usize) }.cast()
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, used by nobody after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), guest::MEMORY_BYTES) };
    }
}
