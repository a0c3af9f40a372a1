//! How the VMM of a guest of Xen says where its runstate lies, and what it is; and what KVM keeps of that. The steal time is
//! read where KVM counts it: the guest gets a copy with each change.

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use stealtrace_common::{
    kvm::KVM_XEN_VCPU_SET_ATTR,
    layout::ABSENT,
    probe::Probe,
    source::xen_runstate::{self, COUNTER, RUNNING, RUNSTATE_ADDR, RUNSTATE_DATA},
    vcpu::{EnablingWrite, Snapshot},
};

use crate::{
    caller::watched,
    functions::Arguments,
    lifecycle,
    maps::given,
    quiet,
    read::{Structure, field, run_delay_ns, user},
};

/// The ioctl by which a VMM enables it.
pub(crate) const IOCTL: u32 = KVM_XEN_VCPU_SET_ATTR;

/// 1 if a user's `struct kvm_xen_vcpu_attr`, which begins with its type, is about it, else 0.
#[inline(always)]
pub(crate) fn position(attr: u64) -> u32 {
    u32::from(user::<u16>(attr).is_some_and(is_about))
}

/// Where it lies, and what it is: then KVM takes the caller's run_delay for last_steal. What else is set of a runstate makes
/// KVM account for it as guest entry does.
#[inline(always)]
fn is_about(kind: u16) -> bool {
    kind == RUNSTATE_ADDR || kind == RUNSTATE_DATA
}

/// What enables it; 0 if nothing does.
#[inline(always)]
pub(crate) fn enabling(vcpu: impl Structure) -> u64 {
    if given!(LAYOUT.vcpu_xen_times) == ABSENT || vcpu.field::<u8>(given!(LAYOUT.vcpu_xen_active)) == 0 {
        return 0;
    }
    xen_runstate::enabling(vcpu.field(given!(LAYOUT.vcpu_xen_area)))
}

/// `last_steal`
#[inline(always)]
pub(crate) fn last_steal_ns(vcpu: impl Structure) -> u64 {
    vcpu.field(given!(LAYOUT.vcpu_xen_times))
}

/// What is true now. KVM subtracts only from a vCPU that it takes for running: what another one's `last_steal` says, the
/// caller has nothing to do with.
#[inline(always)]
pub(crate) fn snapshot(vcpu: impl Structure, enabling: u64, run_delay_ns: u64) -> Snapshot {
    let [last_steal_ns, entry_ns, _running, steal_ns]: [u64; 4] = vcpu.field(given!(LAYOUT.vcpu_xen_times));
    let state: u32 = vcpu.field(given!(LAYOUT.vcpu_xen_state));
    let charges = state == RUNNING && entry_ns != 0;
    let last_steal_ns = if charges { last_steal_ns } else { run_delay_ns };
    Snapshot { run_delay_ns, last_steal_ns, enabling, steal_ns, version: 0, readable: 1 }
}

/// What KVM subtracts next, if it takes the vCPU for running; else 0.
#[inline(always)]
pub(crate) fn subtracted_next(vcpu: u64) -> u64 {
    let [last_steal_ns, entry_ns]: [u64; 2] = field(vcpu, given!(LAYOUT.vcpu_xen_times));
    let state: u32 = field(vcpu, given!(LAYOUT.vcpu_xen_state));
    if given!(LAYOUT.vcpu_xen_times) != ABSENT && state == RUNNING && entry_ns != 0 {
        last_steal_ns
    } else {
        0
    }
}

/// The host address of the guest's own copy of the counter.
#[inline(always)]
pub(crate) fn address(vcpu: u64) -> u64 {
    const IN_PAGE: u64 = 0xfff;
    let [gpa, hva]: [u64; 2] = field(vcpu, given!(LAYOUT.vcpu_xen_area));
    let kvm: u64 = field(vcpu, given!(LAYOUT.vcpu_kvm));
    let is_long = field::<u8>(kvm, given!(LAYOUT.kvm_xen_long_mode)) != 0;
    (hva & !IN_PAGE) + (gpa & IN_PAGE) + COUNTER[usize::from(!is_long)]
}

/// `kvm_xen_vcpu_set_attr(struct kvm_vcpu *vcpu, struct kvm_xen_vcpu_attr *data)`
#[kprobe]
pub(crate) fn xen_set(ctx: ProbeContext) -> u32 {
    setting(&ctx);
    0
}

/// The same by fentry.
#[fentry]
pub(crate) fn xen_set_fentry(ctx: FEntryContext) -> i32 {
    setting(&ctx);
    0
}

/// What follows from it shows when the vCPU is let go of.
#[inline(always)]
fn setting(ctx: &impl Arguments) {
    let vcpu = ctx.number(0);
    if is_about(ctx.structure(1).field(0))
        && watched(Probe::XenSet).is_some()
        && let Some(state) = lifecycle::find(vcpu)
    {
        quiet::enabling_written(vcpu);
        state.enabling_write = EnablingWrite::HOST;
        state.update.run_delay_ns = run_delay_ns();
    }
}
