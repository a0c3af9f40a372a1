//! Names of threads, as events have shown them.

use rustc_hash::FxHashMap;
use stealtrace_common::event::Event;

use super::Thread;

/// Names by thread id.
#[derive(Debug, Default)]
pub struct Threads(FxHashMap<u32, String>);

impl Threads {
    /// Learn the caller's name.
    pub fn learn(&mut self, event: &Event) {
        let Self(names) = self;
        names.entry(event.caller_tid).or_insert_with(|| Thread::caller(event).comm);
    }

    /// The thread with this id; None for 0, which stands for "not known".
    #[must_use]
    pub fn find(&self, tid: u32) -> Option<Thread> {
        let Self(names) = self;
        (tid != 0).then(|| Thread { tid, comm: names.get(&tid).cloned().unwrap_or_else(|| "?".to_owned()) })
    }
}
