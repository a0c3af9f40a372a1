//! As gVisor runs: vCPUs move between threads all the time, and steal time is never enabled.

use anyhow::Result;

use super::{Decides, Observation, Scenario, show};
use crate::vmm::{StageThread, StealArea, Vm};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "vcpu-pool",
    about: "vCPUs move between threads with the steal MSR disabled; the guest's area stays untouched",
    decides: Decides::Control,
    run,
};

const THREADS: usize = 3;
const VCPUS: usize = 2;
const ROUNDS: usize = 4;

fn run() -> Result<Observation> {
    let vm = Vm::new()?;
    let threads =
        (0..THREADS).map(|i| StageThread::spawn(&format!("pool{i}"))).collect::<Result<Vec<_>>>()?;
    let mut vcpus = (0..VCPUS).map(|id| vm.create_vcpu(id as u64)).collect::<Result<Vec<_>>>()?;
    for round in 0..ROUNDS * THREADS {
        let mut vcpu = vcpus.remove(0);
        vcpu = threads[round % THREADS].act(move || {
            vcpu.run()?;
            Ok(vcpu)
        })?;
        vcpus.push(vcpu);
    }
    let area = vm.steal_area();
    let fault = (area != StealArea::default()).then(|| format!("the area was written: {area:?}"));
    Ok(Observation { saw: show(area), fault, conclusive: true })
}
