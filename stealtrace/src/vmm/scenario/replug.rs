//! As Cloud Hypervisor resizes and QEMU unplugs and plugs a CPU: the runner's thread ends, a new one runs the same vCPU.

use anyhow::Result;

use super::{
    Decides, Expects, Observation, Play, Scenario, apart,
    run_hand_off_down::{run_and_wait, taken_over},
};
use crate::vmm::{StageThread, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "replug",
    about: "the thread that runs a vCPU ends, a new thread runs the same vCPU",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::HAND_OFF_DOWN,
    decides: Some(Decides::HandOff),
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let (vcpu, since, waited_ns) = StageThread::spawn("vcpu0-unplugged")?.act(|| {
        let (vcpu, since) = run_and_wait()?;
        Ok((vcpu, since, run_delay_ns()?))
    })?;
    let new = StageThread::spawn("vcpu0-plugged")?;
    if !apart(waited_ns, new.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    taken_over(&new, vcpu, since)
}
