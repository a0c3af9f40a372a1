//! Two threads with different pasts run a vCPU in turn.

use anyhow::Result;

use super::{
    Charge, Expects, Observation, Play, Scenario, apart, run_hand_off_down::run_and_wait, show, worse,
};
use crate::vmm::{StageThread, Watched, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "run-hand-off-ping-pong",
    about: "two threads, one with a large run_delay, run a vCPU in turn, four times each",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::HAND_OFF_DOWN,
    decides: None,
    play,
};

const TURNS: usize = 4;

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let old = StageThread::spawn("vcpu0-ping")?;
    let (mut vcpu, mut since) = old.act(run_and_wait)?;
    let new = StageThread::spawn("vcpu0-pong")?;
    let waited_ns = old.act(run_delay_ns)?;
    if !apart(waited_ns, new.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    let mut seen = vec![show(vcpu.steal_area())];
    let (mut fault, mut conclusive) = (None, false);
    for (turn, thread) in [&new, &old].into_iter().cycle().take(2 * TURNS).enumerate() {
        let ran;
        (vcpu, ran) = thread.lend(vcpu, Watched::run)?;
        fault = worse(fault, Charge::of(&ran, since).fault());
        let down = turn % 2 == 0; // only that sets the counter back
        conclusive |= down && ran.undisturbed() && apart(waited_ns, ran.after.run_delay_ns);
        since = ran.began;
        if seen.len() < 3 {
            seen.push(show(ran.area_after));
        }
    }
    Ok(Observation::new(format!("{} ...", seen.join(" -> ")), fault, conclusive))
}
