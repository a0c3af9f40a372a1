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
}
