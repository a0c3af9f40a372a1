//! As loadvm does: the VMM brings older guest memory back under a running counter. KVM counts on from there.

use anyhow::Result;

use super::{
    Expects, Growth, Observation, Play, Scenario,
    same_thread::{enabled_and_run, wait_and_run},
    show,
};
use crate::vmm::StageThread;

pub(super) const SCENARIO: Scenario = Scenario {
    id: "memory-rewound",
    about: "a thread runs a vCPU twice, the VMM brings the first steal area back, the thread waits and runs it again",
    property: "steal counts on from the older value by exactly the thread's run_delay",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let (mut vcpu, first) = enabled_and_run()?;
        let lived = wait_and_run(&mut vcpu)?;
        vcpu.set_steal_area(first.area_after);
        let last = wait_and_run(&mut vcpu)?;
        let growth = Growth::between(&lived, &last).from(first.area_after);
        let saw = format!("{}, set back, {}", show(lived.area_after), growth.saw());
        Ok(Observation { saw, ..growth.observation() })
    })
}
