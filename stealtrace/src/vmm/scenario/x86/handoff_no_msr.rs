//! Hand-off after the guest has disabled steal time.

use anyhow::Result;

use super::{Expects, Fault, Observation, Play, Scenario, run_hand_off_down::run_and_wait, show};
use crate::vmm::StageThread;

pub(super) const SCENARIO: Scenario = Scenario {
    id: "handoff-no-msr",
    about: "a thread runs a vCPU, steal time is disabled, another thread runs the vCPU",
    property: "the guest's area is not touched any more",
    expects: Expects::NO_HARM,
    decides: None,
    play,
};

fn play(_: &mut Play<'_>) -> Result<Observation> {
    let old = StageThread::spawn("vcpu0-old")?;
    let new = StageThread::spawn("vcpu0-new")?;
    let (vcpu, _) = old.act(run_and_wait)?;
    let (vcpu, left) = old.lend(vcpu, |vcpu| {
        vcpu.set_enabling(0)?;
        Ok(vcpu.steal_area())
    })?;
    let (vcpu, ()) = new.lend(vcpu, |vcpu| vcpu.run())?;
    let found = vcpu.steal_area();
    let fault = (found != left).then(|| Fault::broken(format!("{left:?} became {found:?}")));
    Ok(Observation::new(show(found), fault, true))
}
