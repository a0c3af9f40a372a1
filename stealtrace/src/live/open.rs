//! Setting up a live trace: the probes attached, the command of `-- CMD` held until they are.

use std::time::Duration;

use anyhow::Result;

use crate::{
    backend::{EbpfBackend, Plan, Processes},
    kernel::{KernelFacts, NO_AREA, kvm_loading},
    os::{
        clock::now_ns,
        command::{Ended, HeldCommand, Orphaned, RunningCommand},
        interrupt::Interrupt,
        process,
        talk::say,
    },
};

/// Signals sent to us and to the command arrive together, but for this.
const AT_ONCE: Duration = Duration::from_millis(10);

/// A wake-up can be missed, and where there are many events there are none.
const TICK: Duration = Duration::from_millis(10);

/// A trace that has begun.
pub(crate) struct Live {
    pub(crate) backend: EbpfBackend,
    /// When it did, or a little before.
    pub(crate) start_ns: u64,
    /// Nothing waits longer than this.
    pub(crate) tick: Duration,
    /// Which kvm it is of.
    loading: Option<(u64, u64)>,
    pub(super) interrupt: Interrupt,
    pub(super) interrupted: bool,
    held: Option<HeldCommand>,
    pub(super) command: Option<RunningCommand>,
    /// The trace is over when all of these processes are.
    pub(super) watched: Vec<u32>,
}

impl Live {
    /// Attach the probes of a plan. A command is to be let go with [`Self::release`].
    ///
    /// # Errors
    /// When this kernel cannot be traced so, or what the plan names is not there.
    pub(crate) fn open(
        interrupt: Interrupt,
        facts: &KernelFacts,
        mut plan: Plan,
        (command, orphaned): (&[String], Orphaned),
    ) -> Result<Self> {
        if !facts.require_traceable()?.shows_steal_area {
            say(&format!("{NO_AREA}: what guests read is not known here"));
        }
        let named = plan.processes.pids();
        process::require_alive(named, plan.tid)?;
        let watched = if named.is_empty() { plan.tid.as_slice() } else { named }.to_vec();
        let held = HeldCommand::hold(command, orphaned)?;
        if let Some(held) = &held {
            plan.processes = Processes::Tree(held.pid());
        }
        let start_ns = now_ns()?;
        let loading = kvm_loading();
        let backend = EbpfBackend::attach(&plan, facts)?;
        let interrupted = interrupt.came();
        Ok(Self {
            backend,
            start_ns,
            tick: TICK,
            loading,
            interrupt,
            interrupted,
            held,
            command: None,
            watched,
        })
    }

    /// Did a signal come?
    pub(crate) const fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Was kvm unloaded meanwhile, or another loaded? Whatever that does was not seen.
    pub(crate) fn lost_kvm(&self) -> bool {
        kvm_loading() != self.loading
    }

    /// Let the command run, if there is one; not after a signal.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(crate) fn release(&mut self) -> Result<()> {
        let held = self.held.take().filter(|_| !self.interrupted);
        self.command = held.map(HeldCommand::release).transpose()?;
        Ok(())
    }

    /// End the command, then the probes; how the command ended, if it was let go. What is in the ring stays there.
    ///
    /// # Errors
    /// When the command's end cannot be asked for.
    pub(crate) fn end(&mut self) -> Result<Option<Ended>> {
        let ended = self.command.take().map(RunningCommand::end).transpose();
        self.backend.detach();
        let ended = ended?;
        let failed = ended.as_ref().is_some_and(|ended| ended.failure().is_some());
        // A terminal's Ctrl-C reaches the command too; it may be the first to end.
        self.interrupted |= failed && self.interrupt.wait(AT_ONCE);
        Ok(if failed && self.interrupted { ended.map(Ended::with_us) } else { ended })
    }
}
