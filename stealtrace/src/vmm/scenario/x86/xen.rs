//! Guests of Xen, whose steal time KVM keeps apart from the MSR's: the same subtraction, until Linux 7.3 clamps it, and a
//! restore that copies. What a preempted thread waits it counts by the clock, so that a guest may be charged somewhat more
//! than that.

use std::time::Instant;

use anyhow::Result;

use super::{
    Charge, Expects, Fault, Growth, Observation, PAST, Play, Scenario, apart,
    random_hand_offs::without_model,
    run_hand_off_down::{handed_down, run_and_wait_in},
    run_hand_off_up::handed_up,
    same_thread::{enabled_and_run_in, wait_and_run},
};
use crate::vmm::{StageThread, Vm, Watched, accrue_run_delay, run_delay_ns};

pub(super) const SAME_THREAD: Scenario = Scenario {
    id: "xen-same-thread",
    about: "one thread says where the runstate of a guest of Xen lies, runs it, waits for a CPU, and runs it again",
    property: "steal grows by what the thread waited, never by more than the time",
    expects: Expects::NO_HARM,
    decides: None,
    play: same_thread,
};

pub(super) const HAND_OFF_DOWN: Scenario = Scenario {
    id: "xen-hand-off-down",
    about: "run-hand-off-down with a guest of Xen",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::HAND_OFF_DOWN,
    decides: None,
    play: hand_off_down,
};

pub(super) const HAND_OFF_UP: Scenario = Scenario {
    id: "xen-hand-off-up",
    about: "run-hand-off-up with a guest of Xen",
    property: "steal grows by no more than the time; an over-charge is the difference of the two run_delays",
    expects: Expects::HAND_OFF_UP,
    decides: None,
    play: hand_off_up,
};

pub(super) const RANDOM_HAND_OFFS: Scenario = Scenario {
    id: "xen-random-hand-offs",
    about: "random-hand-offs with a guest of Xen; a restore takes the runstate away and gives it back",
    property: "steal never goes back and grows by no more than the time",
    expects: Expects::HAND_OFF_DOWN,
    decides: None,
    play: |play| in_vm(|vm| without_model(play, vm)),
};

pub(super) const RESTORE: Scenario = Scenario {
    id: "xen-restore",
    about: "the main thread restores the runstate of a guest of Xen, another thread runs it",
    property: "steal counts on from what was restored, and grows by no more than the time",
    expects: Expects::HAND_OFF_DOWN,
    decides: None,
    play: restore,
};

/// In a VM for a guest of Xen, if KVM has them here.
fn in_vm(play: impl FnOnce(Vm) -> Result<Observation>) -> Result<Observation> {
    match Vm::for_xen()? {
        Some(vm) => play(vm),
        None => {
            Ok(Observation::skipped("this host's KVM keeps no runstate for guests of Xen (CONFIG_KVM_XEN)"))
        }
    }
}

fn same_thread(_: &mut Play<'_>) -> Result<Observation> {
    in_vm(|vm| {
        StageThread::spawn("vcpu0")?.act(move || {
            let (mut vcpu, first) = enabled_and_run_in(&vm)?;
            let last = wait_and_run(&mut vcpu)?;
            Ok(what_it_waited(&first, &last))
        })
    })
}

/// At least what the thread waited, at most the time.
fn what_it_waited(first: &Watched, last: &Watched) -> Observation {
    let charge = Charge { before: first.area_after, after: last.area_after, passed: first.began.elapsed() };
    let growth = Growth::between(first, last);
    let fault = charge.fault().or_else(|| {
        let (grew, waited) = (growth.steal_ns(), growth.run_delay_ns());
        (grew < waited).then(|| Fault::broken(format!("grew by {grew} ns, the thread waited {waited} ns")))
    });
    Observation::new(charge.saw(), fault, true)
}

fn hand_off_down(_: &mut Play<'_>) -> Result<Observation> {
    in_vm(|vm| handed_down(move || run_and_wait_in(&vm)))
}

fn hand_off_up(_: &mut Play<'_>) -> Result<Observation> {
    in_vm(|vm| handed_up(move || enabled_and_run_in(&vm)))
}

/// What the guest ran, and what of its time was stolen, where it came from: less than its new VM is old.
const RAN_NS: u64 = 2_000_000;
const STOLEN_NS: u64 = 1_000_000;

fn restore(_: &mut Play<'_>) -> Result<Observation> {
    in_vm(|vm| {
        accrue_run_delay(PAST)?;
        let runner = StageThread::spawn("vcpu0")?;
        let vcpu = runner.act(move || vm.create_vcpu(0))?;
        if !apart(run_delay_ns()?, runner.act(run_delay_ns)?) {
            return Ok(Observation::unprepared());
        }
        let since = Instant::now();
        vcpu.restore_runstate(RAN_NS, STOLEN_NS)?;
        let (_vcpu, ran) = runner.lend(vcpu, Watched::run)?;
        let charge = Charge::of(&ran, since);
        Ok(Observation::new(charge.saw(), charge.fault(), ran.undisturbed()))
    })
}
