//! A guest whose CPUID hides steal time must not get it (Linux 5.10 and later, where the VMM asks for that).

use anyhow::Result;

use super::{Expects, Fault, Observation, Play, Scenario, show};
use crate::vmm::{StageThread, StealArea, Vm, arch, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "no-cpuid-bit",
    about: "a thread hides steal time from a vCPU's CPUID, has KVM enforce that, writes the MSR, and runs the vCPU",
    property: "KVM refuses the MSR and writes nothing",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let Some(mut vcpu) = Vm::new()?.create_vcpu_without_steal_time()? else {
            return Ok(Observation::skipped("this kernel has no KVM_CAP_ENFORCE_PV_FEATURE_CPUID"));
        };
        let accepted = vcpu.set_enabling(arch::enabling(guest::STEAL_AREA))?;
        vcpu.run()?;
        let area = vcpu.steal_area();
        let fault = if accepted {
            Some(Fault::broken("KVM accepts the MSR"))
        } else {
            (area != StealArea::default()).then(|| Fault::broken(format!("{area:?} was written")))
        };
        let saw = if accepted { show(area) } else { "refused".to_owned() };
        Ok(Observation::new(saw, fault, true))
    })
}
