//! A KVM_RUN with the runner's scheduler statistics and the guest's steal area around it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{SchedStat, StealArea, Vcpu};

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
    /// How long it took.
    pub took: Duration,
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
        Ok(Self { before, after, area_before, area_after, began, took: began.elapsed() })
    }

    /// Was the runner on its CPU all the time, so that nothing could overwrite a bad delta?
    #[must_use]
    pub const fn undisturbed(&self) -> bool {
        self.before.preemptions == self.after.preemptions
    }
}
