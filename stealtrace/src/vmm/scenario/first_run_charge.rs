//! A thread with a past enables steal time and runs: since Linux 4.4 its whole past is charged at once.

use std::time::Instant;

use anyhow::Result;

use super::{Charge, Expects, Observation, PAST, Play, Scenario};
use crate::vmm::{StageThread, Vm, Watched, accrue_run_delay};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "first-run-charge",
    about: "a thread that has waited long for a CPU enables a vCPU's steal time and runs it",
    property: "steal grows by no more than the time since it was enabled",
    expects: Expects::FIRST_RUN,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        accrue_run_delay(PAST)?;
        let mut vcpu = Vm::new()?.create_vcpu(0)?;
        let since = Instant::now();
        vcpu.restore()?;
        let ran = Watched::run(&mut vcpu)?;
        let charge = Charge::of(&ran, since);
        let conclusive = ran.undisturbed() && charge.would_show(ran.before.run_delay_ns);
        Ok(Observation::new(charge.saw(), charge.fault(), conclusive))
    })
}
