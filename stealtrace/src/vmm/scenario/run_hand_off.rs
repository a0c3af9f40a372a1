//! Hand-off: the main thread runs the vCPU twice, then another thread runs it. Steal must not go backwards.

use std::time::Instant;

use anyhow::Result;

use super::{Decides, Observation, Scenario, restore_by_main_thread::MAIN_RUN_DELAY, show};
use crate::vmm::{StageThread, Vm, accrue_run_delay, run_watched};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "run-hand-off",
    about: "KVM_RUN moves from the main thread to a fresh one; steal grows by no more than the time that passed",
    decides: Decides::HandOff,
    run,
};

fn run() -> Result<Observation> {
    accrue_run_delay(MAIN_RUN_DELAY)?;
    let vm = Vm::new()?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.restore_steal_msr()?;
    vcpu.run()?;
    vcpu.run()?;
    let (before, since) = (vcpu.steal_area(), Instant::now());

    let (vcpu, ran) = StageThread::spawn("vcpu0")?.act(move || run_watched(vcpu))?;

    let after = vcpu.steal_area();
    let passed_ns = since.elapsed().as_nanos();
    let growth = after.steal_ns.wrapping_sub(before.steal_ns);
    let fault = if u128::from(growth) <= passed_ns {
        None
    } else if after.steal_ns < before.steal_ns {
        Some("steal went backwards".to_owned())
    } else {
        Some(format!("steal wrapped or grew by more than the {passed_ns} ns that passed"))
    };
    Ok(Observation {
        saw: format!("{} -> {}", show(before), show(after)),
        fault,
        conclusive: ran.undisturbed(),
    })
}
