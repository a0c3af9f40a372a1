//! How `MSR_KVM_STEAL_TIME` is written: by the guest, or by the VMM in a list of MSRs.

use stealtrace_common::source::x86_msr::{MAX_IO_MSRS, MSR};

use crate::{
    maps::given,
    read::{Structure, user},
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
pub(crate) fn is_about(msr: impl Structure) -> bool {
    msr.field::<u32>(given!(LAYOUT.msr_index)) == MSR
}

/// Does it come from the VMM?
#[inline(always)]
pub(crate) fn is_by_host(msr: impl Structure) -> bool {
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
