//! Bounded reads of kernel and guest memory through LAYOUT: the only pointer arithmetic.
//! A read that fails yields zero or None; it never faults.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user};
use stealtrace_common::{
    kvm::{self, MAX_IO_MSRS, MSR_KVM_STEAL_TIME},
    layout::ABSENT,
    target::{OUTSIDE, PidNamespace},
    vcpu::Snapshot,
};

use crate::maps::given;

/// `struct kvm_steal_time`, as far as we read it (`arch/x86/include/uapi/asm/kvm_para.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct StealArea {
    steal_ns: u64,
    version: u32,
    flags: u32,
}

/// `struct fdtable` from `max_fds` on.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FdTable {
    max_fds: u32,
    padding: u32,
    files: u64,
}

/// `struct kvm_msr_entry` (`arch/x86/include/uapi/asm/kvm.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct MsrEntry {
    index: u32,
    reserved: u32,
    data: u64,
}

/// `struct kvm_msrs` before its entries: `nmsrs` and a pad word.
const MSRS_HEADER: u64 = 8;

/// What may be read from memory that nobody checked.
///
/// # Safety
/// Any bytes must be a value of the type, as they are of integers.
unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers.
unsafe impl<const N: usize> Plain for [u64; N] {}
// SAFETY: integers without padding.
unsafe impl Plain for FdTable {}
// SAFETY: integers without padding.
unsafe impl Plain for StealArea {}

/// The value of a kernel field; 0 if it cannot be read.
#[inline(always)]
fn field<T: Plain>(base: u64, offset: u32) -> T {
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
fn user<T: Plain>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in `field`.
    unsafe {
        let result =
            bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void);
        if result == 0 { Some(value.assume_init()) } else { None }
    }
}

/// `current`.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper has no arguments and always succeeds.
    unsafe { bpf_get_current_task() }
}

/// What is true now of this vCPU and the calling thread.
#[inline(always)]
pub(crate) fn snapshot(vcpu: u64) -> Snapshot {
    let (msr_val, last_steal_ns) = steal_time(vcpu);
    let now = Snapshot { run_delay_ns: run_delay_ns(), last_steal_ns, msr_val, ..Snapshot::default() };
    with_area(&now, vcpu, msr_val)
}

/// The same, with what stands in the area of this MSR value, if that can be read and nothing is known yet.
#[inline(always)]
pub(crate) fn with_area(now: &Snapshot, vcpu: u64, msr_val: u64) -> Snapshot {
    let mut now = *now;
    if now.readable == 0
        && let Some(area) = steal_area(vcpu, msr_val)
    {
        now.steal_ns = area.steal_ns;
        now.version = area.version;
        now.readable = 1;
    }
    now
}

/// The caller's run_delay.
#[inline(always)]
pub(crate) fn run_delay_ns() -> u64 {
    field(current(), given!(LAYOUT.task_run_delay))
}

/// `msr_val` and `last_steal`.
#[inline(always)]
pub(crate) fn steal_time(vcpu: u64) -> (u64, u64) {
    let [msr_val, last_steal_ns] = field(vcpu, given!(LAYOUT.vcpu_msr_val));
    (msr_val, last_steal_ns)
}

/// Is it known where KVM caches the host address of the guest's steal area?
#[inline(always)]
pub(crate) fn can_read_steal_area() -> bool {
    given!(LAYOUT.vcpu_cache_gpa) != ABSENT
}

/// The guest's steal area, through the host address KVM cached for it, if that is for the address in the MSR.
#[inline(always)]
fn steal_area(vcpu: u64, msr_val: u64) -> Option<StealArea> {
    match steal_area_address(vcpu, msr_val) {
        0 => None,
        address => user(address),
    }
}

/// The host address KVM cached for the guest's steal area, if that is for the address in the MSR; else 0.
#[inline(always)]
pub(crate) fn steal_area_address(vcpu: u64, msr_val: u64) -> u64 {
    if !kvm::msr_enabled(msr_val) || !can_read_steal_area() {
        return 0;
    }
    let [gpa, hva] = field(vcpu, given!(LAYOUT.vcpu_cache_gpa));
    if gpa == msr_val & kvm::MSR_ADDRESS { hva } else { 0 }
}

/// The thread that issued KVM_RUN last; 0 if none did.
#[inline(always)]
pub(crate) fn runner(vcpu: u64) -> u32 {
    let pid: u64 = field(vcpu, given!(LAYOUT.vcpu_pid));
    if pid == 0 { 0 } else { number(pid) }
}

/// Does this kernel keep the delta of a load until guest entry?
#[inline(always)]
pub(crate) fn accumulates() -> bool {
    given!(LAYOUT.vcpu_accum_steal) != ABSENT
}

/// The delta of the last load, on kernels that keep it until guest entry; else 0.
#[inline(always)]
pub(crate) fn accumulated(vcpu: u64) -> u64 {
    if accumulates() { field(vcpu, given!(LAYOUT.vcpu_accum_steal)) } else { 0 }
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

/// Is this the vCPU of a VM of the task's process? KVM refuses the ioctls of all others with EIO.
#[inline(always)]
pub(crate) fn owns(task: u64, vcpu: u64) -> bool {
    let kvm: u64 = field(vcpu, given!(LAYOUT.vcpu_kvm));
    let mm: u64 = field(kvm, given!(LAYOUT.kvm_mm));
    mm == field(task, given!(LAYOUT.task_mm))
}

/// Was the calling thread, which ends, the last of its process?
#[inline(always)]
pub(crate) fn is_last_thread() -> bool {
    field::<u32>(field(current(), given!(LAYOUT.task_signal)), given!(LAYOUT.signal_live)) == 0
}

/// Does the calling thread hold `vcpu->mutex`, as every vCPU ioctl does?
#[inline(always)]
pub(crate) fn holds_mutex(vcpu: u64) -> bool {
    const FLAGS: u64 = 7; // MUTEX_FLAGS in kernel/locking/mutex.c
    field::<u64>(vcpu, given!(LAYOUT.vcpu_mutex_owner)) & !FLAGS == current()
}

/// `file->private_data`: of a vCPU's file, its `struct kvm_vcpu *`.
#[inline(always)]
pub(crate) fn private_data(file: u64) -> u64 {
    field(file, given!(LAYOUT.file_private_data))
}

/// The vCPU behind one of the caller's descriptors; 0 if it is not a vCPU's.
#[inline(always)]
pub(crate) fn vcpu_of_fd(fd: u32) -> u64 {
    let fdt: u64 = field(field(current(), given!(LAYOUT.task_files)), given!(LAYOUT.files_fdt));
    let table: FdTable = field(fdt, given!(LAYOUT.fdtable_max_fds));
    if fd >= table.max_fds {
        return 0;
    }
    let file: u64 = field(table.files + u64::from(fd) * 8, 0);
    vcpu_of_file(file)
}

/// The vCPU behind an open file; 0 if it is not a vCPU's.
#[inline(always)]
pub(crate) fn vcpu_of_file(file: u64) -> u64 {
    let f_op: u64 = field(file, given!(LAYOUT.file_f_op));
    let kvm_vcpu_ioctl = given!(LAYOUT.kvm_vcpu_ioctl);
    if kvm_vcpu_ioctl == 0 || field::<u64>(f_op, given!(LAYOUT.fops_unlocked_ioctl)) != kvm_vcpu_ioctl {
        return 0;
    }
    private_data(file)
}

/// Index and host_initiated of a `struct msr_data`.
#[inline(always)]
pub(crate) fn msr_data(msr: u64) -> (u32, bool) {
    let host_initiated: u8 = field(msr, given!(LAYOUT.msr_host_initiated));
    (field(msr, given!(LAYOUT.msr_index)), host_initiated != 0)
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

/// Registers of the caller at a system call: the first three arguments.
#[inline(always)]
pub(crate) fn syscall_args(regs: u64) -> [u64; 3] {
    const DX: u32 = 12 * 8; // then si, di: struct pt_regs in arch/x86/include/uapi/asm/ptrace.h
    let [dx, si, di] = field(regs, DX);
    [di, si, dx]
}

/// Where the steal MSR stands in a user's `struct kvm_msrs`, counted from 1; 0 if it is not there.
#[inline(always)]
pub(crate) fn steal_msr_position(msrs: u64) -> u32 {
    let count: u32 = user(msrs).unwrap_or_default();
    let position = first_steal_msr(msrs, count);
    if position <= count { position } else { 0 }
}

/// Eight a round: the verifier compares every round with every other.
#[inline(always)]
fn first_steal_msr(msrs: u64, count: u32) -> u32 {
    for round in 0..MAX_IO_MSRS / 8 {
        let first = round * 8;
        if first >= count {
            break;
        }
        for i in [0, 1, 2, 3, 4, 5, 6, 7] {
            if is_steal_msr(msrs, first + i) {
                return first + i + 1;
            }
        }
    }
    0
}

#[inline(always)]
fn is_steal_msr(msrs: u64, i: u32) -> bool {
    user(msrs + MSRS_HEADER + u64::from(i) * size_of::<MsrEntry>() as u64) == Some(MSR_KVM_STEAL_TIME)
}
