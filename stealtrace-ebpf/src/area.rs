//! The guest's area, as KVM and the guest see it: where it lies in the host's memory, what stands in it, and what KVM keeps
//! beside it.

use stealtrace_common::{
    layout::ABSENT,
    source::{
        self as sources, Source,
        here::{self, Counter},
    },
    vcpu::Snapshot,
};

use crate::{
    maps::given,
    other,
    read::{Plain, Structure, field, run_delay_ns, user_or_zeros},
    source,
};

// SAFETY: integers without padding.
unsafe impl Plain for Counter {}

/// Does this value enable the source?
#[inline(always)]
pub(crate) fn is_enabled(enabling: u64) -> bool {
    sources::is_enabled(enabling)
}

/// Is it another source's than the host's own?
#[inline(always)]
pub(crate) fn is_of_another(enabling: u64) -> bool {
    Source::of(enabling) != Source::HERE
}

/// What is true now of this vCPU and the calling thread.
#[inline(always)]
pub(crate) fn snapshot(vcpu: impl Structure) -> Snapshot {
    snapshot_and_own(vcpu).0
}

/// The same, and the host address of the guest's area, if there is one; else 0.
#[inline(always)]
pub(crate) fn snapshot_and_address(vcpu: u64) -> (Snapshot, u64) {
    let (now, address) = snapshot_and_own(vcpu);
    (now, if is_of_another(now.enabling) { other::address(vcpu) } else { address })
}

/// The same where the address is the host's own source's.
#[inline(always)]
fn snapshot_and_own(vcpu: impl Structure) -> (Snapshot, u64) {
    let [steal, cached] = kept(vcpu);
    let (enabling, last_steal_ns) = here::steal_time(steal);
    let run_delay_ns = run_delay_ns();
    if !is_enabled(enabling) {
        let of_another = other::enabling(vcpu);
        if of_another != 0 {
            return (other::snapshot(vcpu, of_another, run_delay_ns), 0);
        }
    }
    let address = address_by(vcpu, enabling, cached);
    let now = Snapshot { run_delay_ns, last_steal_ns, enabling, ..Snapshot::default() };
    (counted_at(&now, address), address)
}

/// What KVM keeps: what enables the source and `last_steal`, and where the area is, if it caches that.
#[inline(always)]
fn kept(vcpu: impl Structure) -> [[u64; 2]; 2] {
    let (steal, cached) = (given!(LAYOUT.vcpu_steal), given!(LAYOUT.vcpu_cached_area));
    if cached == ABSENT { [vcpu.field(steal), [0; 2]] } else { vcpu.pairs(steal, cached) }
}

/// What enables it and `last_steal`, of whatever source.
#[inline(always)]
pub(crate) fn any_steal_time(vcpu: u64) -> (u64, u64) {
    let (enabling, last_steal_ns) = steal_time(vcpu);
    let of_another = if is_enabled(enabling) { 0 } else { other::enabling(vcpu) };
    if of_another == 0 { (enabling, last_steal_ns) } else { (of_another, other::last_steal_ns(vcpu)) }
}

/// The same, with what stands in the area of this value, if that can be read and nothing is known yet.
#[inline(always)]
pub(crate) fn with_area(now: &Snapshot, vcpu: impl Structure, enabling: u64) -> Snapshot {
    if now.readable != 0 { *now } else { counted_at(now, address(vcpu, enabling)) }
}

/// The same, with what stands at this address, unless it is 0.
#[inline(always)]
fn counted_at(now: &Snapshot, address: u64) -> Snapshot {
    const NOBODYS: u64 = u64::MAX; // refused without a fault
    let (counter, readable): (Counter, u32) = user_or_zeros(if address == 0 { NOBODYS } else { address });
    Snapshot { steal_ns: counter.steal_ns, version: counter.version(), readable, ..*now }
}

/// What enables the host's own source, and `last_steal`.
#[inline(always)]
pub(crate) fn steal_time(vcpu: impl Structure) -> (u64, u64) {
    here::steal_time(vcpu.field(given!(LAYOUT.vcpu_steal)))
}

/// Can the area of the host's own source be found in the host's memory?
#[inline(always)]
pub(crate) fn is_known() -> bool {
    source::is_known()
}

/// The host address of the guest's steal area, if there is one; else 0.
#[inline(always)]
pub(crate) fn address_of(vcpu: u64, enabling: u64) -> u64 {
    if is_of_another(enabling) { other::address(vcpu) } else { address(vcpu, enabling) }
}

/// The same where it is the host's own source's.
#[inline(always)]
pub(crate) fn address(vcpu: impl Structure, enabling: u64) -> u64 {
    address_by(vcpu, enabling, kept(vcpu)[1])
}

#[inline(always)]
fn address_by(vcpu: impl Structure, enabling: u64, cached: [u64; 2]) -> u64 {
    if !is_enabled(enabling) || !is_known() { 0 } else { source::address(vcpu, enabling, cached) }
}

/// Does this kernel keep the delta of a load until guest entry?
#[inline(always)]
pub(crate) fn accumulates() -> bool {
    given!(LAYOUT.vcpu_accumulated) != ABSENT
}

/// The delta of the last load, on kernels that keep it until guest entry; else 0.
#[inline(always)]
pub(crate) fn accumulated(vcpu: u64) -> u64 {
    if accumulates() { field(vcpu, given!(LAYOUT.vcpu_accumulated)) } else { 0 }
}
