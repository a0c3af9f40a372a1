//! The loop: events, signals, the command or the processes named, the time that is given.

use std::{future, os::fd::AsFd as _, pin::pin, time::Duration};

use anyhow::{Context as _, Result};
use stealtrace_common::ring::Entry;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime,
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{Live, Sink};
use crate::{
    os::{process, talk::remark},
    pipeline::Flow,
};

/// Events handled before anything else is looked at again.
const BATCH: usize = 16_384;

/// What a drain left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// Nothing.
    Empty,
    /// More events.
    MoreWaits,
    /// Whatever there is, the sinks have enough.
    Enough,
}

impl Live {
    /// Hand events over until a signal comes, the time is over, the sinks have enough, or what is traced has ended.
    ///
    /// # Errors
    /// A sink's, or when one cannot wait.
    pub(crate) fn follow(&mut self, time: Option<Duration>, sink: &mut dyn Sink) -> Result<()> {
        self.follow_or(time, future::pending(), sink)
    }

    /// The same, or until somebody calls.
    ///
    /// # Errors
    /// A sink's, or when one cannot wait.
    pub(crate) fn follow_or(
        &mut self,
        time: Option<Duration>,
        call: impl Future<Output = ()>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
        runtime.block_on(self.wait(time, call, sink))
    }

    async fn wait(
        &mut self,
        time: Option<Duration>,
        call: impl Future<Output = ()>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut call = pin!(call);
        let ring = self.backend.as_fd().try_clone_to_owned().context("duplicate the ring's descriptor")?;
        // SAFETY: the AsyncFd owns the descriptor, so it stays open and the same.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.context("wait for events")?;
        let mut child = signal(SignalKind::child()).context("listen for signals")?;
        let mut tick = interval(self.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = time.map(|time| Instant::now() + time);
        while !self.interrupted {
            let drained = tokio::select! {
                biased; // the ring may never be empty
                () = until(deadline) => return Ok(()),
                () = &mut call => return Ok(()),
                _ = child.recv() => Drained::Empty,
                ready = ring.readable() => {
                    let mut ready = ready.context("wait for events")?;
                    let drained = self.drain(sink)?;
                    if drained == Drained::Empty {
                        ready.clear_ready();
                    }
                    drained
                }
                _ = tick.tick() => {
                    self.let_go();
                    self.drain(sink)?
                }
            };
            if drained == Drained::Enough || self.is_over()? {
                return Ok(());
            }
            self.interrupted = self.interrupt.came();
        }
        Ok(())
    }

    /// kvm must not stay loaded for our sake.
    fn let_go(&mut self) {
        if self.backend.lets_go() {
            remark("kvm's vendor module was unloaded: letting go of kvm");
        }
    }

    /// Has the command ended, or every process that was named?
    fn is_over(&mut self) -> Result<bool> {
        match &mut self.command {
            Some(command) => command.has_ended(),
            None => Ok(process::all_ended(&self.watched)),
        }
    }

    /// Hand over what is left in the ring.
    pub(crate) fn drain_rest(&mut self, sink: &mut dyn Sink) -> Result<()> {
        while self.drain(sink)? == Drained::MoreWaits {}
        Ok(())
    }

    fn drain(&mut self, sink: &mut dyn Sink) -> Result<Drained> {
        let mut handled = Ok(Flow::Continue);
        let each = |entry: &Entry| {
            handled = sink.entry(entry);
            matches!(handled, Ok(Flow::Continue))
        };
        let is_empty = self.backend.drain(BATCH, each);
        Ok(match (handled?, sink.tick()?) {
            (Flow::Continue, Flow::Continue) if is_empty => Drained::Empty,
            (Flow::Continue, Flow::Continue) => Drained::MoreWaits,
            _ => Drained::Enough,
        })
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}
