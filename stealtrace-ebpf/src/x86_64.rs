//! What system calls look like on x86-64.

use crate::read::field;

/// `__NR_ioctl`
pub(crate) const IOCTL: u64 = 16;

/// Registers of the caller at a system call: the first three arguments.
#[inline(always)]
pub(crate) fn syscall_args(regs: u64) -> [u64; 3] {
    const DX: u32 = 12 * 8; // then si, di: struct pt_regs in arch/x86/include/uapi/asm/ptrace.h
    let [dx, si, di] = field(regs, DX);
    [di, si, dx]
}
