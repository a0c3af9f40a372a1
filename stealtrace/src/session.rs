//! The loop of a live trace: backend, engine, reporter; signals, deadline, the traced command, the final drain.
//! The only async file.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use stealtrace_common::{event::Event, target::Volume};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime,
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    backend::{self, BackendKind, EbpfBackend, Plan, Processes},
    descriptors,
    exit::Exit,
    kernel::KernelFacts,
    model::{Severity, Summary},
    os::{
        clock::{clock_ns, now_ns},
        command::{Ended, HeldCommand, Orphaned, RunningCommand},
        interrupt::Interrupt,
        late_file::LateFile,
        output::Output,
        process,
        talk::{remark, say},
    },
    pipeline::{Filter, Flow, Pipeline, Selection},
    record::{End, Header, Sink},
    report::{self, Style},
};

/// A wake-up can be missed; nothing waits longer than this.
const SAFETY_TICK: Duration = Duration::from_millis(10);
/// Events handled before signals are looked at again.
const BATCH: usize = 16_384;

/// What to trace and how to show it.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// None: the better usable one.
    pub backend: Option<BackendKind>,
    /// Whose events; the kernel side filters.
    pub filter: Filter,
    /// Functions whose calls to show.
    pub functions: Vec<String>,
    /// What of it to show.
    pub selection: Selection,
    /// How to show it.
    pub style: Style,
    /// End by itself after this time.
    pub duration: Option<Duration>,
    /// Write the events down here.
    pub record: Option<PathBuf>,
    /// Size of the ring of events.
    pub ring_bytes: u32,
    /// Findings from here upwards make exit code 1.
    pub fail_on: Severity,
    /// A command to run and trace; empty for none.
    pub command: Vec<String>,
    /// Attach programs that do nothing, to measure what the probes alone cost?
    pub floor: bool,
    /// Show the kernel side's diagnostics?
    pub verbose: bool,
}

/// Trace until told to stop.
///
/// # Errors
/// When tracing is not possible here, or the command cannot be run.
pub fn trace(options: &TraceOptions, out: &Output) -> Result<Exit> {
    let record = options.record.as_deref().map(LateFile::open).transpose()?; // a pipe waits for its reader
    let interrupt = Interrupt::block()?;
    let facts = KernelFacts::gather(&options.functions);
    facts.require_traceable()?;
    let kind = backend::choose(options.backend, &facts)?;
    process::require_alive(&options.filter.pids, options.filter.tid)?;

    let held = HeldCommand::hold(&options.command, Orphaned::Ends)?;
    let plan = plan(options, kind, held.as_ref());
    let header = header(&facts, &plan)?;
    say_what_calls_cannot_show(&plan, &facts);
    let backend = EbpfBackend::attach(&plan, &facts)?;
    drop(facts); // type information is large and has served
    let interrupted = interrupt.came();
    let command = held.filter(|_| !interrupted).map(HeldCommand::release).transpose()?;
    let recording = options.record.clone().zip(record).map(|(path, file)| Sink::begin(path, file, &header));
    let reporter = report::reporter(options.style, &header, BufWriter::new(out.clone()));
    let mut pipeline = Pipeline::new(&options.selection, reporter);
    pipeline.begin(&header).context("write the trace")?;
    let session = Session {
        options,
        backend,
        kind,
        command,
        interrupt,
        interrupted,
        pipeline,
        recording,
        out: out.clone(),
        told_unread: false,
        start_ns: header.start_ns,
    };

    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    let summary = runtime.block_on(session.run())?;
    Ok(Exit::of(&summary, options.fail_on))
}

fn plan(options: &TraceOptions, kind: BackendKind, held: Option<&HeldCommand>) -> Plan {
    let processes = match held {
        Some(held) => Processes::Tree(held.pid()),
        None => Processes::named(&options.filter.pids),
    };
    let volume = if options.selection.findings_only { Volume::Edges } else { Volume::All };
    Plan {
        tid: options.filter.tid,
        vcpu_id: options.filter.vcpu_id,
        comm: options.filter.comm.clone(),
        functions: options.functions.clone(),
        floor: options.floor,
        verbose: options.verbose,
        ..Plan::of(kind, processes, volume, options.ring_bytes)
    }
}

/// Functions that are inlined or absent, once; the tracepoint backend sees no functions at all.
fn say_what_calls_cannot_show(plan: &Plan, facts: &KernelFacts) {
    let missing: Vec<_> =
        plan.functions.iter().filter(|name| !facts.symbols.has(name)).map(String::as_str).collect();
    match plan.kind {
        BackendKind::Tracepoint if !plan.functions.is_empty() => {
            remark("the tracepoint backend shows entry and return of ioctls, not of KVM's functions");
        }
        BackendKind::Kprobe if !missing.is_empty() => {
            say(&format!("not in this kernel (inlined or absent): {}", missing.join(", ")));
        }
        BackendKind::Tracepoint | BackendKind::Kprobe => {}
    }
}

fn header(facts: &KernelFacts, plan: &Plan) -> Result<Header> {
    let start_ns = now_ns()?;
    Ok(Header {
        kernel: facts.release.clone(),
        backend: plan.kind.to_string(),
        era: facts.era().word().to_owned(),
        edges: plan.volume == Volume::Edges,
        calls: !plan.functions.is_empty(),
        cpus: std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u64),
        start_ns,
        utc_offset_ns: clock_ns(libc::CLOCK_REALTIME)?.saturating_sub(start_ns),
        functions: plan
            .functions
            .iter()
            .filter_map(|name| Some((facts.symbols.address(name)?, name.clone())))
            .collect(),
    })
}

struct Session<'a> {
    options: &'a TraceOptions,
    backend: EbpfBackend,
    kind: BackendKind,
    command: Option<RunningCommand>,
    interrupt: Interrupt,
    /// Did a signal come?
    interrupted: bool,
    pipeline: Pipeline,
    recording: Option<Sink>,
    out: Output,
    /// Was it told that the recording goes on unread?
    told_unread: bool,
    start_ns: u64,
}

impl Session<'_> {
    async fn run(mut self) -> Result<Summary> {
        let followed = self.follow().await;
        let ended = self.end_command()?;
        self.backend.detach();
        followed.and_then(|()| self.finish(ended.as_ref()))
    }

    fn end_command(&mut self) -> Result<Option<Ended>> {
        let ended = self.command.take().map(RunningCommand::end).transpose()?;
        let failed = ended.as_ref().is_some_and(|ended| ended.failure().is_some());
        // A terminal's Ctrl-C reaches the command too; it may be the first to end.
        self.interrupted |= failed && self.interrupt.wait(SAFETY_TICK);
        Ok(if failed && self.interrupted { ended.map(Ended::with_us) } else { ended })
    }

    /// Drain, judge and report until something ends the trace.
    async fn follow(&mut self) -> Result<()> {
        // SAFETY: the AsyncFd owns the descriptor, so it stays open and the same.
        let ring = unsafe { AsyncFd::register_with_interest(self.backend_fd()?, Interest::READABLE) }
            .context("wait for events")?;
        let mut child = signal(SignalKind::child()).context("listen for signals")?;
        if self.command.is_none() && !self.interrupted {
            remark(&format!("tracing ({} backend); Ctrl-C ends it", self.kind)); // true only from here on
        }
        let mut tick = interval(SAFETY_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = self.options.duration.map(|duration| Instant::now() + duration);
        while !self.interrupted {
            tokio::select! {
                () = until(deadline) => return Ok(()),
                ready = ring.readable() => {
                    let mut ready = ready.context("wait for events")?;
                    match self.drain(BATCH)? {
                        Drained::Empty => ready.clear_ready(),
                        Drained::MoreWaits => {}
                        Drained::Enough => return Ok(()),
                    }
                }
                _ = tick.tick() => {
                    if self.drain(BATCH)? == Drained::Enough {
                        return Ok(());
                    }
                }
                _ = child.recv() => {}
            }
            if self.is_over()? {
                return Ok(());
            }
            self.interrupted = self.interrupt.came();
        }
        Ok(())
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
        let Filter { pids, tid, .. } = &self.options.filter;
        let watched = if pids.is_empty() { tid.as_slice() } else { pids };
        Ok(process::all_ended(watched))
    }

    /// Handle up to `limit` events.
    fn drain(&mut self, limit: usize) -> Result<Drained> {
        let Self { backend, pipeline, recording, .. } = self;
        let mut handled = Ok(Flow::Continue);
        let each = |event: &Event| {
            handled = handle(event, pipeline, recording.as_mut());
            matches!(handled, Ok(Flow::Continue))
        };
        let empty = backend.drain(limit, each);
        let flow = handled.context("write the trace")?;
        self.pipeline.flush().context("write the trace")?;
        if let Some(recording) = &mut self.recording {
            recording.flush();
        }
        Ok(match (flow, empty) {
            _ if self.is_in_vain() => Drained::Enough,
            (Flow::Stop, _) => Drained::Enough,
            (Flow::Continue, true) => Drained::Empty,
            (Flow::Continue, false) => Drained::MoreWaits,
        })
    }

    /// Does nobody get anything of it any more? A recording is for later, and goes on without readers.
    fn is_in_vain(&mut self) -> bool {
        let recorded = self.recording.as_ref().is_some_and(Sink::is_whole);
        if self.out.is_over() && recorded && !self.told_unread {
            self.told_unread = true;
            remark("nobody reads the results any more; the recording goes on until the trace ends");
        }
        self.out.is_over() && !recorded
    }

    fn finish(&mut self, ended: Option<&Ended>) -> Result<Summary> {
        while self.drain(BATCH)? == Drained::MoreWaits {}
        self.pipeline.settle().context("write the findings")?;
        let summary = self.summary(ended)?;
        if summary.events == 0 && summary.unproved.is_none() {
            let why = descriptors::why_nothing_was_seen(&self.options.filter);
            self.pipeline.note(&why).context("write the summary")?;
        }
        let recorded = self.recording.take().map(|recording| recording.end(&End::of(&summary)));
        self.pipeline.end(&summary).context("write the summary")?;
        recorded.transpose()?;
        Ok(summary)
    }

    fn summary(&self, ended: Option<&Ended>) -> Result<Summary> {
        let mut summary = self.pipeline.summary();
        summary.duration_ns = now_ns()?.saturating_sub(self.start_ns);
        summary.edges = self.options.selection.findings_only;
        summary.source = format!("{} backend", self.kind);
        summary.losses = self.backend.losses()?;
        summary.unproved = self.unproved(ended, summary.vcpus.is_empty() && summary.events == 0);
        Ok(summary)
    }

    /// Why finding nothing would prove nothing, if so.
    fn unproved(&self, ended: Option<&Ended>, saw_nothing: bool) -> Option<String> {
        if let Some(failure) = ended.and_then(Ended::failure) {
            return Some(format!("the command failed: {failure}"));
        }
        let TraceOptions { filter, command, .. } = self.options;
        match (command.is_empty(), ended) {
            _ if !saw_nothing => None,
            (false, None) => Some("interrupted before the command began".to_owned()),
            (false, Some(_)) => Some("the command used no vCPU".to_owned()),
            (true, _) if filter.is_narrow() => Some(descriptors::why_nothing_was_seen(filter)),
            (true, _) => None,
        }
    }
}

/// What a drain left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// Nothing.
    Empty,
    /// More events.
    MoreWaits,
    /// Whatever there is, enough was found.
    Enough,
}

/// Write one event down, judge and show it.
fn handle(event: &Event, pipeline: &mut Pipeline, recording: Option<&mut Sink>) -> io::Result<Flow> {
    if let Some(recording) = recording {
        recording.event(event);
    }
    pipeline.event(event)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
