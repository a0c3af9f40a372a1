//! Guest memory, and the steal areas in it as the guest would read them.

use std::{io, ptr::NonNull};

use anyhow::{Context as _, Result, ensure};

pub use stealtrace_common::source::Area as StealArea;
use stealtrace_common::source::{Source, here, xen_runstate};

use super::guest;

/// Memory of a guest, mapped here; unmapped when dropped.
#[derive(Debug)]
pub struct GuestMemory {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to the value alone, and all access is volatile: KVM and the guest write it too.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Zeroed memory with this code in it.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub fn new(code: &[u8]) -> Result<Self> {
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
        let memory = Self { base: NonNull::new(address.cast()).context("guest memory at address 0")? };
        (guest::CODE..).zip(code).for_each(|(at, byte)| memory.set(at, *byte));
        Ok(memory)
    }

    /// The same content elsewhere.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub fn copied(&self) -> Result<Self> {
        let copy = Self::new(&[])?;
        // SAFETY: two mappings of MEMORY_BYTES each; no vCPU of this VM is running.
        unsafe { copy.base.as_ptr().copy_from_nonoverlapping(self.base.as_ptr(), guest::MEMORY_BYTES) };
        Ok(copy)
    }

    /// Where it lies in this process.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// A byte.
    #[must_use]
    pub fn byte(&self, at: u64) -> u8 {
        // SAFETY: `at` checks the bounds.
        unsafe { self.at::<u8>(at).read_volatile() }
    }

    /// Write a byte, or several.
    pub fn set<T>(&self, at: u64, value: T) {
        // SAFETY: `at` checks the bounds and alignment.
        unsafe { self.at::<T>(at).write_volatile(value) };
    }

    /// The steal area at this address, as it is now.
    #[must_use]
    pub fn steal_area(&self, at: u64) -> StealArea {
        self.area_of(Source::HERE, at)
    }

    /// The area of this source.
    pub(crate) fn area_of(&self, source: Source, at: u64) -> StealArea {
        let [counter, _] = xen_runstate::COUNTER;
        let at = if source == Source::XenRunstate { at + counter } else { at };
        // SAFETY: `at` checks the bounds and alignment.
        source.read(&unsafe { self.at::<[u8; here::BYTES]>(at).read_volatile() })
    }

    /// Write one there.
    pub fn set_steal_area(&self, at: u64, area: StealArea) {
        self.set(at, here::write(&area));
    }

    /// Addresses are constants of this VMM; one outside of memory is a mistake of ours.
    fn at<T>(&self, at: u64) -> *mut T {
        let at = at as usize;
        assert!(at + size_of::<T>() <= guest::MEMORY_BYTES && at.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping, which is aligned to a page.
        unsafe { self.base.as_ptr().add(at) }.cast()
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, used by nobody after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), guest::MEMORY_BYTES) };
    }
}
