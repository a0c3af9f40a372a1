//! The bug report: the vCPU's own thread creates it, the main thread restores the steal MSR, the vCPU's thread runs.

use std::time::Duration;

use anyhow::Result;

use super::{Decides, Observation, Scenario, at_most_the_runners};
use crate::vmm::{StageThread, Vm, accrue_run_delay};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "restore-by-main-thread",
    about: "the main thread restores the steal MSR of a vCPU another thread runs; steal is at most that thread's",
    decides: Decides::Restore,
    run,
};

/// How long a thread with a past has waited for a CPU; far more than a fresh one.
pub(super) const MAIN_RUN_DELAY: Duration = Duration::from_millis(800);

fn run() -> Result<Observation> {
    accrue_run_delay(MAIN_RUN_DELAY)?;
    let vm = Vm::new()?;
    let runner = StageThread::spawn("vcpu0")?;
    let vcpu = runner.act(move || vm.create_vcpu(0))?;
    vcpu.restore_steal_msr()?;
    at_most_the_runners(&runner, vcpu)
}
