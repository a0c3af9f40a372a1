//! Names of threads, as events have shown them.

use rustc_hash::FxHashMap;
use stealtrace_common::event::Event;

use super::Thread;

/// Names by thread id.
#[derive(Debug, Default)]
pub struct Threads(FxHashMap<u32, Named>);

#[derive(Debug)]
struct Named {
    comm: String,
    /// Another thread may get the number.
    has_ended: bool,
}

impl Threads {
    /// Learn the caller's name.
    pub fn learn(&mut self, event: &Event) {
        let Self(threads) = self;
        let named = || Named { comm: Thread::caller(event).comm, has_ended: false };
        let thread = threads.entry(event.caller_tid).or_insert_with(named);
        if thread.has_ended {
            *thread = named();
        }
    }

    /// A thread ended.
    pub fn end(&mut self, tid: u32) {
        let Self(threads) = self;
        threads.entry(tid).and_modify(|thread| thread.has_ended = true);
    }

    /// The thread with this id; None for 0, which stands for "not known".
    #[must_use]
    pub fn find(&self, tid: u32) -> Option<Thread> {
        let Self(threads) = self;
        let comm = || threads.get(&tid).map_or_else(|| "?".to_owned(), |thread| thread.comm.clone());
        (tid != 0).then(|| Thread { tid, comm: comm() })
    }
}
