//! As Firecracker and Cloud Hypervisor start: one thread creates and configures a vCPU and restores its steal MSR,
//! then the vCPU gets a thread of its own.

use anyhow::Result;

use super::{Decides, Observation, Scenario, at_most_the_runners, restore_by_main_thread::MAIN_RUN_DELAY};
use crate::vmm::{StageThread, Vm, accrue_run_delay};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "configure-then-start",
    about: "the main thread creates and restores a vCPU before its thread exists; steal is at most that thread's",
    decides: Decides::Restore,
    run,
};

fn run() -> Result<Observation> {
    accrue_run_delay(MAIN_RUN_DELAY)?;
    let vcpu = Vm::new()?.create_vcpu(0)?;
    vcpu.restore_steal_msr()?;
    at_most_the_runners(&StageThread::spawn("vcpu0")?, vcpu)
}
