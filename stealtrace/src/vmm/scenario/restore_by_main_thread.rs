//! The bug report: the vCPU's own thread creates it, the main thread restores steal time, the vCPU's thread runs.

use std::time::Instant;

use anyhow::Result;

use super::{Charge, Decides, Expects, Fault, Observation, PAST, Play, Scenario, apart, show};
use crate::vmm::{StageThread, Vcpu, Vm, Watched, accrue_run_delay, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "restore-by-main-thread",
    about: "a thread creates a vCPU, the main thread restores its steal time, the vCPU's thread runs it",
    property: "steal is at most the run_delay of the thread that runs the vCPU",
    expects: Expects::RESTORE,
    decides: Some(Decides::Restore),
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    accrue_run_delay(PAST)?;
    let vm = Vm::new()?;
    let runner = StageThread::spawn("vcpu0")?;
    let vcpu = runner.act(move || vm.create_vcpu(0))?;
    restored_and_run(&runner, vcpu)
}

/// Restore on this thread, run for the first time on the other.
pub(super) fn restored_and_run(runner: &StageThread, vcpu: Vcpu) -> Result<Observation> {
    if !apart(run_delay_ns()?, runner.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    let since = Instant::now();
    vcpu.restore()?;
    let (_vcpu, ran) = runner.lend(vcpu, Watched::first_run)?;
    Ok(at_most_the_runners(&ran, since))
}

/// The first run after a restore: the guest must see no more than the runner's own waiting.
pub(super) fn at_most_the_runners(ran: &Watched, since: Instant) -> Observation {
    let charge = Charge::of(ran, since);
    let fault = charge.fault().or_else(|| {
        let (grew, most) = (charge.grew_ns().cast_unsigned(), ran.after.run_delay_ns);
        (grew > most)
            .then(|| Fault::broken(format!("charged {grew} ns; the runner's run_delay is {most} ns")))
    });
    Observation::new(show(ran.area_after), fault, ran.undisturbed())
}
