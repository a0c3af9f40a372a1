//! The bug report: the vCPU's own thread creates it, the main thread restores the steal MSR, the vCPU's thread runs.

use std::time::Duration;

use anyhow::Result;

use super::{Decides, Observation, Scenario, show};
use crate::vmm::{StageThread, Vm, accrue_run_delay, run_watched};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "restore-by-main-thread",
    about: "the main thread restores the steal MSR of a vCPU another thread runs; steal is at most that thread's",
    decides: Decides::Restore,
    run,
};

/// How long the main thread has waited for a CPU; far more than a fresh thread.
pub(super) const MAIN_RUN_DELAY: Duration = Duration::from_millis(800);

fn run() -> Result<Observation> {
    accrue_run_delay(MAIN_RUN_DELAY)?;
    let vm = Vm::new()?;
    let runner = StageThread::spawn("vcpu0")?;

    let vcpu = runner.act(move || vm.create_vcpu(0))?;
    vcpu.restore_steal_msr()?;
    let (vcpu, ran) = runner.act(move || run_watched(vcpu))?;

    let area = vcpu.steal_area();
    let most_ns = ran.after.run_delay_ns;
    let fault = (area.steal_ns > most_ns).then(|| format!("more than the runner's run_delay, {most_ns} ns"));
    Ok(Observation { saw: show(area), fault, conclusive: ran.undisturbed() })
}
