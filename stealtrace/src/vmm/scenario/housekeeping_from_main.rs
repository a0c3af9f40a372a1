//! A housekeeping ioctl from another thread while the vCPU lives, as QEMU's KVM_SET_VAPIC_ADDR at start and reset.
//! The runner has waited long, the housekeeper has not: the order in which old kernels charge the past twice.

use anyhow::Result;

use super::{
    Decides, Observation, Scenario,
    run_hand_off::{run_and_wait, taken_over},
};
use crate::vmm::StageThread;

pub(super) const SCENARIO: Scenario = Scenario {
    id: "housekeeping-from-main",
    about: "another thread reads the vCPU's registers between two runs; steal grows by no more than the time that passed",
    decides: Decides::Restore,
    run,
};

fn run() -> Result<Observation> {
    let runner = StageThread::spawn("vcpu0")?;
    let housekeeper = StageThread::spawn("housekeeper")?;
    let (vcpu, since) = runner.act(run_and_wait)?;
    let vcpu = housekeeper.act(move || {
        vcpu.read_registers()?;
        Ok(vcpu)
    })?;
    taken_over(&runner, vcpu, since)
}
