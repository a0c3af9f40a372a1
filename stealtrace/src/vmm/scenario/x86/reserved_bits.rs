//! Bits 1 to 5 of the MSR are reserved: they would also misalign the area.

use anyhow::Result;

use super::{Expects, Fault, Observation, Play, Scenario};
use crate::vmm::{StageThread, Vm, arch, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "reserved-bits",
    about: "a thread enables steal time, then writes MSR values with each reserved bit and misaligned addresses",
    property: "KVM refuses them, and the MSR stays what it was",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let vcpu = Vm::new()?.create_vcpu(0)?;
        vcpu.restore()?;
        let good = vcpu.enabling()?;
        let mut accepted = Vec::new();
        for bad in (1..6).map(|bit| 1 << bit).chain([0x3e]) {
            for value in [arch::enabling(guest::OTHER_AREA) | bad, guest::OTHER_AREA | bad] {
                if vcpu.set_enabling(value)? {
                    accepted.push(format!("{value:#x}"));
                }
            }
        }
        let now = vcpu.enabling()?;
        let fault = if !accepted.is_empty() {
            Some(Fault::broken(format!("KVM accepts {}", accepted.join(", "))))
        } else {
            (now != good).then(|| Fault::broken(format!("the MSR was {good:#x} and is {now:#x}")))
        };
        let saw = if accepted.is_empty() { "refused" } else { "accepted" };
        Ok(Observation::new(saw.to_owned(), fault, true))
    })
}
