//! What a guest was charged, and whether that can be right.

use std::time::{Duration, Instant};

use super::{Fault, Harm, Observation, worse};
use crate::vmm::{StealArea, Watched};

/// What the guest's counter did, and the time in which it did it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    pub(super) before: StealArea,
    pub(super) after: StealArea,
    pub(super) passed: Duration,
}

impl Charge {
    /// Of a KVM_RUN; the charge may have grown since then.
    pub(super) fn of(ran: &Watched, since: Instant) -> Self {
        Self { before: ran.area_before, after: ran.area_after, passed: since.elapsed() }
    }

    /// What the counter grew by; negative if it went back.
    pub(super) fn grew_ns(&self) -> i64 {
        self.after.steal_ns.wrapping_sub(self.before.steal_ns).cast_signed()
    }

    /// Would this much show as an over-charge? Not on a host so busy that as much time has passed.
    pub(super) fn would_show(&self, too_much_ns: u64) -> bool {
        u128::from(too_much_ns) > self.passed.as_nanos()
    }

    pub(super) fn harm(&self) -> Harm {
        self.fault().map_or(Harm::None, |fault| fault.harm)
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        worse(self.unjust(), at_rest(self.after))
    }

    fn unjust(&self) -> Option<Fault> {
        let grew = self.grew_ns();
        if grew < 0 {
            let how = if self.after.steal_ns > self.before.steal_ns {
                "wrapped below zero"
            } else {
                "went backwards"
            };
            return Some(Fault {
                harm: Harm::Corrupt,
                what: format!("steal {how} by {} ns", grew.unsigned_abs()),
            });
        }
        let passed_ns = self.passed.as_nanos();
        (u128::from(grew.unsigned_abs()) > passed_ns)
            .then(|| Fault { harm: Harm::OverCharged, what: format!("charged {grew} ns in {passed_ns} ns") })
    }

    pub(super) fn saw(&self) -> String {
        format!("{} -> {}", show(self.before), show(self.after))
    }
}

/// What one runner's guest was charged, and what it may have been charged: KVM read the runner's run_delay at some
/// moment during the first run and at some moment during the last.
pub(super) struct Growth {
    charge: Charge,
    least_ns: u64,
    most_ns: u64,
    undisturbed: bool,
}

impl Growth {
    /// From a KVM_RUN to another of the same thread.
    pub(super) fn between(first: &Watched, last: &Watched) -> Self {
        Self {
            charge: Charge {
                before: first.area_after,
                after: last.area_after,
                passed: last.began.elapsed() + (last.began - first.began),
            },
            least_ns: last.before.run_delay_ns - first.after.run_delay_ns,
            most_ns: last.after.run_delay_ns - first.before.run_delay_ns,
            undisturbed: last.undisturbed(),
        }
    }

    /// The guest's counter was written anew between the two runs: it counts on from there.
    pub(super) fn from(self, before: StealArea) -> Self {
        Self { charge: Charge { before, ..self.charge }, ..self }
    }

    /// The thread ran the vCPU in between, too.
    pub(super) fn through_runs(self, first: &Watched, last: &Watched) -> Self {
        Self { undisturbed: first.after.preemptions == last.after.preemptions, ..self }
    }

    pub(super) fn steal_ns(&self) -> u64 {
        self.charge.grew_ns().cast_unsigned()
    }

    pub(super) fn run_delay_ns(&self) -> u64 {
        self.least_ns
    }

    /// Rescheduled on its way into the guest, a runner on a kernel with the bug of 2015 loses what it waited before:
    /// less than it should be proves nothing then.
    pub(super) fn conclusive(&self) -> bool {
        self.undisturbed || self.steal_ns() >= self.least_ns
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        let Self { charge, least_ns, most_ns, .. } = self;
        if !self.conclusive() {
            return None;
        }
        charge.fault().or_else(|| {
            let exact = (least_ns..=most_ns).contains(&&self.steal_ns());
            (!exact).then(|| {
                Fault::broken(format!(
                    "grew by {} ns, the thread's run_delay by {least_ns} to {most_ns} ns",
                    self.steal_ns()
                ))
            })
        })
    }

    /// What a runner that was rescheduled waited and the guest was not charged.
    pub(super) fn lost(&self) -> Option<Fault> {
        (!self.conclusive()).then(|| Fault {
            harm: Harm::UnderCharged,
            what: format!("charged {} ns of {} ns that the thread waited", self.steal_ns(), self.least_ns),
        })
    }

    pub(super) fn saw(&self) -> String {
        self.charge.saw()
    }

    /// What one thread's two runs showed.
    pub(super) fn observation(&self) -> Observation {
        Observation::new(self.saw(), self.fault(), self.conclusive())
    }
}

/// Between two runs nobody writes: the version is even.
fn at_rest(area: StealArea) -> Option<Fault> {
    let sound = area.version.is_multiple_of(2) && area.flags == 0;
    (!sound).then(|| Fault::broken(format!("version {} and flags {} at rest", area.version, area.flags)))
}

/// A counter in decimal, and in hexadecimal and as a negative number where it has wrapped.
pub(super) fn show(area: StealArea) -> String {
    let steal = area.steal_ns;
    let signed = steal.cast_signed();
    if signed < 0 { format!("{steal:#x} ({signed} ns)") } else { format!("{steal} ns") }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Charge, Growth, at_rest};
    use crate::vmm::{SchedStat, StealArea, Watched, scenario::Harm};

    fn area(steal_ns: u64) -> StealArea {
        StealArea { steal_ns, version: 2, ..StealArea::default() }
    }

    fn harm(before: u64, after: u64) -> Option<Harm> {
        let passed = Duration::from_nanos(1000);
        Charge { before: area(before), after: area(after), passed }.fault().map(|fault| fault.harm)
    }

    #[test]
    fn a_counter_may_grow_by_the_time_that_passed() {
        assert_eq!(harm(5, 5), None);
        assert_eq!(harm(5, 1005), None);
        assert_eq!(harm(5, 1006), Some(Harm::OverCharged));
    }

    #[test]
    fn backwards_and_wrapped_are_corrupt_also_from_a_wrapped_counter() {
        assert_eq!(harm(5, 4), Some(Harm::Corrupt));
        assert_eq!(harm(5, u64::MAX), Some(Harm::Corrupt));
        assert_eq!(harm(u64::MAX, u64::MAX - 1), Some(Harm::Corrupt));
        assert_eq!(harm(u64::MAX, 5), None);
    }

    fn ran(run_delay_ns: u64, steal_ns: u64, preemptions: u64) -> Watched {
        let stat = SchedStat { run_delay_ns, preemptions: 1 };
        Watched {
            before: stat,
            after: SchedStat { preemptions, ..stat },
            area_before: area(0),
            area_after: area(steal_ns),
            began: Instant::now() - Duration::from_secs(1),
        }
    }

    #[test]
    fn growth_is_exactly_the_runners() {
        let fault = |steal| {
            let last = ran(1500, steal, 1);
            Growth::between(&ran(1000, 100, 1), &last).fault().map(|fault| fault.harm)
        };
        assert_eq!(fault(600), None);
        assert_eq!(fault(599), Some(Harm::Broken));
        assert_eq!(fault(601), Some(Harm::Broken));
        assert_eq!(fault(99), Some(Harm::Corrupt));
    }

    #[test]
    fn less_proves_nothing_of_a_runner_that_was_rescheduled() {
        let last = ran(1500, 300, 2);
        let growth = Growth::between(&ran(1000, 100, 1), &last);
        assert!(!growth.conclusive());
        assert!(growth.fault().is_none());
    }

    #[test]
    fn what_a_rescheduled_runner_loses_is_an_under_charge_and_more_is_still_a_fault() {
        let (first, rescheduled) = (ran(1000, 100, 1), |steal| ran(1500, steal, 9));
        let growth =
            |steal| Growth::between(&first, &rescheduled(steal)).through_runs(&first, &rescheduled(steal));
        assert_eq!(growth(300).lost().map(|fault| fault.harm), Some(Harm::UnderCharged));
        assert_eq!(growth(300).fault(), None);
        assert_eq!((growth(600).lost(), growth(600).fault()), (None, None));
        assert_eq!(growth(601).fault().map(|fault| fault.harm), Some(Harm::Broken));
        assert_eq!(growth(99).fault().map(|fault| fault.harm), Some(Harm::Corrupt));
    }

    #[test]
    fn less_is_a_fault_of_a_runner_that_was_never_rescheduled() {
        let (first, last) = (ran(1000, 100, 1), ran(1500, 300, 1));
        let growth = Growth::between(&first, &last).through_runs(&first, &last);
        assert_eq!((growth.lost(), growth.fault().map(|fault| fault.harm)), (None, Some(Harm::Broken)));
    }

    #[test]
    fn an_over_charge_shows_only_if_less_time_has_passed() {
        let charge = Charge { before: area(0), after: area(0), passed: Duration::from_nanos(1000) };
        assert!(charge.would_show(1001));
        assert!(!charge.would_show(1000));
    }

    #[test]
    fn an_odd_version_at_rest_is_a_fault() {
        assert!(at_rest(area(0)).is_none());
        assert!(at_rest(StealArea { version: 3, ..area(0) }).is_some());
        assert!(at_rest(StealArea { flags: 1, ..area(0) }).is_some());
    }
}
