//! The VMM's main thread says where the area lies, the guest asks for it on its own thread, as every Linux guest does.

use anyhow::Result;

use super::{
    Charge, Expects, Observation, PAST, Play, Scenario,
    same_thread::{WAIT, exactly_its_own, wait_and_run},
    show,
};
use crate::vmm::{StageThread, Vm, Watched, accrue_run_delay, arch};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "guest-enables-elsewhere",
    about: "the main thread, which has waited long, says where the area lies; on another thread the guest asks for it",
    property: "the counter begins at zero; from then on steal grows by exactly the thread's run_delay",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    accrue_run_delay(PAST)?;
    let vcpu = Vm::running(arch::ENABLE)?.create_vcpu(0)?;
    vcpu.offer()?;
    let runner = StageThread::spawn("vcpu0")?;
    let asked = move |vcpu: &mut _| {
        accrue_run_delay(WAIT)?;
        let first = Watched::first_run(vcpu)?;
        let last = wait_and_run(vcpu)?;
        let since_zero = Charge::of(&first, first.began);
        let seen = exactly_its_own(&first, &last);
        let saw = format!("{}, {}", show(first.area_after), seen.saw);
        let fault = since_zero.fault().or(seen.fault);
        Ok(Observation { saw, fault, ..seen })
    };
    runner.lend(vcpu, asked).map(|(_vcpu, seen)| seen)
}
