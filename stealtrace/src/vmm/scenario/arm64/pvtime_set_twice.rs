//! The area's address can be set once, to what is aligned and backed.

use anyhow::Result;

use super::{Expects, Observation, Play, Scenario, refused};
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
        let good = arch::enabling(guest::STEAL_AREA);
        let mut accepted = refused::accepted(&vcpu, [good + 1, good + 8, good + 32])?;
        vcpu.restore()?;
        accepted.extend(refused::accepted(&vcpu, [good, arch::enabling(guest::OTHER_AREA)])?);
        Ok(refused::refused(&accepted, "address", good, vcpu.enabling()?))
    })
}
