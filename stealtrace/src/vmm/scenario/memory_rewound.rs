//! As loadvm does: the VMM brings older guest memory back under a running counter. KVM counts on from there.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Decides, Observation, Scenario, show};
use crate::vmm::{StageThread, Vcpu, Vm, accrue_run_delay, outwait_past, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "memory-rewound",
    about: "the VMM restores an older steal area between two runs; steal counts on from there",
    decides: Decides::Control,
    run,
};

const WAIT: Duration = Duration::from_millis(50);

fn run() -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(on_one_thread)
}

fn on_one_thread() -> Result<Observation> {
    let mut vcpu = Vm::new()?.create_vcpu(0)?;
    vcpu.restore_steal_msr()?;
    outwait_past()?;
    vcpu.run()?;
    let (old, since) = (vcpu.steal_area(), Instant::now());
    wait_and_run(&mut vcpu)?;
    let lived = vcpu.steal_area();
    vcpu.set_steal_area(old);
    wait_and_run(&mut vcpu)?;
    let after = vcpu.steal_area();

    let growth = after.steal_ns.wrapping_sub(old.steal_ns);
    let passed_ns = since.elapsed().as_nanos();
    let fault =
        (u128::from(growth) > passed_ns).then(|| format!("{growth} ns from there, in {passed_ns} ns"));
    let saw = format!("{} -> {}, set back, -> {}", show(old), show(lived), show(after));
    Ok(Observation { saw, fault, conclusive: true })
}

fn wait_and_run(vcpu: &mut Vcpu) -> Result<()> {
    accrue_run_delay(Duration::from_nanos(run_delay_ns()?) + WAIT)?;
    vcpu.run()
}
