//! A thread's run_delay as /proc shows it.

use std::fs;

use anyhow::{Context as _, Result};

/// The calling thread's `sched_info.run_delay`: time it was ready to run but did not.
///
/// # Errors
/// When the kernel keeps no scheduler statistics.
pub fn run_delay_ns() -> Result<u64> {
    const FILE: &str = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(FILE).with_context(|| format!("read {FILE}"))?;
    parse(&text).with_context(|| format!("no run_delay in {FILE}: {text:?}"))
}

/// `<time running> <run_delay> <timeslices>`
fn parse(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_second_number_is_run_delay() {
        assert_eq!(parse("123 456 7\n"), Some(456));
        assert_eq!(parse("123\n"), None);
        assert_eq!(parse("123 x 7"), None);
    }
}
