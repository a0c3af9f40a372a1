//! The control of a restore: the thread that runs the vCPU restores its steal time, as QEMU does since 2.4.

use std::time::Instant;

use anyhow::Result;

use super::{Decides, Expects, Observation, Play, Scenario, restore_by_main_thread::at_most_the_runners};
use crate::vmm::{StageThread, Vm, Watched};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "restore-by-runner",
    about: "the thread that creates and runs a vCPU restores its steal time itself",
    property: "steal is at most the run_delay of the thread that runs the vCPU",
    expects: Expects::NO_HARM,
    decides: Some(Decides::Alone),
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let mut vcpu = Vm::new()?.create_vcpu(0)?;
        let since = Instant::now();
        vcpu.restore()?;
        Ok(at_most_the_runners(&Watched::first_run(&mut vcpu)?, since))
    })
}
