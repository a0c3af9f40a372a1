//! The guest: a few real-mode instructions, and where things lie in its memory.

/// Bytes of guest memory.
pub(crate) const MEMORY_BYTES: usize = 0x10_000;
/// Where the code lies.
pub(crate) const CODE: u64 = 0x1000;
/// Where the steal areas lie: the first vCPU's, then the next's.
pub(crate) const STEAL_AREA: u64 = 0x2000;
/// `sizeof(struct kvm_steal_time)`, and how steal areas are aligned.
pub(crate) const STEAL_AREA_BYTES: u64 = 64;
/// Another place for a steal area.
pub(crate) const OTHER_AREA: u64 = 0x5000;
/// An address behind the guest's memory.
pub(crate) const UNBACKED: u64 = 0x10_0000;
/// [`SPIN`] ors the steal area's `preempted` into this byte.
pub(crate) const SEEN_PREEMPTED: u64 = 0x3000;
/// [`SPIN`] leaves to the VMM while this byte is not 0.
pub(crate) const STOP: u64 = 0x3002;
/// [`SPIN`] sets this byte to 1 first.
pub(crate) const STARTED: u64 = 0x3003;

/// One port exit per KVM_RUN, for ever.
pub(crate) const PORT_EXIT_LOOP: &[u8] = &[
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];

/// Enable steal time as a guest does, then as [`PORT_EXIT_LOOP`].
pub(crate) const ENABLE: &[u8] = &[
    0x66, 0xb9, 0x03, 0x4d, 0x56, 0x4b, // mov ecx, 0x4b564d03
    0x66, 0xb8, 0x01, 0x20, 0x00, 0x00, // mov eax, STEAL_AREA | 1
    0x66, 0x31, 0xd2, // xor edx, edx
    0x0f, 0x30, // wrmsr
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];

/// A port exit, disable steal time, a port exit, enable it, then as [`PORT_EXIT_LOOP`].
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
