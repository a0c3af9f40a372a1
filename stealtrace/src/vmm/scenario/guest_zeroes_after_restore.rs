//! A guest that boots again after a bad restore zeroes its counter: the corruption is gone from its view, but it was
//! there, and whoever traces the host sees it.

use std::time::Instant;

use anyhow::Result;

use super::{Charge, Expects, Observation, PAST, Play, Scenario, apart, show};
use crate::vmm::{StageThread, Vm, Watched, accrue_run_delay, arch, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "guest-zeroes-after-restore",
    about: "the main thread restores a vCPU's steal time, its own thread runs it, then the guest zeroes its counter",
    property: "from zero on, steal grows by no more than the time",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    accrue_run_delay(PAST)?;
    let runner = StageThread::spawn("vcpu0")?;
    let vcpu = runner.act(|| Vm::running(arch::ZERO)?.create_vcpu(0))?;
    if !apart(run_delay_ns()?, runner.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    let since = Instant::now();
    vcpu.restore()?;
    runner
        .lend(vcpu, move |vcpu| {
            let restored = Watched::first_run(vcpu)?;
            let zeroed = Watched::run(vcpu)?;
            let after = Watched::run(vcpu)?;
            let charge = Charge::of(&after, zeroed.began);
            let saw = format!("{}, zeroed, {}", show(restored.area_after), show(after.area_after));
            let aside = Charge::of(&restored, since).harm();
            Ok(Observation { aside, ..Observation::new(saw, charge.fault(), restored.undisturbed()) })
        })
        .map(|(_vcpu, seen)| seen)
}
