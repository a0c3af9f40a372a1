//! Scenarios of arm64 alone: the VMM says where the area lies, once, and the guest asks for it.

mod guest_enables_elsewhere;
mod pvtime_set_twice;
mod restore_first_run;

use super::{Charge, Expects, Observation, PAST, Play, Scenario, refused, same_thread, show};

pub(super) const OF_SOURCE: &[Scenario] =
    &[restore_first_run::SCENARIO, pvtime_set_twice::SCENARIO, guest_enables_elsewhere::SCENARIO];

/// Those of other sources, and why they are not among these.
pub(super) const ABSENT: &[(&str, &str)] = &[
    ("replug-off", ON_FOR_EVER),
    ("handoff-no-msr", ON_FOR_EVER),
    ("off-then-on", ON_FOR_EVER),
    ("move-area", "the area's address can be set once only: pvtime-set-twice"),
    ("reserved-bits", "an address has none; a misaligned one is refused in pvtime-set-twice"),
    ("no-cpuid-bit", "stolen time is offered by the VMM's setting it: there is nothing to hide"),
    ("preempted-flag", "the area has no such flag"),
    ("xen-same-thread", NO_XEN),
    ("xen-hand-off-down", NO_XEN),
    ("xen-hand-off-up", NO_XEN),
    ("xen-restore", NO_XEN),
    ("xen-random-hand-offs", NO_XEN),
];

const NO_XEN: &str = "KVM runs guests of Xen on x86 only";

const ON_FOR_EVER: &str = "stolen time cannot be disabled once it is enabled";
