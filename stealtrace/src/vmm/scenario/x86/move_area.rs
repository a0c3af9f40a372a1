//! The MSR is moved to another address, as a guest that boots another kernel does.

use anyhow::Result;

use super::{
    Expects, Fault, Growth, Observation, Play, Scenario,
    same_thread::{enabled_and_run, wait_and_run},
    show,
};
use crate::vmm::{StageThread, StealArea, arch, guest};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "move-area",
    about: "a thread runs a vCPU, moves its steal MSR to another address, waits for a CPU, and runs it",
    property: "the old area is not touched any more; the new one grows by exactly the thread's run_delay",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let (mut vcpu, first) = enabled_and_run()?;
        vcpu.set_enabling(arch::enabling(guest::OTHER_AREA))?;
        let left = vcpu.steal_area();
        vcpu.set_area(guest::OTHER_AREA);
        let last = wait_and_run(&mut vcpu)?;
        let found = vcpu.vm().memory().steal_area(guest::STEAL_AREA);
        let touched =
            (found != left).then(|| Fault::broken(format!("the old area {left:?} became {found:?}")));
        let growth = Growth::between(&first, &last).from(StealArea::default());
        let saw = format!("{}, moved, {}", show(left), growth.saw());
        Ok(Observation::new(saw, touched.or_else(|| growth.fault()), growth.conclusive()))
    })
}
