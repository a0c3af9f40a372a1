//! The memory slot under the steal area is deleted and made anew elsewhere, as VMMs do when they remap memory.

use anyhow::Result;

use super::{
    Expects, Fault, Observation, Play, Scenario,
    same_thread::{enabled_and_run, exactly_its_own, wait_and_run},
};
use crate::vmm::{StageThread, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "memslot-replaced",
    about: "a thread runs a vCPU, its memory slot is deleted and made from a copy, the thread waits and runs it",
    property: "the old memory is not touched any more; steal counts on exactly in the new",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let (mut vcpu, first) = enabled_and_run()?;
        let old = vcpu.vm().replace_memory()?;
        let left = old.steal_area(guest::STEAL_AREA);
        let last = wait_and_run(&mut vcpu)?;
        let found = old.steal_area(guest::STEAL_AREA);
        let mut seen = exactly_its_own(&first, &last);
        if found != left {
            seen.fault = Some(Fault::broken(format!("the old memory's {left:?} became {found:?}")));
        }
        Ok(seen)
    })
}
