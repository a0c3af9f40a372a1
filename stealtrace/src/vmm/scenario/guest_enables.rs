//! The guest itself enables steal time, as a booting Linux does on each of its CPUs.

use anyhow::Result;
use stealtrace_common::source::here;

use super::{
    Charge, Expects, Fault, Observation, Play, Scenario,
    same_thread::{WAIT, exactly_its_own, wait_and_run},
};
use crate::vmm::{StageThread, Vm, Watched, accrue_run_delay, arch};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "guest-enables",
    about: "a thread runs a vCPU whose guest enables steal time itself, runs it again, waits for a CPU, and runs it",
    property: "the area is live at the guest's next entry; from then on steal grows by exactly the thread's run_delay",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        accrue_run_delay(WAIT)?;
        let mut vcpu = Vm::running(arch::ENABLE)?.create_vcpu(0)?;
        vcpu.offer()?;
        let wrote = Watched::run(&mut vcpu)?;
        let first = Watched::run(&mut vcpu)?;
        // The first charge is first-run-charge's business.
        let charged = Charge { before: wrote.area_before, ..Charge::of(&first, wrote.began) };
        let live = here::lives(&first.area_after);
        let last = wait_and_run(&mut vcpu)?;
        let mut seen = exactly_its_own(&first, &last);
        if !live {
            seen.fault = Some(Fault::broken("the guest's asking did not bring the area to life"));
        }
        seen.aside = charged.harm();
        Ok(seen)
    })
}
