//! The guest: real-mode code that leaves to the VMM at once, and where things lie in its memory.

/// Bytes of guest memory.
pub(crate) const MEMORY_BYTES: usize = 0x10_000;
/// Where the code lies.
pub(crate) const CODE: u64 = 0x1000;
/// Where the steal area lies (64-byte aligned, in one page).
pub(crate) const STEAL_AREA: u64 = 0x2000;

/// One port exit per KVM_RUN, for ever.
pub(crate) const PORT_EXIT_LOOP: &[u8] = &[
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];
