//! Progress: tells a lab guest that hangs from one that is slow. Judges what it is told; asks nobody.

use std::time::Duration;

/// So long without progress is a hang.
const SILENCE: Duration = Duration::from_secs(60);

/// Or so many times what the boot took, on a machine on which even that takes long: it takes 4 to 6 s.
const BOOTS: u32 = 12;

/// What counts as progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    /// That the lab guest still schedules and keeps time: its command may be silent for as long as it likes.
    Life,
    /// Only that something was written: to a port, to the console, to a file in its /tmp.
    Work,
    /// Nothing is asked of it: beats would be counted where instructions are.
    Nothing,
}

/// One look at a lab guest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    /// Since QEMU was started.
    pub(crate) at: Duration,
    /// How long of that its emulator waited for a CPU: a busy machine's doing, no silence of the guest's.
    pub(crate) waited: Duration,
    /// Anything that changes as the guest goes on.
    pub(crate) written: u64,
}

impl Look {
    /// What passed for the guest.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        (self.at - earlier.at).saturating_sub(self.waited.saturating_sub(earlier.waited))
    }
}

/// The last sign of progress, and how long the next may take.
pub(crate) struct Progress {
    last: Look,
    limit: Duration,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { last: Look::default(), limit: SILENCE }
    }

    /// The lab guest has booted: how fast this machine is.
    pub(crate) fn booted(&mut self, look: Look) {
        self.limit = SILENCE.max(look.since(&Look::default()) * BOOTS);
        self.last = look;
    }

    /// How long it has been silent, if that is too long.
    pub(crate) fn hangs(&mut self, look: Look) -> Option<Duration> {
        if look.written != self.last.written {
            self.last = look;
        }
        let silent = look.since(&self.last);
        (silent > self.limit).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Look, Progress};

    fn look(at: u64, waited: u64, written: u64) -> Look {
        Look { at: Duration::from_secs(at), waited: Duration::from_secs(waited), written }
    }

    /// After a boot of so many seconds.
    fn booted(seconds: u64) -> Progress {
        let mut progress = Progress::new();
        progress.booted(look(seconds, 0, 0));
        progress
    }

    #[test]
    fn a_minute_without_progress_is_a_hang() {
        let mut progress = booted(5);
        assert_eq!(progress.hangs(look(65, 0, 0)), None);
        assert_eq!(progress.hangs(look(66, 0, 0)), Some(Duration::from_secs(61)));
    }

    #[test]
    fn a_slow_machine_that_goes_on_writing_is_no_hang() {
        let mut progress = booted(5);
        for step in 1..100 {
            assert_eq!(progress.hangs(look(5 + step * 59, 0, step)), None);
        }
    }

    #[test]
    fn what_the_emulator_waited_for_a_cpu_is_no_silence() {
        let mut progress = booted(5);
        assert_eq!(progress.hangs(look(305, 250, 0)), None);
        assert!(progress.hangs(look(365, 250, 0)).is_some());
    }

    #[test]
    fn a_machine_that_boots_slowly_is_given_more() {
        let mut progress = booted(20);
        assert_eq!(progress.hangs(look(250, 0, 0)), None);
        assert!(progress.hangs(look(270, 0, 0)).is_some());
    }

    #[test]
    fn a_boot_that_says_nothing_hangs() {
        assert!(Progress::new().hangs(look(61, 0, 0)).is_some());
    }
}
