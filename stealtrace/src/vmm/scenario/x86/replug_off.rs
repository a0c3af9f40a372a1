//! As Linux takes a CPU offline and online: the guest disables steal time before its thread ends, and enables it on the
//! new one.

use std::time::Instant;

use anyhow::Result;

use super::{
    Expects, Observation, Play, Scenario, replug::plugged_again, run_hand_off_down::run_and_wait_in,
};
use crate::vmm::{Vcpu, Vm, Watched, arch};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "replug-off",
    about: "the guest disables steal time, the thread that runs the vCPU ends, on a new one the guest enables it",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::ENABLED_ELSEWHERE,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    plugged_again(run_and_disable, enable_and_run)
}

fn run_and_disable() -> Result<(Vcpu, Instant)> {
    run_and_wait_in(&Vm::running(arch::OFF_ON)?)
}

/// KVM need not update the area before the next KVM_RUN.
fn enable_and_run(vcpu: &mut Vcpu) -> Result<Watched> {
    let wrote = Watched::run(vcpu)?;
    Ok(wrote.followed_by(&Watched::run(vcpu)?))
}
