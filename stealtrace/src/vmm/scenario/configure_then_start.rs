//! As Firecracker and Cloud Hypervisor start: one thread creates and configures a vCPU and restores its steal time,
//! then the vCPU gets a thread of its own.

use anyhow::Result;

use super::{Decides, Expects, Observation, PAST, Play, Scenario, restore_by_main_thread::restored_and_run};
use crate::vmm::{StageThread, Vm, accrue_run_delay};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "configure-then-start",
    about: "the main thread creates a vCPU and restores its steal time before the thread that runs it exists",
    property: "steal is at most the run_delay of the thread that runs the vCPU",
    expects: Expects::RESTORE,
    decides: Some(Decides::Restore),
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    accrue_run_delay(PAST)?;
    let vcpu = Vm::new()?.create_vcpu(0)?;
    restored_and_run(&StageThread::spawn("vcpu0")?, vcpu)
}
