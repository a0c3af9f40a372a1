//! Scenarios of x86 alone: an MSR can be written again, and its area tells more.

mod handoff_no_msr;
mod move_area;
mod no_cpuid_bit;
mod off_then_on;
mod preempted_flag;
mod replug_off;
mod reserved_bits;
mod xen;

use super::{
    Charge, Expects, Fault, Growth, Observation, PAST, Play, Scenario, apart, random_hand_offs, refused,
    replug, run_hand_off_down, run_hand_off_up, same_thread, show,
};

pub(super) const OF_SOURCE: &[Scenario] = &[
    replug_off::SCENARIO,
    handoff_no_msr::SCENARIO,
    off_then_on::SCENARIO,
    move_area::SCENARIO,
    reserved_bits::SCENARIO,
    no_cpuid_bit::SCENARIO,
    preempted_flag::SCENARIO,
    xen::SAME_THREAD,
    xen::HAND_OFF_DOWN,
    xen::HAND_OFF_UP,
    xen::RESTORE,
    xen::RANDOM_HAND_OFFS,
];

/// Those of other sources, and why they are not among these.
pub(super) const ABSENT: &[(&str, &str)] = &[
    ("restore-first-run", "first-run-charge shows it: here too, last_steal is 0 after a restore"),
    ("pvtime-set-twice", "an MSR may be written again: move-area and off-then-on do"),
    ("guest-enables-elsewhere", "a guest enables it alone: guest-enables and replug-off do"),
];
