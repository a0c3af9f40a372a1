//! Steal time is disabled for a while and enabled again by the same thread.

use std::time::Instant;

use anyhow::Result;

use super::{
    Charge, Expects, Fault, Observation, Play, Scenario,
    same_thread::{WAIT, enabled_and_run},
};
use crate::vmm::{StageThread, Watched, wait_more};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "off-then-on",
    about: "a thread runs a vCPU, disables steal time, waits for a CPU, runs it, enables it again, and runs it",
    property: "the area is not touched while disabled; what was waited meanwhile is not charged afterwards",
    expects: Expects::FIRST_RUN,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(|| {
        let (mut vcpu, charged) = enabled_and_run()?;
        vcpu.set_enabling(0)?;
        let left = vcpu.steal_area();
        wait_more(WAIT)?;
        vcpu.run()?;
        let found = vcpu.steal_area();
        let since = Instant::now();
        vcpu.restore()?;
        let ran = Watched::run(&mut vcpu)?;
        let charge = Charge::of(&ran, since);
        let touched =
            (found != left).then(|| Fault::broken(format!("while disabled {left:?} became {found:?}")));
        let would_show = charge.would_show(ran.before.run_delay_ns - charged.after.run_delay_ns);
        let conclusive = ran.undisturbed() && would_show;
        Ok(Observation::new(charge.saw(), touched.or_else(|| charge.fault()), conclusive))
    })
}
