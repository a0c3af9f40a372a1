//! The one subtraction this project is about, and what its result means.
//! Nothing else in the project subtracts run_delay and last_steal.

/// What KVM adds to the guest's counter: the caller's run_delay less the vCPU's last_steal, wrapping in u64
/// (`record_steal_time`, on Linux 3.1 to 4.3 `accumulate_steal_time`, in `arch/x86/kvm/x86.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StealDelta(u64);

impl StealDelta {
    /// The delta KVM computes when a thread with `run_delay_ns` consumes `last_steal_ns`.
    #[must_use]
    pub const fn between(last_steal_ns: u64, run_delay_ns: u64) -> Self {
        Self(run_delay_ns.wrapping_sub(last_steal_ns))
    }

    /// Nanoseconds as KVM adds them: an underflow appears as a number near 2^64.
    #[must_use]
    pub const fn wrapped_ns(self) -> u64 {
        self.0
    }

    /// Nanoseconds as a person means them: an underflow is negative.
    #[must_use]
    pub const fn signed_ns(self) -> i64 {
        self.0.cast_signed()
    }

    /// Did the subtraction go below zero?
    #[must_use]
    pub const fn is_underflow(self) -> bool {
        self.signed_ns() < 0
    }
}

/// No guest waits for 292 years: a counter that says so went below zero.
#[must_use]
pub const fn is_impossible(steal_ns: u64) -> bool {
    steal_ns.cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::StealDelta;

    proptest! {
        #[test]
        fn what_kvm_adds_always_leads_from_last_steal_to_run_delay(last_steal: u64, run_delay: u64) {
            let delta = StealDelta::between(last_steal, run_delay);
            prop_assert_eq!(last_steal.wrapping_add(delta.wrapped_ns()), run_delay);
            prop_assert_eq!(delta.signed_ns().cast_unsigned(), delta.wrapped_ns());
        }

        #[test]
        fn below_2_to_the_63_the_sign_is_the_order(last_steal in 0..1_u64 << 63, run_delay in 0..1_u64 << 63) {
            let delta = StealDelta::between(last_steal, run_delay);
            prop_assert_eq!(delta.is_underflow(), run_delay < last_steal);
        }

        #[test]
        fn zero_one_below_and_one_above(number: u64) {
            prop_assert_eq!(StealDelta::between(number, number).wrapped_ns(), 0);
            prop_assert_eq!(StealDelta::between(number, number.wrapping_sub(1)).signed_ns(), -1);
            prop_assert_eq!(StealDelta::between(number, number.wrapping_add(1)).signed_ns(), 1);
        }
    }

    #[test]
    fn the_extremes_wrap() {
        assert_eq!(StealDelta::between(0, u64::MAX).signed_ns(), -1);
        assert_eq!(StealDelta::between(u64::MAX, 0).wrapped_ns(), 1);
        assert_eq!(StealDelta::between(0, 1 << 63).signed_ns(), i64::MIN);
    }

    #[test]
    fn equal_numbers_are_no_steal() {
        assert_eq!(StealDelta::between(7, 7).wrapped_ns(), 0);
        assert!(!StealDelta::between(7, 7).is_underflow());
    }

    #[test]
    fn one_below_is_an_underflow() {
        let delta = StealDelta::between(8, 7);
        assert_eq!(delta.signed_ns(), -1);
        assert_eq!(delta.wrapped_ns(), u64::MAX);
        assert!(delta.is_underflow());
    }

    #[test]
    fn the_bug_reports_two_threads() {
        assert_eq!(StealDelta::between(7_856_949, 40_304).wrapped_ns(), 18_446_744_073_701_734_971);
        assert_eq!(StealDelta::between(7_856_949, 0).signed_ns(), -7_856_949);
    }
}
