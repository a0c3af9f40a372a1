//! What a picture shows of one vCPU, gathered event by event in bounded memory.

use stealtrace_common::{
    event::{Event, EventKind, HOST_INITIATED, NUMBERS_UNKNOWN, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    kvm::KVM_RUN,
};

use super::series::Series;
use crate::model::{Finding, Thread, VcpuName};

/// Threads that have a line of their own.
const MOST_THREADS: usize = 24;
/// Stays and ioctls that are kept apart.
const MOST: usize = 4096;
/// Findings and restores that are marked; all are counted.
const MOST_MARKS: usize = 256;

/// One vCPU over time.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) name: VcpuName,
    /// Who did something to it, in order of appearance; those after them have no line.
    pub(super) threads: Vec<Thread>,
    /// The guest's counter, as a signed number: below zero it wrapped.
    pub(super) steal: Series,
    /// What its runners waited, from the counter's first value.
    pub(super) waited: Series,
    pub(super) last_steal: Series,
    /// By thread.
    pub(super) run_delay: Vec<Series>,
    pub(super) stays: Vec<Stay>,
    pub(super) ioctls: Vec<Ioctl>,
    pub(super) restores: Vec<Act>,
    pub(super) marks: Vec<Mark>,
    /// Findings that were told, those without a mark included.
    pub(super) found: u64,
    account: Account,
    act: Option<Act>,
}

/// A thread ran the guest from here to there; None: several did, too many to tell apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stay {
    pub(super) thread: Option<usize>,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Another thread than the runner was in one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ioctl {
    pub(super) thread: usize,
    pub(super) number: u32,
    pub(super) x: u64,
}

/// What put a wrong number into last_steal: the VMM restored steal time, or another thread took over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub(super) thread: usize,
    pub(super) x: u64,
    pub(super) is_restore: bool,
}

/// A finding, where it is seen, and what led to it.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) x: u64,
    pub(super) finding: Finding,
    pub(super) act: Option<Act>,
}

/// What its runners waited, summed up.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    runner: Option<(usize, u64)>,
    waited_ns: Option<i64>,
}

impl Track {
    pub(super) fn new(name: VcpuName) -> Self {
        Self {
            name,
            threads: Vec::new(),
            steal: Series::default(),
            waited: Series::default(),
            last_steal: Series::default(),
            run_delay: Vec::new(),
            stays: Vec::new(),
            ioctls: Vec::new(),
            restores: Vec::new(),
            marks: Vec::new(),
            found: 0,
            account: Account::default(),
            act: None,
        }
    }

    /// An event of this vCPU, at this place of the time axis.
    pub(super) fn learn(&mut self, event: &Event, x: u64) {
        let thread = self.thread(Thread::caller(event));
        match event.kind {
            EventKind::Ioctl => self.learn_ioctl(event, thread, x),
            EventKind::EnablingWrite if event.has(HOST_INITIATED) => self.learn_restore(event, thread, x),
            EventKind::Update | EventKind::Load | EventKind::EnablingWrite => {}
            EventKind::Created
            | EventKind::Destroyed
            | EventKind::Call
            | EventKind::Return
            | EventKind::ThreadEnded => return,
        }
        if !event.has(NUMBERS_UNKNOWN) {
            self.learn_numbers(event, thread, x);
        }
    }

    pub(super) fn find(&mut self, finding: &Finding, x: u64) {
        self.found += 1;
        if self.marks.len() < MOST_MARKS {
            let act = self.act.filter(|act| act.x <= x);
            self.marks.push(Mark { x, finding: finding.clone(), act });
        }
    }

    /// The number of a thread; that of the last one for all that have none.
    fn thread(&mut self, thread: Thread) -> usize {
        if let Some(known) = self.threads.iter().position(|known| *known == thread) {
            return known;
        }
        if self.threads.len() < MOST_THREADS {
            self.threads.push(thread);
            self.run_delay.push(Series::default());
        }
        self.threads.len() - 1
    }

    fn learn_ioctl(&mut self, event: &Event, thread: usize, x: u64) {
        let runner = self.stays.last().and_then(|stay| stay.thread);
        if event.ioctl == KVM_RUN {
            if runner.is_some_and(|runner| runner != thread) {
                self.act = Some(Act { thread, x, is_restore: false });
            }
            self.stay(thread, x);
        } else if runner != Some(thread) {
            if self.ioctls.len() >= MOST {
                let mut n = 0;
                self.ioctls.retain(|_| {
                    n += 1;
                    n % 2 == 0
                });
            }
            self.ioctls.push(Ioctl { thread, number: event.ioctl, x });
        }
    }

    fn stay(&mut self, thread: usize, x: u64) {
        if let Some(last) = self.stays.last_mut() {
            last.to = x;
            if last.thread == Some(thread) {
                return;
            }
        }
        if self.stays.len() >= MOST {
            self.stays = self.stays.chunks(2).map(Stay::together).collect();
        }
        self.stays.push(Stay { thread: Some(thread), from: x, to: x });
    }

    fn learn_restore(&mut self, event: &Event, thread: usize, x: u64) {
        if event.is_enabled() {
            let act = Act { thread, x, is_restore: true };
            self.act = Some(act);
            if self.restores.len() < MOST_MARKS {
                self.restores.push(act);
            }
        }
    }

    fn learn_numbers(&mut self, event: &Event, thread: usize, x: u64) {
        self.run_delay[thread].push(x, signed(event.run_delay_ns));
        if event.was_enabled() || event.is_enabled() {
            self.last_steal.push(x, signed(event.last_steal_before_ns));
            self.last_steal.push(x, signed(event.last_steal_after_ns));
        }
        let is_runner = self.stays.last().is_none_or(|stay| stay.thread == Some(thread));
        if let Some(last) = self.stays.last_mut()
            && is_runner
        {
            last.to = x;
        }
        if event.kind == EventKind::Update {
            for (known, steal_ns) in
                [(STEAL_BEFORE_KNOWN, event.steal_before_ns), (STEAL_AFTER_KNOWN, event.steal_after_ns)]
            {
                if event.has(known) {
                    self.steal.push(x, signed(steal_ns));
                    self.account.waited_ns.get_or_insert(signed(steal_ns));
                }
            }
        }
        if is_runner {
            self.account.wait(thread, event.run_delay_ns);
        }
        if let Some(waited_ns) = self.account.waited_ns {
            self.waited.push(x, waited_ns);
        }
    }
}

impl Account {
    fn wait(&mut self, thread: usize, run_delay_ns: u64) {
        if let Some((runner, before_ns)) = self.runner.replace((thread, run_delay_ns))
            && runner == thread
            && let Some(waited_ns) = &mut self.waited_ns
        {
            *waited_ns = waited_ns.saturating_add(signed(run_delay_ns.saturating_sub(before_ns)));
        }
    }
}

impl Stay {
    /// Two that follow each other as one.
    fn together(stays: &[Self]) -> Self {
        let (first, last) = (stays[0], stays[stays.len() - 1]);
        let thread = first.thread.filter(|_| first.thread == last.thread);
        Self { thread, from: first.from, to: last.to }
    }
}

/// As the guest's memory has it, but with a sign.
const fn signed(ns: u64) -> i64 {
    ns.cast_signed()
}
