//! Control: one thread creates, enables and runs. Growth must equal the thread's own run_delay growth.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Decides, Observation, Scenario, show};
use crate::vmm::{StageThread, StealArea, Vm, accrue_run_delay, run_delay_ns};

pub(super) const SCENARIO: Scenario = Scenario {
    id: "same-thread",
    about: "one thread does everything; steal grows by exactly its run_delay",
    decides: Decides::Control,
    run,
    attempts: 1,
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

    let earliest = run_delay_ns()?;
    vcpu.run()?; // charges the thread's whole past; growth counts from here
    let (first, first_at) = (vcpu.steal_area(), Instant::now());
    let after_first = run_delay_ns()?;

    accrue_run_delay(Duration::from_nanos(after_first) + WAIT)?;

    let before_second = run_delay_ns()?;
    vcpu.run()?;
    let second = vcpu.steal_area();
    let latest = run_delay_ns()?;

    let growth = second.steal_ns.wrapping_sub(first.steal_ns);
    let least = before_second - after_first;
    let most = latest - earliest;
    let wall = first_at.elapsed();
    Ok(Observation { saw: format!("{} -> {}", show(first), show(second)), fault: fault(second, growth, (least, most), wall) })
}

fn fault(area: StealArea, growth: u64, (least, most): (u64, u64), wall: Duration) -> Option<String> {
    if !(least..=most).contains(&growth) {
        Some(format!("grew by {growth} ns, the thread's run_delay by {least} to {most} ns"))
    } else if u128::from(growth) > wall.as_nanos() {
        Some(format!("grew by {growth} ns in {} ns", wall.as_nanos()))
    } else if area.version % 2 != 0 || area.flags != 0 {
        Some(format!("version {} and flags {} at rest", area.version, area.flags))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::fault;
    use crate::vmm::StealArea;

    const WALL: Duration = Duration::from_nanos(1000);

    #[test]
    fn growth_must_match_run_delay_and_fit_into_the_time() {
        let area = StealArea { version: 2, ..StealArea::default() };
        assert_eq!(fault(area, 500, (400, 600), WALL), None);
        assert!(fault(area, 399, (400, 600), WALL).is_some());
        assert!(fault(area, 601, (400, 600), WALL).is_some());
        assert!(fault(area, 1001, (400, 2000), WALL).is_some());
    }

    #[test]
    fn an_odd_version_at_rest_is_a_fault() {
        assert!(fault(StealArea { version: 3, ..StealArea::default() }, 500, (400, 600), WALL).is_some());
    }
}
