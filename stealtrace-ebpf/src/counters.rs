//! What each probe did, counted.

use stealtrace_common::probe::{Counter, Probe};

use crate::maps::COUNTERS;

/// A fact that could not be kept or reported.
#[inline(always)]
pub(crate) fn lost(probe: Probe) {
    count(probe, |counter| counter.lost += 1);
}

#[inline(always)]
pub(crate) fn count(probe: Probe, add: impl FnOnce(&mut Counter)) {
    if let Some(counter) = COUNTERS.get_ptr_mut(probe as u32) {
        // SAFETY: this CPU's own slot; BPF programs are not preempted by another that shares it.
        add(unsafe { &mut *counter });
    }
}
