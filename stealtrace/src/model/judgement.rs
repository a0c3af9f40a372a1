//! Is a guest's counter sound? One look tells what is impossible; that it counts right takes two. Pure.

use std::ops::RangeInclusive;

use stealtrace_common::{
    source::{Source, is_enabled},
    steal::is_impossible,
};

/// What one look saw of a vCPU.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) enabling: u64,
    pub(crate) runner_tid: Option<u32>,
    /// The guest's counter and version, if they could be read.
    pub(crate) counter: Option<(u64, u32)>,
    /// `last_steal` before and after the counter was read, and what may have been charged since.
    pub(crate) charged_ns: RangeInclusive<u64>,
}

/// What is known of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The guest has not enabled steal time.
    Disabled,
    /// Its counter cannot be read.
    Unknown,
    /// It is not impossible, and there were not two looks between which it was charged and nothing else happened.
    Untold,
    /// Between two looks it grew by what its runner waited.
    Sound,
    /// Between two looks it grew by so much more, or less, than its runner waited (ns).
    Off(i64),
    /// It grew by so much more, or less, once, and counts right since (ns): a hand-off, a snapshot, or who else set it.
    Jumped(i64),
    /// It went so far below zero (ns): more than 2^63, which is 292 years.
    Poisoned(u64),
}

/// The two sides are not read at one moment.
const TOLERANCE_NS: u64 = 1_000_000;

/// Judge this look, with an earlier one of the same vCPU if there was one.
pub(crate) fn judge(earlier: Option<&Sight>, now: &Sight) -> Judgement {
    match now.counter {
        _ if !is_enabled(now.enabling) => Judgement::Disabled,
        None => Judgement::Unknown,
        Some((steal_ns, _)) if is_impossible(steal_ns) => Judgement::Poisoned(steal_ns.wrapping_neg()),
        Some(counter) => earlier.map_or(Judgement::Untold, |earlier| compare(earlier, now, counter)),
    }
}

/// What `last_steal` says is a charge only while one thread runs the vCPU, and the guest's counter shows it only while
/// nobody else sets it: a guest that reboots or a VMM that loads a snapshot lowers it.
fn compare(earlier: &Sight, now: &Sight, (steal_ns, version): (u64, u32)) -> Judgement {
    let same = earlier.enabling == now.enabling && earlier.runner_tid == now.runner_tid;
    let Some((steal_before_ns, version_before)) = earlier.counter.filter(|_| same) else {
        return Judgement::Untold;
    };
    let least = now.charged_ns.start().saturating_sub(*earlier.charged_ns.end());
    let source = Source::of(now.enabling);
    let moved = |grew_ns: &u64| match source.versions() {
        0 => *grew_ns > 0 || least > 0,
        _ => version != version_before,
    };
    let Some(grew_ns) = steal_ns.checked_sub(steal_before_ns).filter(moved) else {
        return Judgement::Untold;
    };
    let most = now.charged_ns.end().saturating_sub(*earlier.charged_ns.start());
    let nearest = grew_ns.clamp(least, most.max(least));
    if grew_ns.abs_diff(nearest) <= TOLERANCE_NS {
        Judgement::Sound
    } else if source == Source::XenRunstate {
        Judgement::Untold // it counts by the clock what is waited between two runs
    } else {
        Judgement::Off(grew_ns.wrapping_sub(nearest).cast_signed())
    }
}

impl Judgement {
    /// In a word or few.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Unknown => "unknown",
            Self::Untold | Self::Jumped(_) => "cannot tell",
            Self::Sound => "sound",
            Self::Off(_) => "off",
            Self::Poisoned(_) => "poisoned",
        }
    }

    /// By how much, where that says something.
    pub(crate) const fn amount_ns(self) -> Option<i64> {
        match self {
            Self::Disabled | Self::Unknown | Self::Untold | Self::Sound => None,
            Self::Off(ns) | Self::Jumped(ns) => Some(ns),
            Self::Poisoned(ns) => Some(ns.cast_signed().wrapping_neg()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Judgement, Sight, judge};

    const SECOND: u64 = 1_000_000_000;

    fn sight(steal_ns: u64, version: u32, last_steal_ns: u64) -> Sight {
        Sight {
            enabling: 0x1041,
            runner_tid: Some(7),
            counter: Some((steal_ns, version)),
            charged_ns: last_steal_ns..=last_steal_ns,
        }
    }

    #[test]
    fn one_look_tells_only_what_is_impossible() {
        let alone = |sight: Sight| judge(None, &sight);
        assert_eq!(alone(sight(0xffff_ffff_a9c1_85a5, 2, 0)), Judgement::Poisoned(1_446_935_131));
        assert_eq!(alone(Sight { counter: None, ..sight(0, 2, 0) }), Judgement::Unknown);
        assert_eq!(alone(Sight { enabling: 0x1040, ..sight(7, 2, 0) }), Judgement::Disabled);
        // After a hand-off they agree by accident, after a migration they do not.
        assert_eq!(alone(sight(5 * SECOND, 2, 5 * SECOND)), Judgement::Untold);
        assert_eq!(alone(sight(9 * SECOND, 2, 5 * SECOND)), Judgement::Untold);
    }

    #[test]
    fn two_looks_tell_whether_it_counts_right_wherever_it_stands() {
        let first = sight(50 * SECOND, 2, 5 * SECOND);
        let then = |grew, charged| judge(Some(&first), &sight(50 * SECOND + grew, 4, 5 * SECOND + charged));
        assert_eq!(then(SECOND, SECOND), Judgement::Sound);
        assert_eq!(then(0, 0), Judgement::Sound);
        assert_eq!(then(SECOND + 1000, SECOND), Judgement::Sound);
        assert_eq!(then(3 * SECOND, SECOND), Judgement::Off(2_000_000_000));
        assert_eq!(then(0, SECOND), Judgement::Off(-1_000_000_000));
    }

    #[test]
    fn an_update_between_reading_the_two_sides_is_no_fault() {
        let first = sight(0, 2, 5 * SECOND);
        let now = Sight { charged_ns: 5 * SECOND..=9 * SECOND, ..sight(2 * SECOND, 4, 0) };
        assert_eq!(judge(Some(&first), &now), Judgement::Sound);
    }

    #[test]
    fn nothing_follows_where_something_else_happened_or_nothing_did() {
        let first = sight(5 * SECOND, 2, 5 * SECOND);
        for now in [
            sight(5 * SECOND, 2, 5 * SECOND),                               // not updated
            sight(SECOND, 4, 6 * SECOND),                                   // a reboot, a snapshot
            Sight { runner_tid: Some(8), ..sight(SECOND * 6, 4, SECOND) },  // handed over
            Sight { enabling: 0x2041, ..sight(6 * SECOND, 4, 6 * SECOND) }, // another area
        ] {
            assert_eq!(judge(Some(&first), &now), Judgement::Untold);
        }
    }
}
