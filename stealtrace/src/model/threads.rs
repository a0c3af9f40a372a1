//! Names of threads, as events have shown them.

use rustc_hash::FxHashMap;
use stealtrace_common::event::Event;

use super::Thread;

/// Names by thread id.
#[derive(Debug, Default)]
pub struct Threads {
    names: FxHashMap<u32, Named>,
    /// So many were left when those that ended were forgotten last.
    kept: usize,
}

/// So many more are worth looking for those that ended.
const MANY: usize = 1024;

#[derive(Debug)]
struct Named {
    comm: String,
    /// Another thread may get the number.
    has_ended: bool,
}

impl Threads {
    /// Learn the caller's name.
    pub fn learn(&mut self, event: &Event) {
        let named = || Named { comm: Thread::caller(event).comm, has_ended: false };
        let thread = self.names.entry(event.caller_tid).or_insert_with(named);
        if thread.has_ended {
            *thread = named();
        }
    }

    /// A thread ended.
    pub fn end(&mut self, tid: u32) {
        self.names.entry(tid).and_modify(|thread| thread.has_ended = true);
    }

    /// Is it time to forget those that ended?
    #[must_use]
    pub fn are_many(&self) -> bool {
        self.names.len() > 2 * self.kept + MANY
    }

    /// Keep those that live.
    pub fn keep(&mut self, lives: &dyn Fn(u32) -> bool) {
        self.names.retain(|tid, _| lives(*tid));
        self.kept = self.names.len();
    }

    /// The thread with this id; None for 0, which stands for "not known".
    #[must_use]
    pub fn find(&self, tid: u32) -> Option<Thread> {
        let comm = || self.names.get(&tid).map_or_else(|| "?".to_owned(), |thread| thread.comm.clone());
        (tid != 0).then(|| Thread { tid, comm: comm() })
    }
}
