//! Hand-off to a thread that has waited less: one thread runs the vCPU, waits for a CPU and runs it again; then a
//! fresh thread runs it.

use std::time::Instant;

use anyhow::Result;

use super::{
    Charge, Decides, Expects, Observation, PAST, Play, Scenario, apart, same_thread::enabled_and_run_in,
};
use crate::vmm::{StageThread, Vcpu, Vm, Watched, run_delay_ns, wait_more};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "run-hand-off-down",
    about: "a thread with a large run_delay runs a vCPU, then a thread with a small one runs it",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::HAND_OFF_DOWN,
    decides: Some(Decides::HandOff),
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    handed_down(run_and_wait)
}

/// By a thread that ran it like this, to a fresh one.
pub(super) fn handed_down(
    run_and_wait: impl FnOnce() -> Result<(Vcpu, Instant)> + Send + 'static,
) -> Result<Observation> {
    let old = StageThread::spawn("vcpu0-old")?;
    let (vcpu, since) = old.act(run_and_wait)?;
    let new = StageThread::spawn("vcpu0-new")?; // fresh: no part of the wait is its own
    let waited_ns = old.act(run_delay_ns)?;
    if !apart(waited_ns, new.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    taken_over(&new, vcpu, since, Watched::run, |ran, _| apart(waited_ns, ran.after.run_delay_ns))
}

/// By a thread: far more run_delay than a fresh one has, all of it honestly charged. Also when it ran last: what
/// it waits from then on is the next charge.
pub(super) fn run_and_wait() -> Result<(Vcpu, Instant)> {
    run_and_wait_in(&Vm::new()?)
}

/// The same in a VM that is there.
pub(super) fn run_and_wait_in(vm: &Vm) -> Result<(Vcpu, Instant)> {
    let (mut vcpu, _) = enabled_and_run_in(vm)?;
    wait_more(PAST)?;
    let since = Instant::now();
    vcpu.run()?;
    Ok((vcpu, since))
}

/// Whatever thread runs it, the guest's steal grows by no more than the time that passes. Would it have shown
/// otherwise? On a busy host a fresh thread may have waited as long as the old one, or as much time may have passed as
/// would be charged too much.
pub(super) fn taken_over(
    by: &StageThread,
    vcpu: Vcpu,
    since: Instant,
    run: fn(&mut Vcpu) -> Result<Watched>,
    would_show: impl FnOnce(&Watched, &Charge) -> bool,
) -> Result<Observation> {
    let (_vcpu, ran) = by.lend(vcpu, run)?;
    let charge = Charge::of(&ran, since);
    let conclusive = ran.undisturbed() && would_show(&ran, &charge);
    Ok(Observation::new(charge.saw(), charge.fault(), conclusive))
}
