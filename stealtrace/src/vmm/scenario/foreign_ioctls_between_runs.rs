//! Another thread reads and writes back registers between the runs of a vCPU.

use anyhow::Result;

use super::{
    Charge, Expects, Observation, Play, Scenario, apart, run_hand_off_down::run_and_wait, show, worse,
};
use crate::vmm::{StageThread, Watched, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "foreign-ioctls-between-runs",
    about: "a thread runs a vCPU three times; between, another reads and writes back its registers",
    property: "steal does not move but by the runner's own waiting",
    expects: Expects::FOREIGN_IOCTL,
    decides: None,
    play,
};

const RUNS: usize = 3;

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let runner = StageThread::spawn("vcpu0")?;
    let (mut vcpu, mut since) = runner.act(run_and_wait)?;
    let other = StageThread::spawn("curious")?;
    if !apart(runner.act(run_delay_ns)?, other.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    let mut seen = vec![show(vcpu.steal_area())];
    let (mut fault, mut conclusive) = (None, true);
    for _ in 0..RUNS {
        (vcpu, ()) = other.lend(vcpu, |vcpu| vcpu.read_and_write_back())?;
        let its_own_ns = other.act(run_delay_ns)?;
        let ran;
        (vcpu, ran) = runner.lend(vcpu, Watched::run)?;
        let charge = Charge::of(&ran, since);
        fault = worse(fault, charge.fault());
        conclusive &=
            ran.undisturbed() && charge.would_show(ran.before.run_delay_ns.saturating_sub(its_own_ns));
        since = ran.began;
        seen.push(show(ran.area_after));
    }
    Ok(Observation::new(seen.join(" -> "), fault, conclusive))
}
