//! How `MSR_KVM_STEAL_TIME` is written: by the guest, or by the VMM in a list of MSRs. Where its area is, KVM remembers.

use core::mem::offset_of;

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use stealtrace_common::{
    kvm::KVM_SET_MSRS,
    layout::ABSENT,
    probe::Probe,
    source::here::{self, Counter, MAX_IO_MSRS, MSR},
    vcpu::{EnablingWrite, Snapshot},
};

use crate::{
    caller::watched,
    functions::Arguments,
    lifecycle,
    maps::given,
    quiet,
    read::{Structure, user, write},
};

/// The ioctl by which a VMM enables it.
pub(crate) const IOCTL: u32 = KVM_SET_MSRS;

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

/// Is this `struct msr_data` about it?
#[inline(always)]
fn is_about(msr: impl Structure) -> bool {
    msr.field::<u32>(given!(LAYOUT.msr_index)) == MSR
}

/// Does it come from the VMM?
#[inline(always)]
fn is_by_host(msr: impl Structure) -> bool {
    msr.field::<u8>(given!(LAYOUT.msr_host_initiated)) != 0
}

/// Where it stands in a user's `struct kvm_msrs`, counted from 1; 0 if it is not there. A function of its own: the verifier
/// checks it once, whoever calls it.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn position(msrs: u64) -> u32 {
    let count = user(msrs).unwrap_or_default();
    for i in 0..MAX_IO_MSRS {
        if i >= count {
            break;
        }
        match user(msrs + MSRS_HEADER + u64::from(i) * size_of::<MsrEntry>() as u64) {
            Some(MSR) => return i + 1,
            Some(_) => (),
            None => break,
        }
    }
    0
}

/// Did the ioctl that returns this, how many it wrote, write it?
#[inline(always)]
pub(crate) fn was_written(position: u32, ret: i64) -> bool {
    position != 0 && ret >= i64::from(position)
}

/// Is it known where KVM caches the area's host address?
#[inline(always)]
pub(crate) fn is_known() -> bool {
    given!(LAYOUT.vcpu_cached_area) != ABSENT
}

/// The host address KVM cached for the area, if that is for this value; else 0.
#[inline(always)]
pub(crate) fn address(_vcpu: impl Structure, msr: u64, [gpa, hva]: [u64; 2]) -> u64 {
    if gpa == here::area(msr) { hva } else { 0 }
}

/// Write as KVM does: the version is odd while the counter is not what it says. Even if the counter cannot be written, the
/// version is even in the end.
#[inline(always)]
pub(crate) fn rewrite(area: u64, after: &Snapshot, steal_ns: u64) -> bool {
    const VERSION: u64 = offset_of!(Counter, version) as u64;
    if !write(area + VERSION, after.version + 1) {
        return false;
    }
    let written = write(area, steal_ns);
    write(area + VERSION, after.version + 2) && written
}

/// `kvm_set_msr_common(struct kvm_vcpu *vcpu, struct msr_data *msr)`
#[kprobe]
pub(crate) fn set_msr(ctx: ProbeContext) -> u32 {
    writing(&ctx);
    0
}

/// The same by fentry.
#[fentry]
pub(crate) fn set_msr_fentry(ctx: FEntryContext) -> i32 {
    writing(&ctx);
    0
}

/// What follows from it shows when the vCPU is let go of.
#[inline(always)]
fn writing(ctx: &impl Arguments) {
    let vcpu = ctx.number(0);
    let msr = ctx.structure(1);
    if is_about(msr)
        && watched(Probe::SetMsr).is_some()
        && let Some(state) = lifecycle::find(vcpu)
    {
        quiet::enabling_written(vcpu);
        state.enabling_write = if is_by_host(msr) { EnablingWrite::HOST } else { EnablingWrite::GUEST };
    }
}
