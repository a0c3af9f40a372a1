//! Migration: the counter comes with the guest's memory, but last_steal begins at 0, so that the first run charges all that
//! its thread ever waited.

use std::time::Instant;

use anyhow::Result;

use super::{Charge, Expects, Observation, PAST, Play, Scenario};
use crate::vmm::{StageThread, StealArea, Vm, Watched, accrue_run_delay};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "restore-first-run",
    about: "the main thread brings a counter back and says where it lies, a thread that has waited long runs the vCPU",
    property: "steal counts on from where it was and grows by no more than the time since",
    expects: Expects::FIRST_RUN,
    decides: None,
    play,
};

/// What the guest was charged where it came from.
const MIGRATED: StealArea = StealArea { steal_ns: 5_000_000_000, version: 0, flags: 0, preempted: 0 };

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let runner = StageThread::spawn("vcpu0")?;
    let vcpu = runner.act(|| {
        accrue_run_delay(PAST)?;
        Vm::new()?.create_vcpu(0)
    })?;
    let since = Instant::now();
    vcpu.set_steal_area(MIGRATED);
    vcpu.restore()?;
    let (_vcpu, ran) = runner.lend(vcpu, Watched::run)?;
    let charge = Charge::of(&ran, since);
    let conclusive = ran.undisturbed() && charge.would_show(ran.before.run_delay_ns);
    Ok(Observation::new(charge.saw(), charge.fault(), conclusive))
}
