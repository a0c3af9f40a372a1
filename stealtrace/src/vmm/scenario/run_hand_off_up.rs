//! Hand-off to a thread that has waited more: the guest is charged the difference.

use anyhow::Result;

use super::{
    Charge, Expects, Fault, Harm, Observation, PAST, Play, Scenario, apart, same_thread::enabled_and_run,
};
use crate::vmm::{StageThread, Vcpu, Watched, accrue_run_delay, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "run-hand-off-up",
    about: "a thread with a small run_delay runs a vCPU, then a thread with a large one runs it",
    property: "steal grows by no more than the time; an over-charge is the difference of the two run_delays",
    expects: Expects::HAND_OFF_UP,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    handed_up(enabled_and_run)
}

/// By a fresh thread that ran it like this, to one that has waited.
pub(super) fn handed_up(
    run: impl FnOnce() -> Result<(Vcpu, Watched)> + Send + 'static,
) -> Result<Observation> {
    let new = StageThread::spawn("vcpu0-new")?;
    new.act(|| accrue_run_delay(PAST))?;
    let runner = StageThread::spawn("vcpu0-old")?;
    let (vcpu, old) = runner.act(run)?;
    if !apart(new.act(run_delay_ns)?, runner.act(run_delay_ns)?) {
        return Ok(Observation::unprepared());
    }
    let (_vcpu, ran) = new.lend(vcpu, Watched::run)?;
    let charge = Charge::of(&ran, old.began);
    let would_show = charge.would_show(ran.before.run_delay_ns.saturating_sub(old.after.run_delay_ns));
    let saw = charge.saw();
    let fault = charge.fault().map(|fault| {
        if fault.harm == Harm::OverCharged && ran.undisturbed() {
            the_difference(&old, &ran, charge, fault)
        } else {
            fault
        }
    });
    Ok(Observation::new(saw, fault, ran.undisturbed() && would_show))
}

/// An over-charge is the difference of the runners' run_delays; anything else has another cause.
fn the_difference(old: &Watched, new: &Watched, charge: Charge, fault: Fault) -> Fault {
    let least = new.before.run_delay_ns - old.after.run_delay_ns;
    let most = new.after.run_delay_ns - old.before.run_delay_ns;
    if (least..=most).contains(&charge.grew_ns().cast_unsigned()) {
        return fault;
    }
    Fault::broken(format!("{}; the runners' run_delays differ by {least} to {most} ns", fault.what))
}
