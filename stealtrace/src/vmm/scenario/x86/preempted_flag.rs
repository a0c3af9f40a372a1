//! `preempted` in the steal area: the guest's spinlocks and TLB flushes rely on it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::{Expects, Fault, Observation, Play, Scenario};
use crate::vmm::{GuestMemory, Vm, arch, contended, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "preempted-flag",
    about: "a guest looks at its preempted flag while its thread competes for a CPU; the VMM looks at it too",
    property: "the flag is set while the vCPU is scheduled out, and never while the guest runs",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

/// A thread that competes with three others is scheduled out long before: it waits three quarters of the time, so that
/// so many looks would see it on any host.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOKS: u32 = 1000;
/// A host so busy that the guest does not even begin is no host to test on.
const BEGINNING: Duration = Duration::from_secs(30);

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let vm = Vm::running(arch::SPIN)?;
    let memory = vm.memory();
    let runner = thread::Builder::new().name("vcpu0".to_owned()).spawn(move || {
        let mut vcpu = vm.create_vcpu(0)?;
        vcpu.restore()?;
        contended(|| vcpu.run())?;
        Ok::<_, anyhow::Error>(vcpu.stat("preemption_reported"))
    })?;
    let scheduled_out = watch(&memory);
    memory.set(guest::STOP, 1_u8);
    let reported = runner.join().map_err(|_| anyhow!("the vCPU's thread panicked"))??;
    let seen_by_guest = memory.byte(guest::SEEN_PREEMPTED) != 0;
    if !scheduled_out && reported == Some(0) {
        return Ok(Observation::skipped(
            "KVM emulates this guest, and marks a vCPU only between two instructions",
        ));
    }
    let fault = match (scheduled_out, seen_by_guest) {
        (false, _) => Some(Fault::broken("never set, though the vCPU was scheduled out")),
        (true, true) => Some(Fault::broken("still set while the guest ran")),
        (true, false) => None,
    };
    Ok(Observation::new(format!("scheduled out: {scheduled_out}, running: {seen_by_guest}"), fault, true))
}

/// Is the flag ever set while the vCPU is in KVM_RUN?
fn watch(memory: &GuestMemory) -> bool {
    let nap = || thread::sleep(Duration::from_micros(50));
    let begun = Instant::now();
    while memory.byte(guest::STARTED) == 0 && begun.elapsed() < BEGINNING {
        nap();
    }
    let (since, mut looks) = (Instant::now(), 0);
    while looks < LOOKS || since.elapsed() < PATIENCE {
        if memory.steal_area(guest::STEAL_AREA).preempted != 0 {
            return true;
        }
        looks += 1;
        nap();
    }
    false
}
