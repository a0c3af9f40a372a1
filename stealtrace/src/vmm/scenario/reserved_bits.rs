//! Bits 1 to 5 of the MSR are reserved: they would also misalign the area.

use anyhow::Result;
use stealtrace_common::kvm::MSR_ENABLED;

use super::{Expects, Fault, Observation, Play, Scenario};
use crate::vmm::{StageThread, Vm, guest};

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
        vcpu.restore_steal_msr()?;
        let good = vcpu.steal_msr()?;
        let mut accepted = Vec::new();
        for bad in (1..6).map(|bit| 1 << bit).chain([0x3e]) {
            for value in [guest::OTHER_AREA | bad | MSR_ENABLED, guest::OTHER_AREA | bad] {
                if vcpu.write_steal_msr(value)? {
                    accepted.push(format!("{value:#x}"));
                }
            }
        }
        let now = vcpu.steal_msr()?;
        let fault = if !accepted.is_empty() {
            Some(Fault::broken(format!("KVM accepts {}", accepted.join(", "))))
        } else {
            (now != good).then(|| Fault::broken(format!("the MSR was {good:#x} and is {now:#x}")))
        };
        let saw = if accepted.is_empty() { "refused" } else { "accepted" };
        Ok(Observation::new(saw.to_owned(), fault, true))
    })
}
