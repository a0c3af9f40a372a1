//! The bug report's shape: the main thread restores two vCPUs, each runs on a thread of its own that has waited
//! for another time.

use std::time::Instant;

use anyhow::Result;

use super::{
    Decides, Expects, Observation, PAST, Play, Scenario, apart, restore_by_main_thread::at_most_the_runners,
    same_thread::WAIT, worse,
};
use crate::vmm::{StageThread, Vm, Watched, accrue_run_delay, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "restore-two-vcpus",
    about: "two threads create a vCPU each, the main thread restores both, each thread runs its own",
    property: "each vCPU's steal is at most the run_delay of its own thread",
    expects: Expects::RESTORE,
    decides: Some(Decides::Restore),
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    accrue_run_delay(PAST)?;
    let vm = Vm::new()?;
    let threads = [StageThread::spawn("vcpu0")?, StageThread::spawn("vcpu1")?];
    let mut vcpus = Vec::new();
    for (id, thread) in (0..).zip(&threads) {
        let vm = vm.clone();
        vcpus.push(thread.act(move || vm.create_vcpu(id))?);
    }
    threads[1].act(|| accrue_run_delay(WAIT))?;
    if !apart(run_delay_ns()?, threads[0].act(run_delay_ns)?.max(threads[1].act(run_delay_ns)?)) {
        return Ok(Observation::unprepared());
    }
    let since = Instant::now();
    vcpus.iter().try_for_each(|vcpu| vcpu.restore())?;
    let mut both = Observation { conclusive: true, ..Observation::default() };
    for (thread, vcpu) in threads.iter().zip(vcpus) {
        let (_vcpu, ran) = thread.lend(vcpu, Watched::first_run)?;
        let one = at_most_the_runners(&ran, since);
        let saw = if both.saw.is_empty() { one.saw } else { format!("{}, {}", both.saw, one.saw) };
        both = Observation::new(saw, worse(both.fault, one.fault), both.conclusive && one.conclusive);
    }
    Ok(both)
}
