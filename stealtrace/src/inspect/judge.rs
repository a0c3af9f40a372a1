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
    /// It cannot be: more than 2^63, or more than twice the host's uptime.
    Poisoned(u64),
}

/// Without an iterator KVM's side is known from the last ioctl only.
const TOLERANCE_NS: u64 = 1_000_000;

/// KVM has charged so much in all, if nothing else touched the counter: `last_steal` before and after the guest's
/// counter was read.
pub(super) fn judge(
    msr_val: u64,
    steal_ns: Option<u64>,
    charged_ns: RangeInclusive<u64>,
    uptime_ns: u64,
) -> Judgement {
    let Some(steal_ns) = steal_ns.filter(|_| msr_enabled(msr_val)) else {
        return if msr_enabled(msr_val) { Judgement::Unknown } else { Judgement::Disabled };
    };
    let (least, most) = charged_ns.into_inner();
    if steal_ns > i64::MAX.cast_unsigned() || steal_ns > uptime_ns.saturating_mul(2) {
        Judgement::Poisoned(most.wrapping_sub(steal_ns))
    } else if steal_ns.saturating_add(TOLERANCE_NS) < least {
        Judgement::Behind(least - steal_ns)
    } else if steal_ns > most.saturating_add(TOLERANCE_NS) {
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

    const HOUR: u64 = 3_600_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_state_is_told_from_the_others() {
        let enabled = |steal| judge(0x1041, Some(steal), 5 * SECOND..=5 * SECOND, HOUR);
        assert_eq!(enabled(5 * SECOND), Judgement::Healthy);
        assert_eq!(enabled(5 * SECOND + 1000), Judgement::Healthy);
        assert_eq!(enabled(2 * SECOND), Judgement::Behind(3 * SECOND));
        assert_eq!(enabled(9 * SECOND), Judgement::OverCharged(4 * SECOND));
        assert_eq!(enabled(3 * HOUR), Judgement::Poisoned((5 * SECOND).wrapping_sub(3 * HOUR)));
        assert_eq!(enabled(0xffff_ffff_a9c1_85a5), Judgement::Poisoned(5 * SECOND + 1_446_935_131));
        assert_eq!(judge(0x1041, None, 0..=0, HOUR), Judgement::Unknown);
        assert_eq!(judge(0x1040, Some(7), 0..=0, HOUR), Judgement::Disabled);
    }

    #[test]
    fn an_update_between_the_looks_is_no_fault() {
        assert_eq!(judge(0x1041, Some(7 * SECOND), 5 * SECOND..=9 * SECOND, HOUR), Judgement::Healthy);
    }
}
