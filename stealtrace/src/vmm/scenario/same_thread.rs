//! Control: one thread creates, enables and runs. Growth must equal the thread's own run_delay growth.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Decides, Observation, Scenario, show};
use crate::vmm::{StageThread, StealArea, Vm, accrue_run_delay, outwait_past, run_delay_ns, run_watched};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "same-thread",
    about: "one thread does everything; steal grows by exactly its run_delay",
    decides: Decides::Control,
    run,
};

/// What the thread waits between its two runs.
const WAIT: Duration = Duration::from_millis(50);

fn run() -> Result<Observation> {
    StageThread::spawn("vcpu0")?.act(on_one_thread)
}

fn on_one_thread() -> Result<Observation> {
    let vm = Vm::new()?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.restore_steal_msr()?;

    outwait_past()?;
    let earliest = run_delay_ns()?;
    vcpu.run()?; // charges the thread's whole past; growth counts from here
    let (first, first_at) = (vcpu.steal_area(), Instant::now());
    let after_first = run_delay_ns()?;

    accrue_run_delay(Duration::from_nanos(after_first) + WAIT)?;

    let (vcpu, ran) = run_watched(vcpu)?;
    let second = vcpu.steal_area();

    let growth = Growth {
        steal_ns: second.steal_ns.wrapping_sub(first.steal_ns),
        least_ns: ran.before.run_delay_ns - after_first,
        most_ns: ran.after.run_delay_ns - earliest,
        wall: first_at.elapsed(),
    };
    // Rescheduled on its way into the guest, a runner on a kernel with the bug of 2015 loses what it waited before.
    let conclusive = ran.undisturbed() || growth.steal_ns >= growth.least_ns;
    let fault = growth.fault().or_else(|| at_rest(second)).filter(|_| conclusive);
    Ok(Observation { saw: format!("{} -> {}", show(first), show(second)), fault, conclusive })
}

/// What the counter grew by, and what it may have grown by.
struct Growth {
    steal_ns: u64,
    least_ns: u64,
    most_ns: u64,
    wall: Duration,
}

impl Growth {
    fn fault(&self) -> Option<String> {
        let Self { steal_ns, least_ns, most_ns, wall } = self;
        if !(least_ns..=most_ns).contains(&steal_ns) {
            Some(format!("grew by {steal_ns} ns, the thread's run_delay by {least_ns} to {most_ns} ns"))
        } else if u128::from(*steal_ns) > wall.as_nanos() {
            Some(format!("grew by {steal_ns} ns in {} ns", wall.as_nanos()))
        } else {
            None
        }
    }
}

/// Between two runs nobody writes: the version is even.
fn at_rest(area: StealArea) -> Option<String> {
    let sound = area.version.is_multiple_of(2) && area.flags == 0;
    (!sound).then(|| format!("version {} and flags {} at rest", area.version, area.flags))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Growth, at_rest};
    use crate::vmm::StealArea;

    #[test]
    fn growth_must_match_run_delay_and_fit_into_the_time() {
        let growth = Growth { steal_ns: 500, least_ns: 400, most_ns: 600, wall: Duration::from_nanos(1000) };
        assert_eq!(growth.fault(), None);
        assert!(Growth { steal_ns: 399, ..growth }.fault().is_some());
        assert!(Growth { steal_ns: 601, ..growth }.fault().is_some());
        assert!(Growth { steal_ns: 1001, most_ns: 2000, ..growth }.fault().is_some());
    }

    #[test]
    fn an_odd_version_at_rest_is_a_fault() {
        assert!(at_rest(StealArea { version: 2, ..StealArea::default() }).is_none());
        assert!(at_rest(StealArea { version: 3, ..StealArea::default() }).is_some());
        assert!(at_rest(StealArea { version: 2, flags: 1, ..StealArea::default() }).is_some());
    }
}
