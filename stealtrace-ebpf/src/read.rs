//! Bounded reads of kernel and guest memory through LAYOUT: the only pointer arithmetic.
//! A read that fails yields zero or None; it never faults.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user,
    bpf_probe_write_user,
};
use stealtrace_common::{
    target::{OUTSIDE, PidNamespace, until_zero},
    vcpu::{ThreadState, VcpuState},
};

use crate::maps::{VCPU_FILE_OPERATIONS, given};

/// `struct fdtable` from `max_fds` on.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FdTable {
    max_fds: u32,
    padding: u32,
    files: u64,
}

/// `fdtable.fd` after `max_fds`.
const FD_AFTER_MAX_FDS: u32 = 8;

/// What may be read from memory that nobody checked.
///
/// # Safety
/// Any bytes must be a value of the type, as they are of integers.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u16 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: as plain as what it consists of.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: integers without padding.
unsafe impl Plain for FdTable {}
// SAFETY: integers without padding.
unsafe impl Plain for VcpuState {}
// SAFETY: integers without padding.
unsafe impl Plain for ThreadState {}

/// The value of a kernel field; 0 if it cannot be read.
#[inline(always)]
pub(crate) fn field<T: Plain>(base: u64, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let from = (base + u64::from(offset)) as *const c_void;
    // SAFETY: the helper checks the address and fails instead of faulting; it then fills the value with zeros.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        value.assume_init()
    }
}

/// What lies at a user's address, if it can be read.
#[inline(always)]
pub(crate) fn user<T: Plain>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in `field`.
    unsafe {
        let result =
            bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void);
        if result == 0 { Some(value.assume_init()) } else { None }
    }
}

/// Write to the caller's memory; was it written?
#[inline(always)]
pub(crate) fn write<T: Plain>(address: u64, value: T) -> bool {
    // SAFETY: the helper checks the address and fails instead of faulting.
    let result = unsafe {
        bpf_probe_write_user(address as *mut c_void, (&raw const value).cast(), size_of::<T>() as u32)
    };
    result == 0
}

/// The same, zeros if it cannot be read, and 1 if it can, else 0: by arithmetic, since the verifier follows each branch to
/// the end of the program.
#[inline(always)]
pub(crate) fn user_or_zeros<T: Plain>(address: u64) -> (T, u32) {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in `field`.
    unsafe {
        let result =
            bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void);
        (value.assume_init(), ((result >> 63) + 1) as u32)
    }
}

/// All zeros. Not by memset, which the verifier follows byte by byte.
#[inline(always)]
pub(crate) fn zeroed<T: Plain>(place: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let words = place.as_mut_ptr().cast::<u64>();
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: within the place, which has whole words.
        unsafe { words.add(i).write_volatile(0) };
    }
    // SAFETY: it was written, and any bytes will do.
    unsafe { place.assume_init_mut() }
}

/// `current`.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper has no arguments and always succeeds.
    unsafe { bpf_get_current_task() }
}

/// Does the kernel know the type of `current`? The verifier knows, too, and follows only what is so.
#[inline(always)]
fn current_is_typed() -> bool {
    given!(LAYOUT.current_is_typed) != 0
}

/// `current`, where the kernel knows its type.
#[inline(always)]
fn typed_current() -> Typed {
    // SAFETY: the helper has no arguments and always succeeds.
    Typed(unsafe { bpf_get_current_task_btf() }.cast())
}

/// A structure in the kernel's memory.
pub(crate) trait Structure: Copy {
    /// The value of a field; 0 if it cannot be read.
    fn field<T: Plain>(self, offset: u32) -> T;

    /// An address in a field, as a number to the verifier, too.
    #[cfg_attr(
        bpf_target_arch = "x86_64",
        expect(dead_code, reason = "the area is found by what is beside it")
    )]
    fn number(self, offset: u32) -> u64;

    /// Two pairs of words.
    #[inline(always)]
    fn pairs(self, first: u32, second: u32) -> [[u64; 2]; 2] {
        [self.field(first), self.field(second)]
    }
}

/// By its address alone: anybody's, and read with a check.
impl Structure for u64 {
    #[inline(always)]
    fn field<T: Plain>(self, offset: u32) -> T {
        field(self, offset)
    }

    #[inline(always)]
    fn number(self, offset: u32) -> u64 {
        field(self, offset)
    }

    /// At once where only one word lies between them: a check costs more than what it reads.
    #[inline(always)]
    fn pairs(self, first: u32, second: u32) -> [[u64; 2]; 2] {
        if second != first + 24 {
            return [self.field(first), self.field(second)];
        }
        let [a, b, _between, c, d]: [u64; 5] = self.field(first);
        [[a, b], [c, d]]
    }
}

/// One that the kernel knows the type of.
#[derive(Clone, Copy)]
pub(crate) struct Typed(*const u8);

impl Structure for Typed {
    /// By a load, which fails instead of faulting.
    #[inline(always)]
    fn field<T: Plain>(self, offset: u32) -> T {
        // SAFETY: the verifier lets pass only what is a field of this type.
        unsafe { self.0.byte_add(offset as usize).cast::<T>().read_volatile() }
    }

    #[inline(always)]
    fn number(self, offset: u32) -> u64 {
        field(self.0.addr() as u64, offset)
    }
}

impl Typed {
    #[inline(always)]
    fn is_none(self) -> bool {
        self.0.is_null()
    }

    /// What the kernel handed over as a pointer of its type.
    #[inline(always)]
    pub(crate) const fn new(structure: *const c_void) -> Self {
        Self(structure.cast())
    }

    /// What a field points to.
    #[inline(always)]
    fn behind(self, offset: u32) -> Self {
        // SAFETY: as in `field`.
        Self(unsafe { self.0.byte_add(offset as usize).cast::<*const u8>().read_volatile() })
    }
}

/// The value of a field of `current`.
#[inline(always)]
fn of_current<T: Plain>(offset: u32) -> T {
    if current_is_typed() { typed_current().field(offset) } else { field(current(), offset) }
}

/// The caller's run_delay.
#[inline(always)]
pub(crate) fn run_delay_ns() -> u64 {
    of_current(given!(LAYOUT.task_run_delay))
}

/// The caller's `mm`.
#[inline(always)]
pub(crate) fn own_mm() -> u64 {
    of_current(given!(LAYOUT.task_mm))
}

/// The caller's name, zero-padded: as bytes, or as words like [`stealtrace_common::target::Target::comm`]. Not by the helper,
/// which costs as much as a hash look-up.
#[inline(always)]
pub(crate) fn comm<T: Plain>() -> T {
    const { assert!(size_of::<T>() == 16) };
    let offset = given!(LAYOUT.task_comm);
    let name = until_zero([of_current(offset), of_current(offset + 8)]);
    // SAFETY: of the same size, and any bytes will do.
    unsafe { core::mem::transmute_copy(&name) }
}

/// The thread that issued KVM_RUN last; 0 if none did.
#[inline(always)]
pub(crate) fn runner(vcpu: u64) -> u32 {
    let pid: u64 = field(vcpu, given!(LAYOUT.vcpu_pid));
    if pid == 0 { 0 } else { number(pid) }
}

/// Its run_delay; 0 if no thread did, or it has ended.
#[inline(always)]
pub(crate) fn runners_run_delay_ns(vcpu: u64) -> u64 {
    let pid: u64 = field(vcpu, given!(LAYOUT.vcpu_pid));
    let link: u64 = if pid == 0 { 0 } else { field(pid, given!(LAYOUT.pid_tasks)) };
    if link == 0 {
        return 0;
    }
    field(link - u64::from(given!(LAYOUT.task_pid_links)), given!(LAYOUT.task_run_delay))
}

/// When the caller's process began.
#[inline(always)]
pub(crate) fn process_start_ns() -> u64 {
    field(field(current(), given!(LAYOUT.task_group_leader)), given!(LAYOUT.task_start_time))
}

/// `vcpu->kvm` and `vcpu->vcpu_id`.
#[inline(always)]
pub(crate) fn identity(vcpu: u64) -> (u64, u32) {
    (field(vcpu, given!(LAYOUT.vcpu_kvm)), field(vcpu, given!(LAYOUT.vcpu_id)))
}

/// `vm->mm`, whose ioctls on its vCPUs KVM obeys: it refuses those of all others with EIO.
#[inline(always)]
pub(crate) fn mm(vm: u64) -> u64 {
    field(vm, given!(LAYOUT.kvm_mm))
}

/// Is this the vCPU of a VM of the task's process?
#[inline(always)]
pub(crate) fn owns(task: u64, vcpu: u64) -> bool {
    mm(field(vcpu, given!(LAYOUT.vcpu_kvm))) == field(task, given!(LAYOUT.task_mm))
}

/// Was the calling thread, which ends, the last of its process?
#[inline(always)]
pub(crate) fn is_last_thread() -> bool {
    field::<u32>(field(current(), given!(LAYOUT.task_signal)), given!(LAYOUT.signal_live)) == 0
}

/// Does the calling thread hold `vcpu->mutex`, as every vCPU ioctl does?
#[inline(always)]
pub(crate) fn holds_mutex(vcpu: impl Structure) -> bool {
    const FLAGS: u64 = 7; // MUTEX_FLAGS in kernel/locking/mutex.c
    vcpu.field::<u64>(given!(LAYOUT.vcpu_mutex_owner)) & !FLAGS == current()
}

/// Was the thread that lets go of it scheduled out against its will? It goes on where it was.
#[inline(always)]
pub(crate) fn is_preempted(vcpu: u64) -> bool {
    field::<u8>(vcpu, given!(LAYOUT.vcpu_preempted)) != 0
}

/// `file->private_data`: of a vCPU's file, its `struct kvm_vcpu *`.
#[inline(always)]
pub(crate) fn private_data(file: impl Structure) -> u64 {
    file.field(given!(LAYOUT.file_private_data))
}

/// The file behind one of the caller's descriptors; 0 if there is none.
#[inline(always)]
pub(crate) fn file_of_fd(fd: u32) -> u64 {
    let table = fd_table();
    if fd >= table.max_fds { 0 } else { field(table.files + u64::from(fd) * 8, 0) }
}

/// The caller's table of open files.
#[inline(always)]
fn fd_table() -> FdTable {
    let (files, fdt) = (given!(LAYOUT.task_files), given!(LAYOUT.files_fdt));
    let max_fds = given!(LAYOUT.fdtable_max_fds);
    if !current_is_typed() {
        return field(field(field(current(), files), fdt), max_fds);
    }
    let files = typed_current().behind(files);
    if files.is_none() {
        return FdTable::default();
    }
    let fdt = files.behind(fdt);
    if fdt.is_none() {
        return FdTable::default();
    }
    FdTable { max_fds: fdt.field(max_fds), padding: 0, files: fdt.field(max_fds + FD_AFTER_MAX_FDS) }
}

/// The vCPU behind one of the caller's descriptors; 0 if it is not a vCPU's.
#[inline(always)]
pub(crate) fn vcpu_of_fd(fd: u32) -> u64 {
    vcpu_of_file(file_of_fd(fd))
}

/// The vCPU behind an open file; 0 if it is not a vCPU's.
#[inline(always)]
pub(crate) fn vcpu_of_file(file: u64) -> u64 {
    if is_vcpu(file) { private_data(file) } else { 0 }
}

/// Is it a vCPU's file? Once one was seen, its `f_op` tells.
#[inline(always)]
pub(crate) fn is_vcpu(file: u64) -> bool {
    let f_op: u64 = field(file, given!(LAYOUT.file_f_op));
    let kvm_vcpu_ioctl = given!(LAYOUT.kvm_vcpu_ioctl);
    let known = &raw mut VCPU_FILE_OPERATIONS;
    // SAFETY: a valid static, read as a whole.
    if f_op != 0 && f_op == unsafe { known.read_volatile() } {
        return true;
    }
    let is_vcpu =
        kvm_vcpu_ioctl != 0 && field::<u64>(f_op, given!(LAYOUT.fops_unlocked_ioctl)) == kvm_vcpu_ioctl;
    if is_vcpu {
        // SAFETY: a valid static, written as a whole.
        unsafe { known.write_volatile(f_op) };
    }
    is_vcpu
}

/// The thread's number in stealtrace's PID namespace.
#[inline(always)]
pub(crate) fn tid(task: u64) -> u32 {
    number(field(task, given!(LAYOUT.task_thread_pid)))
}

/// The process's number in stealtrace's PID namespace.
#[inline(always)]
pub(crate) fn tgid(task: u64) -> u32 {
    tid(field(task, given!(LAYOUT.task_group_leader)))
}

/// Is there nothing to translate? The verifier knows.
#[inline(always)]
pub(crate) fn is_namespace_initial() -> bool {
    given!(TARGET.namespace.level) == 0
}

/// `struct upid` (`include/linux/pid.h`): the number that a `struct pid` has in one namespace.
const UPID_BYTES: u32 = 16;

/// The number of a `struct pid` in stealtrace's PID namespace, or in the initial one, marked, if it has none there.
#[inline(always)]
fn number(pid: u64) -> u32 {
    let numbers = given!(LAYOUT.pid_numbers);
    let level = given!(TARGET.namespace.level);
    if level == 0 {
        return field(pid, numbers);
    }
    if field::<u32>(pid, given!(LAYOUT.pid_level)) >= level {
        let [number, namespace]: [u64; 2] = field(pid, numbers + level * UPID_BYTES);
        if namespace == given!(TARGET.namespace.address) {
            return number as u32;
        }
    }
    field::<u32>(pid, numbers) | OUTSIDE
}

/// The PID namespace that the caller lives in.
#[inline(always)]
pub(crate) fn pid_namespace() -> PidNamespace {
    let pid: u64 = field(current(), given!(LAYOUT.task_thread_pid));
    let level: u32 = field(pid, given!(LAYOUT.pid_level));
    let [_, address]: [u64; 2] = field(pid, given!(LAYOUT.pid_numbers) + level * UPID_BYTES);
    PidNamespace { address, level, inode: field(address, given!(LAYOUT.pid_namespace_inode)) }
}
