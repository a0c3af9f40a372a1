//! How pvtime is enabled: the VMM says where the area lies, from where on KVM charges; the guest asks for it, from where on
//! it counts anew. The area is found through the VM's memory slots.

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use stealtrace_common::{
    kvm::KVM_SET_DEVICE_ATTR,
    layout::ABSENT,
    probe::Probe,
    source::here::{Counter, PVTIME_CTRL, PVTIME_IPA},
    vcpu::{EnablingWrite, Snapshot, ThreadState, VcpuState},
};

use crate::{
    area,
    caller::{Caller, watched},
    emit::now_ns,
    facts::{self, Stay},
    functions::{Arguments, closed},
    lifecycle::{self, thread, vcpu_state},
    maps::given,
    quiet,
    read::{Structure, field, user, write},
};

/// The ioctl by which a VMM enables it.
pub(crate) const IOCTL: u32 = KVM_SET_DEVICE_ATTR;

/// 1 if a user's `struct kvm_device_attr` (`include/uapi/linux/kvm.h`: flags, group, attr) is about it, else 0.
#[inline(always)]
pub(crate) fn position(attr: u64) -> u32 {
    let Some([flags_and_group, attr]) = user::<[u64; 2]>(attr) else { return 0 };
    u32::from((flags_and_group >> 32) as u32 == PVTIME_CTRL && attr == PVTIME_IPA)
}

/// Did the ioctl that returns this set it?
#[inline(always)]
pub(crate) fn was_written(position: u32, ret: i64) -> bool {
    position != 0 && ret == 0
}

/// Can the area be found?
#[inline(always)]
pub(crate) fn is_known() -> bool {
    given!(LAYOUT.kvm_memslots) != ABSENT
}

/// The host address of the area; 0 if its memory has none.
#[inline(always)]
pub(crate) fn address(vcpu: impl Structure, base: u64, _cached: [u64; 2]) -> u64 {
    host_address(vcpu.number(given!(LAYOUT.vcpu_kvm)), base)
}

/// As deep as a tree of slots is looked into: that of a VM with thousands.
const DEPTH: u32 = 24;

/// `struct rb_node`: the parent, then what is behind, then what is before.
const RB_NODE_BYTES: u64 = 24;
const RIGHT: u32 = 8;
const LEFT: u32 = 16;

/// What `gfn_to_hva` says, by the VM's first address space. A function of its own: the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn host_address(kvm: u64, address: u64) -> u64 {
    let slots: u64 = field(kvm, given!(LAYOUT.kvm_memslots));
    let of_tree = u64::from(field::<u32>(slots, given!(LAYOUT.memslots_node)) & 1) * RB_NODE_BYTES;
    let mut node: u64 = field(slots, given!(LAYOUT.memslots_tree));
    let page_bits = given!(LAYOUT.page_bits) & 31;
    let page = address >> page_bits;
    for _ in 0..DEPTH {
        if node == 0 {
            break;
        }
        let slot = node - u64::from(given!(LAYOUT.slot_nodes)) - of_tree;
        let [first, pages]: [u64; 2] = field(slot, given!(LAYOUT.slot_base));
        if page < first {
            node = field(node, LEFT);
        } else if page - first >= pages {
            node = field(node, RIGHT);
        } else {
            return field::<u64>(slot, given!(LAYOUT.slot_address)) + (address - (first << page_bits));
        }
    }
    0
}

/// Write what KVM counts.
#[inline(always)]
pub(crate) fn rewrite(area: u64, _after: &Snapshot, steal_ns: u64) -> bool {
    write(area + core::mem::offset_of!(Counter, steal_ns) as u64, steal_ns)
}

/// `kvm_arm_pvtime_set_attr(struct kvm_vcpu *vcpu, struct kvm_device_attr *attr)`
#[kprobe]
pub(crate) fn pvtime_set(ctx: ProbeContext) -> u32 {
    setting(&ctx);
    0
}

/// The same by fentry.
#[fentry]
pub(crate) fn pvtime_set_fentry(ctx: FEntryContext) -> i32 {
    setting(&ctx);
    0
}

/// It returned.
#[kretprobe]
pub(crate) fn pvtime_was_set(ctx: RetProbeContext) -> u32 {
    set(ctx.ret::<u64>() as u32 == 0);
    0
}

/// The same by fexit.
#[fexit]
pub(crate) fn pvtime_was_set_fentry(ctx: FExitContext) -> i32 {
    // SAFETY: the result follows the two arguments.
    set(unsafe { ctx.as_ptr().cast::<u64>().add(2).read_volatile() } as u32 == 0);
    0
}

/// `kvm_init_stolen_time(struct kvm_vcpu *vcpu)`
#[kprobe]
pub(crate) fn pvtime_begin(ctx: ProbeContext) -> u32 {
    begin(&ctx);
    0
}

/// The same by fentry.
#[fentry]
pub(crate) fn pvtime_begin_fentry(ctx: FEntryContext) -> i32 {
    begin(&ctx);
    0
}

/// What is true before. No vCPU is loaded for it: what changes is told when it returns.
#[inline(always)]
fn setting(ctx: &impl Arguments) {
    let vcpu = ctx.number(0);
    if let Some(caller) = watched(Probe::PvtimeSet)
        && let Some(thread) = thread(Probe::PvtimeSet, caller)
    {
        thread.vcpu = vcpu;
        thread.ioctl = KVM_SET_DEVICE_ATTR;
        thread.time_ns = now_ns();
        thread.entered = area::snapshot(vcpu);
    }
}

#[inline(always)]
fn set(accepted: bool) {
    if let Some(caller) = watched(Probe::PvtimeWasSet)
        && accepted
        && let Some(thread) = lifecycle::known_thread(caller.key())
        && let Some(state) = vcpu_state(Probe::PvtimeWasSet, caller, thread.vcpu)
    {
        by_vmm(caller, state, thread);
    }
}

#[inline(always)]
fn by_vmm(caller: Caller, state: &mut VcpuState, thread: &ThreadState) {
    let vcpu = thread.vcpu;
    let after = area::snapshot(vcpu);
    quiet::enabling_written(vcpu);
    state.enabling_write = EnablingWrite::HOST;
    let opened = Snapshot { run_delay_ns: after.run_delay_ns, ..thread.entered };
    let now_ns = now_ns();
    let stay = Stay {
        probe: Probe::PvtimeWasSet,
        caller,
        vcpu,
        ioctl: thread.ioctl,
        enabling_write: EnablingWrite::HOST,
        opened: &opened,
        before: &after,
        after: &after,
        since_ns: now_ns,
        until_ns: now_ns,
        counts: false,
    };
    facts::left(state, &stay);
}

/// KVM is about to set the guest's counter to zero and last_steal to the caller's run_delay: what it charged until now is
/// told, then that it begins anew.
#[inline(always)]
fn begin(ctx: &impl Arguments) {
    let vcpu = ctx.number(0);
    if let Some(caller) = watched(Probe::PvtimeBegin)
        && let Some(state) = vcpu_state(Probe::PvtimeBegin, caller, vcpu)
    {
        let now = area::snapshot(vcpu);
        quiet::enabling_written(vcpu);
        closed(state, caller, vcpu, &now);
        by_guest(caller, state, vcpu, &now);
    }
}

#[inline(always)]
fn by_guest(caller: Caller, state: &mut VcpuState, vcpu: u64, now: &Snapshot) {
    if !area::is_enabled(now.enabling) {
        return; // the VMM did not say where
    }
    let after = Snapshot { last_steal_ns: now.run_delay_ns, steal_ns: 0, ..*now };
    let since_ns = now_ns();
    state.enabling_write = EnablingWrite::GUEST;
    let stay = Stay {
        probe: Probe::PvtimeBegin,
        caller,
        vcpu,
        ioctl: state.ioctl,
        enabling_write: EnablingWrite::GUEST,
        opened: now,
        before: &after,
        after: &after,
        since_ns,
        until_ns: since_ns,
        counts: true,
    };
    state.enabled_anew = 1;
    state.last_update_ns = since_ns;
    state.last_steal_tid = caller.tid;
    facts::counted(state, &after, after.enabling);
    facts::left(state, &stay);
}
