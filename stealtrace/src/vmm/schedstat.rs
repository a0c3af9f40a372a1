//! What the scheduler knows of a thread.

use std::{fs, io, mem::MaybeUninit};

use anyhow::{Context as _, Result, bail};

/// Scheduler statistics of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedStat {
    /// `sched_info.run_delay`: ns it was ready to run but did not.
    pub run_delay_ns: u64,
    /// `nivcsw`: times it was put off its CPU although it wanted to run on. Sleeping does not count: KVM_RUN sleeps
    /// (`synchronize_rcu`) whenever a vCPU's thread changes, before it loads the vCPU.
    pub preemptions: u64,
}

impl SchedStat {
    /// Of the calling thread.
    ///
    /// # Errors
    /// When the kernel keeps no scheduler statistics.
    pub fn now() -> Result<Self> {
        Ok(Self { run_delay_ns: run_delay_ns()?, preemptions: preemptions()? })
    }
}

/// The calling thread's run_delay.
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

fn preemptions() -> Result<u64> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: a valid pointer to what the call fills.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) } != 0 {
        bail!("ask for the thread's usage: {}", io::Error::last_os_error());
    }
    // SAFETY: the call succeeded.
    Ok(unsafe { usage.assume_init() }.ru_nivcsw.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn run_delay_is_the_second_number() {
        assert_eq!(parse("123 456 7\n"), Some(456));
        assert_eq!(parse("123\n"), None);
        assert_eq!(parse("123 x 7"), None);
    }
}
