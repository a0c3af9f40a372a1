//! A KVM_RUN with the runner's scheduler statistics around it.

use anyhow::Result;

use super::{SchedStat, Vcpu};

/// The runner's statistics before and after one KVM_RUN.
pub struct Watched {
    /// Before.
    pub before: SchedStat,
    /// After.
    pub after: SchedStat,
}

impl Watched {
    /// Was the runner on its CPU all the time, so that nothing could overwrite a bad delta?
    #[must_use]
    pub const fn undisturbed(&self) -> bool {
        self.before.timeslices == self.after.timeslices
    }
}

/// One KVM_RUN on the calling thread, watched.
///
/// # Errors
/// When the guest or the statistics fail.
pub fn run_watched(mut vcpu: Vcpu) -> Result<(Vcpu, Watched)> {
    let before = SchedStat::now()?;
    vcpu.run()?;
    Ok((vcpu, Watched { before, after: SchedStat::now()? }))
}
