//! The area's address is behind the guest's memory.

use anyhow::Result;

use super::{Expects, Fault, Observation, Play, Scenario};
use crate::vmm::{StageThread, StealArea, Vm, arch, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "area-unbacked",
    about: "a thread puts a vCPU's steal area behind the guest's memory and runs it",
    property: "KVM refuses the address, or runs the guest and writes nothing",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let mut vcpu = Vm::new()?.create_vcpu(0)?;
        let accepted = vcpu.set_enabling(arch::enabling(guest::UNBACKED))?;
        vcpu.run()?;
        vcpu.run()?;
        let area = vcpu.steal_area();
        let fault = (area != StealArea::default()).then(|| Fault::broken(format!("{area:?} was written")));
        let saw = if accepted { "accepted, nothing written" } else { "refused" };
        Ok(Observation::new(saw.to_owned(), fault, true))
    })
}
