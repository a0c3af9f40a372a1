//! A host thread, and numbers of threads and processes for people.

use std::{borrow::Cow, fmt};

use stealtrace_common::{event::Event, target::OUTSIDE};

use crate::os::shown::shown;

/// A host thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thread {
    /// Its thread id in stealtrace's PID namespace, or in the initial one, marked with [`OUTSIDE`].
    pub tid: u32,
    /// Its name.
    pub comm: String,
}

impl Thread {
    /// The caller of an event.
    #[must_use]
    pub fn caller(event: &Event) -> Self {
        Self { tid: event.caller_tid, comm: Self::comm_of(event).into_owned() }
    }

    /// The name of an event's caller.
    #[must_use]
    pub fn comm_of(event: &Event) -> Cow<'_, str> {
        Self::name(&event.comm)
    }

    /// A name as the kernel keeps it.
    #[must_use]
    pub fn name(comm: &[u8; 16]) -> Cow<'_, str> {
        let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
        String::from_utf8_lossy(&comm[..end])
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", shown(&self.comm), Pid(self.tid))
    }
}

/// Number of a thread or process, for people.
#[derive(Clone, Copy, Debug)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = *self;
        match number & OUTSIDE {
            0 => write!(f, "{number}"),
            _ => write!(f, "outside:{}", number & !OUTSIDE),
        }
    }
}
