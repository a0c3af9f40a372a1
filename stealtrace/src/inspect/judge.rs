//! Is a guest's counter what KVM's side says it should be? Pure.

use std::ops::RangeInclusive;

use stealtrace_common::kvm::msr_enabled;

/// What is wrong with a counter, and by how much (ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The guest has not enabled steal time.
    Disabled,
    /// Its counter cannot be read.
    Unknown,
    /// It is what KVM charged.
    Healthy,
    /// It is less than KVM charged: the guest rebooted or re-plugged the CPU, or an underflow lowered it.
    Behind(u64),
    /// It is more than KVM charged: brought along from another host, or an over-charge.
    OverCharged(u64),
    /// It went below zero: more than 2^63, which is 292 years.
    Poisoned(u64),
}

/// The two sides are not read at one moment.
const TOLERANCE_NS: u64 = 1_000_000;

/// KVM has charged so much in all, if nothing else touched the counter: `last_steal` before and after the guest's
/// counter was read. That was so long ago, and no more than that time can have been charged since.
pub(super) fn judge(
    msr_val: u64,
    steal_ns: Option<u64>,
    charged_ns: RangeInclusive<u64>,
    ago_ns: u64,
) -> Judgement {
    let Some(steal_ns) = steal_ns.filter(|_| msr_enabled(msr_val)) else {
        return if msr_enabled(msr_val) { Judgement::Unknown } else { Judgement::Disabled };
    };
    let (least, most) = charged_ns.into_inner();
    if steal_ns.cast_signed() < 0 {
        Judgement::Poisoned(most.wrapping_sub(steal_ns))
    } else if steal_ns.saturating_add(TOLERANCE_NS) < least {
        Judgement::Behind(least - steal_ns)
    } else if steal_ns > most.saturating_add(ago_ns).saturating_add(TOLERANCE_NS) {
        Judgement::OverCharged(steal_ns - most)
    } else {
        Judgement::Healthy
    }
}

impl Judgement {
    /// One word.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Behind(_) => "behind",
            Self::OverCharged(_) => "over-charged",
            Self::Poisoned(_) => "poisoned",
        }
    }

    /// By how much, where that says something.
    pub(super) const fn amount_ns(self) -> Option<u64> {
        match self {
            Self::Disabled | Self::Unknown | Self::Healthy => None,
            Self::Behind(ns) | Self::OverCharged(ns) | Self::Poisoned(ns) => Some(ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Judgement, judge};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_state_is_told_from_the_others() {
        let enabled = |steal| judge(0x1041, Some(steal), 5 * SECOND..=5 * SECOND, 0);
        assert_eq!(enabled(5 * SECOND), Judgement::Healthy);
        assert_eq!(enabled(5 * SECOND + 1000), Judgement::Healthy);
        assert_eq!(enabled(2 * SECOND), Judgement::Behind(3 * SECOND));
        assert_eq!(enabled(9 * SECOND), Judgement::OverCharged(4 * SECOND));
        assert_eq!(enabled(0xffff_ffff_a9c1_85a5), Judgement::Poisoned(5 * SECOND + 1_446_935_131));
        assert_eq!(judge(0x1041, None, 0..=0, 0), Judgement::Unknown);
        assert_eq!(judge(0x1040, Some(7), 0..=0, 0), Judgement::Disabled);
    }

    #[test]
    fn a_guest_that_came_from_a_host_that_is_up_for_longer_is_not_poisoned() {
        let brought = 400 * 86_400 * SECOND;
        assert_eq!(judge(0x1041, Some(brought), 0..=SECOND, 0), Judgement::OverCharged(brought - SECOND));
    }

    #[test]
    fn an_update_between_the_looks_or_since_is_no_fault() {
        assert_eq!(judge(0x1041, Some(7 * SECOND), 5 * SECOND..=9 * SECOND, 0), Judgement::Healthy);
        assert_eq!(judge(0x1041, Some(7 * SECOND), 5 * SECOND..=5 * SECOND, 3 * SECOND), Judgement::Healthy);
    }
}
