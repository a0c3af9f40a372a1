//! As Cloud Hypervisor resizes and QEMU unplugs and plugs a CPU: the runner's thread ends, a new one runs the same vCPU.

use std::time::Instant;

use anyhow::Result;

use super::{
    Decides, Expects, Observation, Play, Scenario, apart,
    run_hand_off_down::{run_and_wait, taken_over},
};
use crate::vmm::{StageThread, Vcpu, Watched, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "replug",
    about: "the thread that runs a vCPU ends, a new thread runs the same vCPU",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::HAND_OFF_DOWN,
    decides: Some(Decides::HandOff),
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    plugged_again(run_and_wait, Watched::run)
}

/// What a thread did with its vCPU before it ended, and what a new one does with it.
pub(super) fn plugged_again(
    unplugged: fn() -> Result<(Vcpu, Instant)>,
    run: fn(&mut Vcpu) -> Result<Watched>,
) -> Result<Observation> {
    let (vcpu, since, waited_ns) = StageThread::spawn("vcpu0-unplugged")?.act(move || {
        let (vcpu, since) = unplugged()?;
        Ok((vcpu, since, run_delay_ns()?))
    })?;
    let new = StageThread::spawn("vcpu0-plugged")?;
    if !apart(waited_ns, new.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    taken_over(&new, vcpu, since, run, |ran, _| apart(waited_ns, ran.after.run_delay_ns))
}
