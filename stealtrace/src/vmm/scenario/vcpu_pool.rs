//! As gVisor runs: vCPUs move between threads all the time, and steal time is never enabled.

use anyhow::Result;

use super::{Expects, Fault, Observation, Play, Scenario, show};
use crate::vmm::{StageThread, StealArea, Vm};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "vcpu-pool",
    about: "a pool of threads runs a VM's vCPUs in turn; steal time was never enabled",
    property: "the guest's area is not touched",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

const THREADS: usize = 3;
const VCPUS: u64 = 2;
const ROUNDS: usize = 4;

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let vm = Vm::new()?;
    let threads =
        (0..THREADS).map(|i| StageThread::spawn(&format!("pool{i}"))).collect::<Result<Vec<_>>>()?;
    let mut vcpus = (0..VCPUS).map(|id| vm.create_vcpu(id)).collect::<Result<Vec<_>>>()?;
    for round in 0..ROUNDS * THREADS {
        let (vcpu, ()) = threads[round % THREADS].lend(vcpus.remove(0), |vcpu| vcpu.run())?;
        vcpus.push(vcpu);
    }
    let areas: Vec<_> = vcpus.iter().map(|vcpu| vcpu.steal_area()).collect();
    let touched = areas.iter().find(|area| **area != StealArea::default());
    let fault = touched.map(|area| Fault::broken(format!("the area was written: {area:?}")));
    Ok(Observation::new(areas.into_iter().map(show).collect::<Vec<_>>().join(", "), fault, true))
}
