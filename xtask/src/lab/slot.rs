//! Slots: one emulator more at a time than there are CPUs, over all processes of one run of the tests. Each emulates with
//! one thread, and rests where its guest does; many more at a time would only make each of them slow.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Tells the processes of a run where the slots are. Without it nobody waits.
pub(crate) const VARIABLE: &str = "STEALTRACE_SLOTS";

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// Minutes: begun last, it would go on alone.
    Long,
    /// Fits in anywhere.
    Short,
}

/// The right to run an emulator, until dropped or the process ends.
pub(crate) struct Slot(#[expect(dead_code, reason = "holds the lock")] Option<File>);

impl Slot {
    /// Wait for one.
    pub(crate) fn take(length: Length) -> Result<Self> {
        let Some(folder) = env::var_os(VARIABLE).map(PathBuf::from) else { return Ok(Self(None)) };
        let slots = thread::available_parallelism().map_or(1, usize::from) + 1;
        wait_in(&folder, slots, length).map(|slot| Self(Some(slot)))
    }
}

fn wait_in(folder: &Path, slots: usize, length: Length) -> Result<File> {
    let queue = file(folder, "queue")?;
    if length == Length::Long {
        queue.lock_shared().context("queue for a slot")?;
    }
    loop {
        if let Some(slot) = free(folder, slots, &queue, length)? {
            return Ok(slot);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Short ones wait while long ones do: those hold the queue.
fn free(folder: &Path, slots: usize, queue: &File, length: Length) -> Result<Option<File>> {
    if length == Length::Short {
        if queue.try_lock().is_err() {
            return Ok(None);
        }
        queue.unlock().context("leave the queue")?;
    }
    for number in 0..slots {
        let slot = file(folder, &format!("slot-{number}"))?;
        if slot.try_lock().is_ok() {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

fn file(folder: &Path, name: &str) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(name);
    File::create(&path).with_context(|| format!("create {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Length, file, free, wait_in};

    #[test]
    fn no_more_at_a_time_than_slots_and_long_ones_first() {
        let folder = std::env::temp_dir().join(format!("stealtrace-slots-{}", std::process::id()));
        let queue = || file(&folder, "queue").unwrap();
        let first = wait_in(&folder, 2, Length::Long).unwrap();
        let _second = wait_in(&folder, 2, Length::Short).unwrap();
        assert!(free(&folder, 2, &queue(), Length::Short).unwrap().is_none());
        let waiting = queue();
        waiting.lock_shared().unwrap();
        drop(first);
        assert!(free(&folder, 2, &queue(), Length::Short).unwrap().is_none());
        assert!(free(&folder, 2, &waiting, Length::Long).unwrap().is_some());
        drop(waiting);
        assert!(free(&folder, 2, &queue(), Length::Short).unwrap().is_some());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
