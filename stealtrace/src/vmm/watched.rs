//! A KVM_RUN with the runner's scheduler statistics and the guest's steal area around it.

use std::time::Instant;

use anyhow::Result;

use super::{SchedStat, StealArea, Vcpu, outwait_past};

/// What was true before and after one KVM_RUN.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// The runner's statistics before.
    pub before: SchedStat,
    /// And after.
    pub after: SchedStat,
    /// What the guest saw before.
    pub area_before: StealArea,
    /// And after.
    pub area_after: StealArea,
    /// When it began.
    pub began: Instant,
}

impl Watched {
    /// One KVM_RUN on the calling thread.
    ///
    /// # Errors
    /// When the guest or the statistics fail.
    pub fn run(vcpu: &mut Vcpu) -> Result<Self> {
        let (began, area_before, before) = (Instant::now(), vcpu.steal_area(), SchedStat::now()?);
        vcpu.run()?;
        let (after, area_after) = (SchedStat::now()?, vcpu.steal_area());
        Ok(Self { before, after, area_before, area_after, began })
    }

    /// The first after enabling: late enough that the thread's past is no over-charge.
    ///
    /// # Errors
    /// As `run`.
    pub fn first_run(vcpu: &mut Vcpu) -> Result<Self> {
        outwait_past()?;
        Self::run(vcpu)
    }

    /// Was the runner on its CPU all the time, so that nothing could overwrite a bad delta?
    #[must_use]
    pub const fn undisturbed(&self) -> bool {
        self.before.preemptions == self.after.preemptions
    }

    /// This run and the next as one. What happens to the thread in between disturbs neither: no vCPU is loaded then.
    #[must_use]
    pub const fn followed_by(&self, next: &Self) -> Self {
        let between = next.before.preemptions - self.after.preemptions;
        let before = SchedStat { preemptions: self.before.preemptions + between, ..self.before };
        Self { before, area_before: self.area_before, began: self.began, ..*next }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::Watched;
    use crate::vmm::{SchedStat, StealArea};

    /// A run during which the thread was preempted so often.
    fn ran(before: u64, after: u64) -> Watched {
        let stat = |preemptions| SchedStat { run_delay_ns: preemptions, preemptions };
        let area = StealArea::default();
        let (before, after) = (stat(before), stat(after));
        Watched { before, after, area_before: area, area_after: area, began: Instant::now() }
    }

    #[test]
    fn a_preemption_between_two_runs_disturbs_neither() {
        assert!(ran(3, 3).followed_by(&ran(5, 5)).undisturbed());
        assert!(!ran(3, 4).followed_by(&ran(4, 4)).undisturbed());
        assert!(!ran(3, 3).followed_by(&ran(3, 4)).undisturbed());
        assert_eq!(ran(3, 3).followed_by(&ran(5, 5)).before.run_delay_ns, 3);
    }
}
