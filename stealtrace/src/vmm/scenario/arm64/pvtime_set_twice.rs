//! The area's address can be set once, to what is aligned and backed.

use anyhow::Result;

use super::{Expects, Fault, Observation, Play, Scenario};
use crate::vmm::{StageThread, Vm, arch, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "pvtime-set-twice",
    about: "a thread sets misaligned addresses, a good one, and then that one and another again",
    property: "KVM refuses all but the good one, and the address stays what it was",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let vcpu = Vm::new()?.create_vcpu(0)?;
        let mut accepted = Vec::new();
        let mut refuse = |values: &[u64]| {
            for value in values {
                if vcpu.set_enabling(*value)? {
                    accepted.push(format!("{value:#x}"));
                }
            }
            anyhow::Ok(())
        };
        let good = arch::enabling(guest::STEAL_AREA);
        refuse(&[good + 1, good + 8, good + 32])?;
        vcpu.restore()?;
        refuse(&[good, arch::enabling(guest::OTHER_AREA)])?;
        let now = vcpu.enabling()?;
        let fault = if !accepted.is_empty() {
            Some(Fault::broken(format!("KVM accepts {}", accepted.join(", "))))
        } else {
            (now != good).then(|| Fault::broken(format!("the address was {good:#x} and is {now:#x}")))
        };
        let saw = if accepted.is_empty() { "refused" } else { "accepted" };
        Ok(Observation::new(saw.to_owned(), fault, true))
    })
}
