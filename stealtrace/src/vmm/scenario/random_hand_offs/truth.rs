//! What should have been charged, whatever the kernel: each runner's own wait.

use super::{
    stage::Record,
    steps::{Act, VCPUS},
};

/// By how much the charges, one by one, differ from that in all.
pub(super) fn off_by_ns(records: &[Record]) -> u64 {
    let mut ran = [None; VCPUS];
    records.iter().map(|record| off(record, &mut ran[record.step.vcpu])).sum()
}

/// The last to run a vCPU, and what it had waited before and after.
type Ran = (usize, (u64, u64));

fn off(record: &Record, ran: &mut Option<Ran>) -> u64 {
    let last = *ran;
    if record.step.act == Act::Run {
        *ran = Some((record.step.thread, record.run_delay_ns));
    }
    let (Some(growth), Some(last)) = (record.growth_ns(), last) else {
        return 0; // what the first run charges is another scenario's
    };
    let (least, most) = own_wait(record, last);
    let (least, most, growth) = (i128::from(least), i128::from(most), i128::from(growth));
    u64::try_from((least - growth).max(growth - most).max(0)).unwrap_or(u64::MAX)
}

/// Since this thread ran the vCPU last; since it was told to, if another did.
fn own_wait(record: &Record, (runner, ran): Ran) -> (u64, u64) {
    let (before, after) = record.run_delay_ns;
    if runner == record.step.thread { (before - ran.1, after - ran.0) } else { (0, after - before) }
}

#[cfg(test)]
mod tests {
    use super::off_by_ns;
    use crate::vmm::scenario::random_hand_offs::stage::testing::ran;

    #[test]
    fn a_runners_own_wait_is_what_it_should_be() {
        assert_eq!(off_by_ns(&[ran(1, (100, 100), 100), ran(1, (170, 180), 75)]), 0);
        assert_eq!(off_by_ns(&[ran(1, (100, 100), 100), ran(1, (170, 180), 60)]), 10);
        assert_eq!(off_by_ns(&[ran(1, (100, 100), 100), ran(1, (170, 180), 90)]), 10);
    }

    #[test]
    fn the_difference_of_two_threads_is_not() {
        let ping_pong = |down, up| [ran(1, (100, 100), 100), ran(2, (30, 35), down), ran(1, (100, 100), up)];
        assert_eq!(off_by_ns(&ping_pong(3, 0)), 0);
        assert_eq!(off_by_ns(&ping_pong(-70, 70)), 140);
    }
}
