//! What system calls look like on arm64.

use crate::read::field;

/// `__NR_ioctl`
pub(crate) const IOCTL: u64 = 29;

/// Registers of the caller at a system call: the first three arguments.
#[inline(always)]
pub(crate) fn syscall_args(regs: u64) -> [u64; 3] {
    const X0: u32 = 0; // then x1, x2: struct user_pt_regs in arch/arm64/include/uapi/asm/ptrace.h
    field(regs, X0)
}
