//! A thread's scheduler statistics as /proc shows them.

use std::fs;

use anyhow::{Context as _, Result};

/// Scheduler statistics of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedStat {
    /// `sched_info.run_delay`: ns it was ready to run but did not.
    pub run_delay_ns: u64,
    /// `sched_info.pcount`: times it was put on a CPU.
    pub timeslices: u64,
}

impl SchedStat {
    /// Of the calling thread.
    ///
    /// # Errors
    /// When the kernel keeps no scheduler statistics.
    pub fn now() -> Result<Self> {
        const FILE: &str = "/proc/thread-self/schedstat";
        let text = fs::read_to_string(FILE).with_context(|| format!("read {FILE}"))?;
        parse(&text).with_context(|| format!("no run_delay in {FILE}: {text:?}"))
    }
}

/// The calling thread's run_delay.
///
/// # Errors
/// When the kernel keeps no scheduler statistics.
pub fn run_delay_ns() -> Result<u64> {
    Ok(SchedStat::now()?.run_delay_ns)
}

/// `<time running> <run_delay> <timeslices>`
fn parse(text: &str) -> Option<SchedStat> {
    let mut numbers = text.split_ascii_whitespace().skip(1).map(str::parse);
    Some(SchedStat { run_delay_ns: numbers.next()?.ok()?, timeslices: numbers.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::{SchedStat, parse};

    #[test]
    fn run_delay_and_timeslices_are_the_second_and_third_number() {
        assert_eq!(parse("123 456 7\n"), Some(SchedStat { run_delay_ns: 456, timeslices: 7 }));
        assert_eq!(parse("123 456\n"), None);
        assert_eq!(parse("123 x 7"), None);
    }
}
