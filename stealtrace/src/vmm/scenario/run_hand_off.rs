//! Hand-off: one thread runs the vCPU, waits for a CPU and runs it again; then a fresh thread runs it.
//! Steal must not go backwards.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Decides, Observation, Scenario, restore_by_main_thread::MAIN_RUN_DELAY, show};
use crate::vmm::{StageThread, Vcpu, Vm, accrue_run_delay, outwait_past, run_delay_ns, run_watched};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "run-hand-off",
    about: "KVM_RUN moves from a thread to a fresh one; steal grows by no more than the time that passed",
    decides: Decides::HandOff,
    run,
};

fn run() -> Result<Observation> {
    let old = StageThread::spawn("vcpu0-old")?;
    let new = StageThread::spawn("vcpu0-new")?;
    let (vcpu, since) = old.act(run_and_wait)?;
    taken_over(&new, vcpu, since)
}

/// By a thread: far more run_delay than a fresh one has, all of it honestly charged. Also when it ran last: what
/// it waits from then on is the next charge.
pub(super) fn run_and_wait() -> Result<(Vcpu, Instant)> {
    let vm = Vm::new()?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.restore_steal_msr()?;
    outwait_past()?;
    vcpu.run()?;
    accrue_run_delay(Duration::from_nanos(run_delay_ns()?) + MAIN_RUN_DELAY)?;
    let since = Instant::now();
    vcpu.run()?;
    Ok((vcpu, since))
}

/// Whatever thread runs it, the guest's steal grows by no more than the time that passes.
pub(super) fn taken_over(by: &StageThread, vcpu: Vcpu, since: Instant) -> Result<Observation> {
    let before = vcpu.steal_area();
    let (vcpu, ran) = by.act(move || run_watched(vcpu))?;
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
    let saw = format!("{} -> {}", show(before), show(after));
    Ok(Observation { saw, fault, conclusive: ran.undisturbed() })
}
