//! One thread creates, enables and runs.

use std::time::Duration;

use anyhow::Result;

use super::{Decides, Expects, Growth, Observation, Play, Scenario};
use crate::vmm::{StageThread, Vcpu, Vm, Watched, wait_more};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "same-thread",
    about: "one thread creates a vCPU, enables steal time, runs it, waits for a CPU, and runs it again",
    property: "steal grows by exactly the thread's run_delay, never by more than the time; the version is even",
    expects: Expects::NO_HARM,
    decides: Some(Decides::Alone),
    play,
};

/// What a thread waits for a CPU between two runs.
pub(super) const WAIT: Duration = Duration::from_millis(50);

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let (mut vcpu, first) = enabled_and_run()?;
        let last = wait_and_run(&mut vcpu)?;
        Ok(exactly_its_own(&first, &last))
    })
}

/// A vCPU of this thread that has run once with steal time: what came before is charged.
pub(super) fn enabled_and_run() -> Result<(Vcpu, Watched)> {
    enabled_and_run_in(&Vm::new()?)
}

/// The same of a VM that is there.
pub(super) fn enabled_and_run_in(vm: &Vm) -> Result<(Vcpu, Watched)> {
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.restore()?;
    let first = Watched::first_run(&mut vcpu)?;
    Ok((vcpu, first))
}

pub(super) fn wait_and_run(vcpu: &mut Vcpu) -> Result<Watched> {
    wait_more(WAIT)?;
    Watched::run(vcpu)
}

/// Between two runs of one thread steal grew by that thread's run_delay.
pub(super) fn exactly_its_own(first: &Watched, last: &Watched) -> Observation {
    Growth::between(first, last).observation()
}
