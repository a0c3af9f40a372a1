//! Bits 1 to 5 of the MSR are reserved: they would also misalign the area. Bit 1 is not where KVM offers to count the host's
//! sleep.

use anyhow::Result;
use stealtrace_common::source::here::SLEEP;

use super::{
    Expects, Fault, Growth, Observation, Play, Scenario, refused,
    same_thread::{enabled_and_run_in, wait_and_run},
};
use crate::vmm::{StageThread, Vcpu, Vm, Watched, arch, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "reserved-bits",
    about: "a thread enables steal time, then writes MSR values with each reserved bit and misaligned addresses",
    property: "KVM refuses them, and the MSR stays what it was; a bit that is offered does no harm",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let vm = Vm::new()?;
        let sleep = if vm.may_count_sleep()? { SLEEP } else { 0 };
        let (mut vcpu, first) = enabled_and_run_in(&vm)?;
        let seen = refused(&vcpu, sleep)?;
        if sleep == 0 || seen.fault.is_some() { Ok(seen) } else { with_sleep(&mut vcpu, &first) }
    })
}

fn refused(vcpu: &Vcpu, offered: u64) -> Result<Observation> {
    let good = vcpu.enabling()?;
    let bits = (1..6).map(|bit| 1 << bit).chain([0x3e]).filter(|bits| *bits != offered);
    let values = bits.flat_map(|bad| [arch::enabling(guest::OTHER_AREA) | bad, guest::OTHER_AREA | bad]);
    let accepted = refused::accepted(vcpu, values)?;
    Ok(refused::refused(&accepted, "MSR", good, vcpu.enabling()?))
}

/// So often that it shows where the lab's host is said to have slept.
const RUNS: usize = 12;

/// What the thread waited is charged, and the host's sleep may be.
fn with_sleep(vcpu: &mut Vcpu, first: &Watched) -> Result<Observation> {
    let value = vcpu.enabling()? | SLEEP;
    if !vcpu.set_enabling(value)? {
        let refused = format!("KVM offers to count the host's sleep, and refuses {value:#x}");
        return Ok(Observation::new("refused".to_owned(), Some(Fault::broken(refused)), true));
    }
    let mut last = wait_and_run(vcpu)?;
    for _ in 0..RUNS {
        last = wait_and_run(vcpu)?;
    }
    let growth = Growth::between(first, &last);
    let lost = (growth.steal_ns() < growth.run_delay_ns()).then(|| {
        Fault::broken(format!(
            "grew by {} ns, the thread waited {}",
            growth.steal_ns(),
            growth.run_delay_ns()
        ))
    });
    Ok(Observation::new(format!("refused but for bit 1; {}", growth.saw()), lost, growth.conclusive()))
}
