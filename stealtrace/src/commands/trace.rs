//! `stealtrace trace`: what happens on this host, judged and shown as it happens, and written down if that is wanted.

use std::{
    io::BufWriter,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{ArgAction, Args};
use stealtrace_common::{event::Event, target::Volume};

use super::{
    Run, Shared,
    options::{BackendChoice, NOT_WITH_CALLS, Only, View, parse_buffer, parse_file, parse_time},
};
use crate::{
    backend::{BackendKind, Plan, Processes},
    descriptors,
    exit::Exit,
    kernel::KernelFacts,
    live::{Fan, Live, Sink},
    model::Summary,
    os::{
        clock::{clock_ns, now_ns},
        command::{Ended, Orphaned},
        interrupt::Interrupt,
        late_file::LateFile,
        output::Output,
        talk::{remark, say},
    },
    pipeline::{Filter, Flow, Pipeline},
    record::{End, Header, Recording},
    report,
};

/// Trace vCPU ioctls and steal updates, and flag what corrupts steal time
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Trace {
    /// Where events come from
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    view: View,
    /// Show calls and returns of KVM's functions, nested, as the systemtap script of 2015 did
    #[arg(long, conflicts_with_all = NOT_WITH_CALLS)]
    calls: bool,
    /// One more function for --calls (repeatable)
    #[arg(long = "function", value_name = "NAME", requires = "calls", action = ArgAction::Append)]
    functions: Vec<String>,
    /// End after this time: 500ms, 10s, 5m, 1h
    #[arg(long, value_parser = parse_time)]
    duration: Option<Duration>,
    /// Write the events to this file, for `stealtrace analyze`
    #[arg(long, value_name = "FILE", value_parser = parse_file)]
    record: Option<PathBuf>,
    /// Kernel memory for events that wait to be read, in KiB: a power of two; 32768, or 1024 with --findings-only
    #[arg(long, value_name = "KIB", value_parser = parse_buffer)]
    buffer: Option<u32>,
    /// Attach programs that do nothing, to measure what the probes alone cost
    #[arg(long, hide = true)]
    floor: bool,
    /// Run this command and trace it and its children until the last has ended; if the trace ends before, end it
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["pids", "tid"])]
    command: Vec<String>,
}

const HELP: &str = help!(
    "  stealtrace trace                                     everything, until Ctrl-C
  stealtrace trace --findings-only --pid 4711          one VM, only what is wrong
  stealtrace trace --duration 10s --format json        for scripts
  stealtrace trace --record vm.stealtrace --pid 4711   for `stealtrace analyze`
  stealtrace trace -- ./my-vmm --restore snapshot      a command and its children, to their end",
    "  0  nothing found and nothing missed
  1  findings at or above --fail-on
  2  cannot trace here, or bad usage
  3  inconclusive: events were lost, nothing was seen of what was named, or the command failed"
);

/// The functions the systemtap script of 2015 followed.
const CALLS: [&str; 7] = [
    "kvm_arch_vcpu_load",
    "kvm_arch_vcpu_put",
    "kvm_arch_vcpu_ioctl",
    "kvm_arch_vcpu_ioctl_run",
    "kvm_put_guest_fpu",
    "kvm_arch_vcpu_runnable",
    "kvm_arch_vcpu_should_kick",
];

impl Run for Trace {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let record = self.record.as_deref().map(LateFile::open).transpose()?; // a pipe waits for its reader
        let interrupt = Interrupt::block()?;
        let functions = self.functions();
        let facts = KernelFacts::gather(&functions);
        let style = self.view.style(self.calls, &shared.out)?;
        let plan = self.plan(functions.clone(), shared.verbose);
        let mut live = Live::open(interrupt, &facts, plan, (&self.command, Orphaned::Ends))?;
        say_what_calls_cannot_show(&functions, live.backend.kind(), &facts);
        let header = self.header(&live, &functions, &facts)?;
        live.release()?;
        let recording =
            self.record.clone().zip(record).map(|(path, file)| Recording::begin(path, file, &header));
        let reporter = report::reporter(style, &header, BufWriter::new(shared.out.clone()));
        let mut pipeline = Pipeline::new(&self.view.selection(), reporter);
        pipeline.begin(&header).context("write the trace")?;
        let shown =
            Shown { pipeline, out: shared.out.clone(), is_recorded: recording.is_some(), unread: false };
        let tracing = Tracing {
            live,
            shown,
            recording,
            filter: self.only.filter(),
            edges: self.view.findings_only,
            has_command: !self.command.is_empty(),
        };
        Ok(Exit::of(&tracing.run(self.duration)?, self.view.fail_on))
    }

    fn file(&self) -> Option<&Path> {
        self.record.as_deref()
    }
}

impl Trace {
    fn functions(&self) -> Vec<String> {
        let usual = CALLS.iter().filter(|_| self.calls).map(|name| (*name).to_owned());
        usual.chain(self.functions.iter().cloned()).collect()
    }

    fn plan(&self, functions: Vec<String>, verbose: bool) -> Plan {
        let Filter { pids, tid, vcpu_id, comm } = self.only.filter();
        let (volume, usual_kib) =
            if self.view.findings_only { (Volume::Edges, 1024) } else { (Volume::All, 32_768) };
        Plan {
            wanted: self.backend.into(),
            tid,
            vcpu_id,
            comm,
            functions,
            floor: self.floor,
            verbose,
            ..Plan::of(Processes::named(&pids), volume, self.buffer.unwrap_or(usual_kib) * 1024)
        }
    }

    fn header(&self, live: &Live, functions: &[String], facts: &KernelFacts) -> Result<Header> {
        let known = |name: &String| Some((facts.symbols.address(name)?, name.clone()));
        Ok(Header {
            kernel: facts.release.clone(),
            backend: live.backend.kind().to_string(),
            era: facts.era().word().to_owned(),
            edges: self.view.findings_only,
            calls: !functions.is_empty(),
            cpus: std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u64),
            start_ns: live.start_ns,
            utc_offset_ns: clock_ns(libc::CLOCK_REALTIME)?.saturating_sub(now_ns()?),
            functions: functions.iter().filter_map(known).collect(),
        })
    }
}

/// Functions that are inlined or absent, once; the tracepoint backend sees no functions at all.
fn say_what_calls_cannot_show(functions: &[String], kind: BackendKind, facts: &KernelFacts) {
    let missing: Vec<_> =
        functions.iter().filter(|name| !facts.symbols.has(name)).map(String::as_str).collect();
    match kind {
        BackendKind::Tracepoint if !functions.is_empty() => {
            remark("the tracepoint backend shows entry and return of ioctls, not of KVM's functions");
        }
        BackendKind::Fentry | BackendKind::Kprobe if !missing.is_empty() => {
            say(&format!("not in this kernel (inlined or absent): {}", missing.join(", ")));
        }
        BackendKind::Fentry | BackendKind::Kprobe | BackendKind::Tracepoint => {}
    }
}

/// A trace that goes on.
struct Tracing {
    live: Live,
    shown: Shown,
    recording: Option<Recording>,
    filter: Filter,
    edges: bool,
    has_command: bool,
}

impl Tracing {
    fn run(mut self, time: Option<Duration>) -> Result<Summary> {
        if !self.has_command && !self.live.is_interrupted() {
            remark(&format!("tracing ({}); Ctrl-C ends it", self.live.backend.way()));
        }
        let Self { live, shown, recording, .. } = &mut self;
        let recording = recording.iter_mut().map(|recording| recording as &mut dyn Sink);
        let mut sinks = Fan(recording.chain([shown as &mut dyn Sink]).collect());
        let followed = live.follow(time, &mut sinks);
        let ended = live.end()?;
        followed?;
        live.drain_rest(&mut sinks)?;
        self.finish(ended.as_ref())
    }

    fn finish(mut self, ended: Option<&Ended>) -> Result<Summary> {
        self.shown.pipeline.settle().context("write the findings")?;
        let summary = self.summary(ended)?;
        if summary.vcpus.is_empty() && summary.unproved.is_none() {
            let why = descriptors::why_nothing_was_seen(&self.filter);
            self.shown.pipeline.note(&why).context("write the summary")?;
        }
        let recorded = self.recording.take().map(|recording| recording.end(&End::of(&summary)));
        self.shown.pipeline.end(&summary).context("write the summary")?;
        recorded.transpose()?;
        Ok(summary)
    }

    fn summary(&self, ended: Option<&Ended>) -> Result<Summary> {
        let mut summary = self.shown.pipeline.summary();
        summary.duration_ns = now_ns()?.saturating_sub(self.live.start_ns);
        summary.edges = self.edges;
        summary.source = self.live.backend.way();
        summary.losses = self.live.backend.losses()?;
        summary.unproved = self.unproved(ended, summary.vcpus.is_empty());
        Ok(summary)
    }

    /// Why finding nothing would prove nothing, if so.
    fn unproved(&self, ended: Option<&Ended>, saw_nothing: bool) -> Option<String> {
        if let Some(failure) = ended.and_then(Ended::failure) {
            return Some(format!("the command failed: {failure}"));
        }
        if self.live.lost_kvm() {
            return Some("kvm was unloaded, and what a kvm loaded since did was not seen".to_owned());
        }
        match (self.has_command, ended) {
            _ if !saw_nothing => None,
            (true, None) => Some("interrupted before the command began".to_owned()),
            (true, Some(_)) => Some("the command used no vCPU".to_owned()),
            (false, _) if self.filter.is_narrow() => Some(descriptors::why_nothing_was_seen(&self.filter)),
            (false, _) => None,
        }
    }
}

/// What is judged and shown.
struct Shown {
    pipeline: Pipeline,
    out: Output,
    /// Does a recording go on without readers?
    is_recorded: bool,
    /// Has that been said?
    unread: bool,
}

impl Sink for Shown {
    fn event(&mut self, event: &Event) -> Result<Flow> {
        self.pipeline.event(event).context("write the trace")
    }

    fn tick(&mut self) -> Result<Flow> {
        self.pipeline.flush().context("write the trace")?;
        if !self.out.is_over() {
            return Ok(Flow::Continue);
        }
        if self.is_recorded && !self.unread {
            self.unread = true;
            remark("no more results are taken; the recording goes on until the trace ends");
        }
        Ok(Flow::InVain)
    }
}

impl Sink for Recording {
    fn event(&mut self, event: &Event) -> Result<Flow> {
        self.write(event);
        Ok(Flow::Continue)
    }

    fn tick(&mut self) -> Result<Flow> {
        self.flush();
        Ok(if self.is_whole() { Flow::Continue } else { Flow::InVain })
    }
}
