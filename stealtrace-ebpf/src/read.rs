//! Bounded reads of kernel and guest memory through LAYOUT: the only pointer arithmetic.
//! A read that fails yields zero or None; it never faults.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user, generated::bpf_get_current_task};
use stealtrace_common::{
    kvm::{self, MAX_IO_MSRS, MSR_KVM_STEAL_TIME},
    layout::ABSENT,
    vcpu::Snapshot,
};

use crate::maps::layout;

/// `struct kvm_steal_time`, as far as we read it (`arch/x86/include/uapi/asm/kvm_para.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct StealArea {
    steal_ns: u64,
    version: u32,
    flags: u32,
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

/// The value of a kernel field; 0 if it cannot be read.
#[inline(always)]
fn field<T: Default>(base: u64, offset: u32) -> T {
    // SAFETY: bpf_probe_read_kernel checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.unwrap_or_default()
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
    let at = layout();
    let mut now = Snapshot {
        run_delay_ns: field(current(), at.task_run_delay),
        last_steal_ns: field(vcpu, at.vcpu_last_steal),
        msr_val: field(vcpu, at.vcpu_msr_val),
        ..Snapshot::default()
    };
    if let Some(area) = steal_area(vcpu, now.msr_val) {
        now.steal_ns = area.steal_ns;
        now.version = area.version;
        now.readable = 1;
    }
    now
}

/// The guest's steal area, through the host address KVM cached for it (`arch.st.cache`),
/// if that cache is for the address in the MSR.
#[inline(always)]
fn steal_area(vcpu: u64, msr_val: u64) -> Option<StealArea> {
    let at = layout();
    if !kvm::msr_enabled(msr_val) || at.vcpu_cache_hva == ABSENT {
        return None;
    }
    if field::<u64>(vcpu, at.vcpu_cache_gpa) != msr_val & kvm::MSR_ADDRESS {
        return None;
    }
    let hva: u64 = field(vcpu, at.vcpu_cache_hva);
    // SAFETY: bpf_probe_read_user checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_user(hva as *const StealArea) }.ok()
}

/// `vcpu->kvm` and `vcpu->vcpu_id`.
#[inline(always)]
pub(crate) fn identity(vcpu: u64) -> (u64, u32) {
    let at = layout();
    (field(vcpu, at.vcpu_kvm), field(vcpu, at.vcpu_id))
}

/// Does the calling thread hold `vcpu->mutex`, as every vCPU ioctl does?
#[inline(always)]
pub(crate) fn holds_mutex(vcpu: u64) -> bool {
    const FLAGS: u64 = 7; // MUTEX_FLAGS in kernel/locking/mutex.c
    field::<u64>(vcpu, layout().vcpu_mutex_owner) & !FLAGS == current()
}

/// `file->private_data`: of a vCPU's file, its `struct kvm_vcpu *`.
#[inline(always)]
pub(crate) fn private_data(file: u64) -> u64 {
    field(file, layout().file_private_data)
}

/// The vCPU behind one of the caller's descriptors; 0 if it is not a vCPU's.
#[inline(always)]
pub(crate) fn vcpu_of_fd(fd: u32) -> u64 {
    let at = layout();
    let fdt: u64 = field(field(current(), at.task_files), at.files_fdt);
    if fd >= field(fdt, at.fdtable_max_fds) {
        return 0;
    }
    let files: u64 = field(fdt, at.fdtable_fd);
    let file: u64 = field(files + u64::from(fd) * 8, 0);
    let f_op: u64 = field(file, at.file_f_op);
    if at.kvm_vcpu_ioctl == 0 || field::<u64>(f_op, at.fops_unlocked_ioctl) != at.kvm_vcpu_ioctl {
        return 0;
    }
    private_data(file)
}

/// Index and host_initiated of a `struct msr_data`.
#[inline(always)]
pub(crate) fn msr_data(msr: u64) -> (u32, bool) {
    let at = layout();
    let host_initiated: u8 = field(msr, at.msr_host_initiated);
    (field(msr, at.msr_index), host_initiated != 0)
}

/// `task->tgid`.
#[inline(always)]
pub(crate) fn tgid(task: u64) -> u32 {
    field(task, layout().task_tgid)
}

/// Registers of the caller at a system call: `orig_ax`, `di`, `si`, `dx` of `struct pt_regs`.
#[inline(always)]
pub(crate) fn syscall_args(regs: u64) -> (u32, u32, u64) {
    const DX: u32 = 12 * 8; // struct pt_regs in arch/x86/include/uapi/asm/ptrace.h
    const SI: u32 = 13 * 8;
    const DI: u32 = 14 * 8;
    (field::<u64>(regs, DI) as u32, field::<u64>(regs, SI) as u32, field(regs, DX))
}

/// Where the steal MSR stands in a user's `struct kvm_msrs`, counted from 1; 0 if it is not there.
#[inline(always)]
pub(crate) fn steal_msr_position(msrs: u64) -> u32 {
    // SAFETY: bpf_probe_read_user checks the address and fails instead of faulting.
    let count: u32 = unsafe { bpf_probe_read_user(msrs as *const u32) }.unwrap_or_default();
    for i in 0..MAX_IO_MSRS {
        if i >= count {
            break;
        }
        let entry = msrs + MSRS_HEADER + u64::from(i) * size_of::<MsrEntry>() as u64;
        // SAFETY: as above.
        let index: u32 = unsafe { bpf_probe_read_user(entry as *const u32) }.unwrap_or_default();
        if index == MSR_KVM_STEAL_TIME {
            return i + 1;
        }
    }
    0
}
