//! Migration: a VM's steal time and memory are saved and restored in a new VM, by the main thread or by the runner.

use std::time::Instant;

use anyhow::Result;

use super::{
    Charge, Expects, Observation, PAST, Play, Scenario, apart,
    same_thread::{enabled_and_run, wait_and_run},
    worse,
};
use crate::vmm::{StageThread, StealArea, Vm, Watched, accrue_run_delay, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "restore-new-vm",
    about: "a VM with a steal counter is saved and restored in a new VM, once by the runner, once by the main thread",
    property: "steal never goes back across the move and grows by no more than the time",
    expects: Expects::RESTORE,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    accrue_run_delay(PAST)?;
    let saved = StageThread::spawn("vcpu0-source")?.act(|| {
        let (mut vcpu, _) = enabled_and_run()?;
        Ok(wait_and_run(&mut vcpu)?.area_after)
    })?;
    let by_runner = moved(saved, true)?;
    let by_main = moved(saved, false)?;
    Ok(Observation::new(
        format!("{}; {}", by_runner.saw, by_main.saw),
        worse(by_runner.fault, by_main.fault),
        by_main.conclusive,
    ))
}

/// The saved counter in a new VM, its steal time restored by the runner or by this thread.
fn moved(saved: StealArea, by_runner: bool) -> Result<Observation> {
    let runner = StageThread::spawn("vcpu0")?;
    let mut vcpu = runner.act(|| Vm::new()?.create_vcpu(0))?;
    vcpu.set_steal_area(saved);
    if !apart(run_delay_ns()?, runner.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    let since = Instant::now();
    if by_runner {
        vcpu = runner.lend(vcpu, |vcpu| vcpu.restore())?.0;
    } else {
        vcpu.restore()?;
    }
    let (_vcpu, ran) = runner.lend(vcpu, Watched::first_run)?;
    let charge = Charge::of(&ran, since);
    Ok(Observation::new(charge.saw(), charge.fault(), ran.undisturbed()))
}
