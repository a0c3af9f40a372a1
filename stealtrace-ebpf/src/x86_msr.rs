//! How `MSR_KVM_STEAL_TIME` is written: by the guest, or by the VMM in a list of MSRs.

use stealtrace_common::source::x86_msr::{MAX_IO_MSRS, MSR};

use crate::{
    maps::given,
    read::{field, user},
};

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
pub(crate) fn is_about(msr: u64) -> bool {
    field::<u32>(msr, given!(LAYOUT.msr_index)) == MSR
}

/// Does it come from the VMM?
#[inline(always)]
pub(crate) fn is_by_host(msr: u64) -> bool {
    field::<u8>(msr, given!(LAYOUT.msr_host_initiated)) != 0
}

/// Where it stands in a user's `struct kvm_msrs`, counted from 1; 0 if it is not there.
#[inline(always)]
pub(crate) fn position(msrs: u64) -> u32 {
    let count: u32 = user(msrs).unwrap_or_default();
    let first = first(msrs, count);
    if first <= count { first } else { 0 }
}

/// Eight a round: the verifier compares every round with every other.
#[inline(always)]
fn first(msrs: u64, count: u32) -> u32 {
    for round in 0..MAX_IO_MSRS / 8 {
        let from = round * 8;
        if from >= count {
            break;
        }
        for i in [0, 1, 2, 3, 4, 5, 6, 7] {
            if is_at(msrs, from + i) {
                return from + i + 1;
            }
        }
    }
    0
}

#[inline(always)]
fn is_at(msrs: u64, i: u32) -> bool {
    user(msrs + MSRS_HEADER + u64::from(i) * size_of::<MsrEntry>() as u64) == Some(MSR)
}
