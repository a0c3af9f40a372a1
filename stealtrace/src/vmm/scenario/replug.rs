//! As Cloud Hypervisor resizes and QEMU unplugs and plugs a CPU: the runner's thread ends, a new one runs the same vCPU.

use anyhow::Result;

use super::{
    Decides, Observation, Scenario,
    run_hand_off::{run_and_wait, taken_over},
};
use crate::vmm::StageThread;

pub(super) const SCENARIO: Scenario = Scenario {
    id: "replug",
    about: "the runner's thread ends and a new one runs the vCPU; steal grows by no more than the time that passed",
    decides: Decides::HandOff,
    run,
};

fn run() -> Result<Observation> {
    let (vcpu, since) = StageThread::spawn("vcpu0-unplugged")?.act(run_and_wait)?;
    taken_over(&StageThread::spawn("vcpu0-plugged")?, vcpu, since)
}
