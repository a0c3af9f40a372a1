//! The loop of a live trace: backend, engine, reporter; signals, deadline, the traced command, the final drain.
//! The only async file.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use stealtrace_common::event::Event;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    backend::{self, BackendKind, EbpfBackend, Targets},
    command::{Ended, HeldCommand, RunningCommand},
    detect::Engine,
    exit::Exit,
    kernel::KernelFacts,
    model::{Severity, Summary},
    report::{self, Format, Reporter, View},
};

/// A wake-up can be missed; nothing waits longer than this.
const SAFETY_TICK: Duration = Duration::from_millis(200);
/// Events handled before signals are looked at again.
const BATCH: usize = 16_384;

/// What to trace and how to show it.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// None: the better usable one.
    pub backend: Option<BackendKind>,
    /// Only these processes; all if empty.
    pub pids: Vec<u32>,
    /// How to print.
    pub format: Format,
    /// Leave out the events?
    pub findings_only: bool,
    /// End by itself after this time.
    pub duration: Option<Duration>,
    /// Size of the ring of events.
    pub ring_bytes: u32,
    /// Findings from here upwards make exit code 1.
    pub fail_on: Severity,
    /// A command to run and trace; empty for none.
    pub command: Vec<String>,
    /// Show the kernel side's diagnostics?
    pub verbose: bool,
}

/// Trace until told to stop.
///
/// # Errors
/// When tracing is not possible here, or the command cannot be run.
pub fn trace(options: &TraceOptions) -> Result<Exit> {
    let facts = KernelFacts::gather()?;
    facts.require_traceable()?;
    let kind = backend::choose(options.backend, &facts)?;
    options.pids.iter().try_for_each(|pid| require_process(*pid))?;

    let held = HeldCommand::hold(&options.command)?;
    let targets = targets(&options.pids, held.as_ref());
    let backend = EbpfBackend::attach(kind, &facts, &targets, options.ring_bytes, options.verbose)?;
    drop(facts); // type information is large and has served
    let command = held.map(HeldCommand::release).transpose()?;

    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    let summary = runtime.block_on(Session::new(options, backend, kind, command)?.run())?;
    Ok(Exit::of(&summary, options.fail_on))
}

fn require_process(pid: u32) -> Result<()> {
    if !Path::new(&format!("/proc/{pid}")).exists() {
        bail!("no process {pid}; `pgrep -l qemu` lists candidates");
    }
    Ok(())
}

fn targets(pids: &[u32], held: Option<&HeldCommand>) -> Targets {
    match held {
        Some(held) => Targets::Tree(held.pid()),
        None if pids.is_empty() => Targets::All,
        None => Targets::Processes(pids.to_vec()),
    }
}

struct Session<'a> {
    options: &'a TraceOptions,
    backend: EbpfBackend,
    kind: BackendKind,
    command: Option<RunningCommand>,
    engine: Engine,
    reporter: Box<dyn Reporter>,
    start_ns: u64,
}

impl<'a> Session<'a> {
    fn new(
        options: &'a TraceOptions,
        backend: EbpfBackend,
        kind: BackendKind,
        command: Option<RunningCommand>,
    ) -> Result<Self> {
        let start_ns = monotonic_ns()?;
        let view = View { format: options.format, start_ns };
        let reporter = report::reporter(view, BufWriter::new(io::stdout()));
        Ok(Self { options, backend, kind, command, engine: Engine::default(), reporter, start_ns })
    }

    async fn run(mut self) -> Result<Summary> {
        if self.command.is_none() {
            let _unheard =
                writeln!(io::stderr(), "stealtrace: tracing ({} backend); Ctrl-C ends it", self.kind);
        }
        let followed = self.follow().await;
        let ended = self.command.take().map(RunningCommand::end).transpose()?;
        self.backend.detach();
        let finished = followed.and_then(|()| self.finish(ended.as_ref()));
        match finished {
            Ok(summary) => Ok(summary),
            Err(error) if is_broken_pipe(&error) => self.summary(ended.as_ref()),
            Err(error) => Err(error),
        }
    }

    /// Drain, judge and report until something ends the trace.
    async fn follow(&mut self) -> Result<()> {
        // SAFETY: the AsyncFd owns the descriptor, so it stays open and the same.
        let ring = unsafe { AsyncFd::register_with_interest(self.backend_fd()?, Interest::READABLE) }
            .context("wait for events")?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut child = listen(SignalKind::child())?;
        let mut tick = interval(SAFETY_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = self.options.duration.map(|duration| Instant::now() + duration);
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                () = until(deadline) => return Ok(()),
                ready = ring.readable() => {
                    let mut ready = ready.context("wait for events")?;
                    if self.drain(BATCH)? {
                        ready.clear_ready();
                    }
                }
                _ = tick.tick() => { self.drain(BATCH)?; }
                _ = child.recv() => {}
            }
            if self.is_over()? {
                return Ok(());
            }
        }
    }

    fn backend_fd(&self) -> Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd as _;
        self.backend.as_fd().try_clone_to_owned().context("duplicate the ring's descriptor")
    }

    /// Has the command ended, or every traced process?
    fn is_over(&mut self) -> Result<bool> {
        if let Some(command) = &mut self.command {
            return command.has_ended();
        }
        let pids = &self.options.pids;
        Ok(!pids.is_empty() && pids.iter().all(|pid| fs::metadata(format!("/proc/{pid}")).is_err()))
    }

    /// Handle up to `limit` events; true if none are left.
    fn drain(&mut self, limit: usize) -> Result<bool> {
        let Self { backend, engine, reporter, options, .. } = self;
        let mut written = Ok(());
        let each = |event: &Event| {
            written = report(event, engine, reporter.as_mut(), options.findings_only);
            written.is_ok()
        };
        let empty = backend.drain(limit, each);
        written.and_then(|()| self.reporter.flush()).context("write the trace")?;
        Ok(empty)
    }

    fn finish(&mut self, ended: Option<&Ended>) -> Result<Summary> {
        while !self.drain(BATCH)? {}
        let Self { engine, reporter, .. } = self;
        engine
            .finish()
            .iter()
            .try_for_each(|finding| reporter.finding(finding))
            .context("write the findings")?;
        let summary = self.summary(ended)?;
        self.reporter.summary(&summary).and_then(|()| self.reporter.flush()).context("write the summary")?;
        Ok(summary)
    }

    fn summary(&self, ended: Option<&Ended>) -> Result<Summary> {
        let mut summary = self.engine.summary();
        summary.duration_ns = monotonic_ns()?.saturating_sub(self.start_ns);
        summary.backend = self.kind.to_string();
        summary.losses = self.backend.losses()?;
        summary.unproved = ended.and_then(|ended| match ended.failure() {
            Some(failure) => Some(format!("the command failed: {failure}")),
            None if summary.vcpus.is_empty() => Some("the command used no vCPU".to_owned()),
            None => None,
        });
        Ok(summary)
    }
}

/// Judge one event and show what there is to show.
fn report(
    event: &Event,
    engine: &mut Engine,
    reporter: &mut dyn Reporter,
    findings_only: bool,
) -> io::Result<()> {
    let judgement = engine.judge(event);
    if !findings_only {
        reporter.event(event, &judgement)?;
    }
    judgement.told.iter().try_for_each(|finding| reporter.finding(finding))
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("listen for signals")
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// CLOCK_MONOTONIC, as `bpf_ktime_get_ns` reads it.
fn monotonic_ns() -> Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer to a timespec that outlives the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error()).context("read CLOCK_MONOTONIC");
    }
    Ok(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
}
