//! A housekeeping ioctl from another thread while the vCPU lives, as QEMU's KVM_SET_VAPIC_ADDR at start and reset.
//! The runner has waited long, the housekeeper has not: the order in which old kernels charge the past twice.

use anyhow::Result;

use super::{
    Charge, Expects, Observation, Play, Scenario, apart,
    run_hand_off_down::{run_and_wait, taken_over},
};
use crate::vmm::{StageThread, Watched, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "housekeeping-from-main",
    about: "a thread runs a vCPU, another thread reads its registers, the first runs it again",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::FOREIGN_IOCTL,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let runner = StageThread::spawn("vcpu0")?;
    let (vcpu, since) = runner.act(run_and_wait)?;
    let housekeeper = StageThread::spawn("housekeeper")?;
    if !apart(runner.act(run_delay_ns)?, housekeeper.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    let (vcpu, ()) = housekeeper.lend(vcpu, |vcpu| vcpu.read_registers())?;
    let its_own_ns = housekeeper.act(run_delay_ns)?;
    let would_show = |ran: &Watched, charge: &Charge| {
        charge.would_show(ran.before.run_delay_ns.saturating_sub(its_own_ns))
    };
    taken_over(&runner, vcpu, since, Watched::run, would_show)
}
