//! What happened to a vCPU and is not over yet: restores, hand-offs, underflows that wait to be settled.

use stealtrace_common::event::{Event, STEAL_AFTER_KNOWN};

use super::Thread;

/// Steal time was enabled by the VMM.
#[derive(Clone, Debug)]
pub struct Restore {
    /// Who did it.
    pub by: Thread,
    /// Its run_delay then.
    pub run_delay_ns: u64,
    /// `last_steal` before the write.
    pub last_steal_before_ns: u64,
    /// `last_steal` after the write.
    pub last_steal_after_ns: u64,
}

impl Restore {
    /// What such an event says.
    #[must_use]
    pub fn from_event(event: &Event) -> Self {
        Self {
            by: Thread::caller(event),
            run_delay_ns: event.run_delay_ns,
            last_steal_before_ns: event.last_steal_before_ns,
            last_steal_after_ns: event.last_steal_after_ns,
        }
    }

    /// Did the kernel copy the caller's run_delay into last_steal, as Linux 3.1 to 4.3 do?
    #[must_use]
    pub const fn copied(&self) -> bool {
        self.last_steal_after_ns == self.run_delay_ns && self.last_steal_after_ns != self.last_steal_before_ns
    }
}

/// Steal time was enabled, by the VMM or the guest.
#[derive(Clone, Copy, Debug)]
pub struct Enabling {
    /// Thread that did it.
    pub tid: u32,
    /// Its run_delay then, or a moment before.
    pub run_delay_ns: u64,
}

/// An underflow of which it is not known yet whether it reached the guest.
#[derive(Clone, Debug)]
pub struct Unsettled {
    /// The update.
    pub event: Event,
    /// The hand-off that led to it.
    pub hand_off: Option<HandOff>,
    /// [`Vcpu::copied_by`] then.
    pub copied_by: Option<u32>,
}

impl Unsettled {
    /// An underflow in a guest's area that could not be read yet. The next update tells: it replaces the delta on
    /// kernels that keep it until guest entry, and where none does the counter shows it.
    #[must_use]
    pub const fn begins_with(event: &Event) -> bool {
        event.delta().is_underflow() && !event.has(STEAL_AFTER_KNOWN) && event.ioctl != 0
    }
}

/// KVM_RUN moved to another thread while steal time was enabled.
#[derive(Clone, Debug)]
pub struct HandOff {
    /// The runner before.
    pub from: Thread,
    /// The first KVM_RUN of the runner after.
    pub run: Event,
    /// Did the runner run it again, without an update in between?
    pub is_past: bool,
}
