//! From event to screen, whatever the events come from: judge, keep what was asked for, show, sum up.

use std::io;

use stealtrace_common::event::Event;

use crate::{
    backend::padded,
    detect::{Engine, Ruling},
    model::{Finding, Severity, Summary, VcpuKey},
    record::Header,
    report::Reporter,
};

/// What of a run to show.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Leave out the events?
    pub findings_only: bool,
    /// Only these rules; all if empty.
    pub rules: Vec<String>,
    /// Only findings from here upwards.
    pub min_severity: Severity,
    /// End after so many findings.
    pub stop_after: Option<u64>,
}

impl Selection {
    /// All of it.
    pub const EVERYTHING: Self =
        Self { findings_only: false, rules: Vec::new(), min_severity: Severity::Notice, stop_after: None };
}

/// Whose events; live traces filter in the kernel.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only these processes; all if empty.
    pub pids: Vec<u32>,
    /// Only this thread.
    pub tid: Option<u32>,
    /// Only vCPUs of this id.
    pub vcpu_id: Option<u32>,
    /// Only threads of this name.
    pub comm: Option<String>,
}

impl Filter {
    /// Does it leave anything out?
    #[must_use]
    pub const fn is_narrow(&self) -> bool {
        !self.pids.is_empty() || self.tid.is_some() || self.vcpu_id.is_some() || self.comm.is_some()
    }

    /// Is this one of them?
    #[must_use]
    pub fn admits(&self, event: &Event) -> bool {
        (self.pids.is_empty() || self.pids.contains(&event.caller_tgid))
            && self.tid.is_none_or(|tid| tid == event.caller_tid)
            && self.vcpu_id.is_none_or(|id| id == event.vcpu_id || event.vcpu == 0)
            && self.comm.as_ref().is_none_or(|comm| padded(comm) == event.comm)
    }
}

impl Filter {
    /// Is this, which a log shows by itself, by one of them? Of such a log only the caller is known.
    #[must_use]
    pub fn admits_finding(&self, finding: &Finding) -> bool {
        let Finding { caller, vcpu, .. } = finding;
        (self.pids.is_empty() || self.pids.contains(&vcpu.pid))
            && self.vcpu_id.is_none_or(|id| vcpu.vm == 0 || id == vcpu.id)
            && self.tid.is_none_or(|tid| tid == caller.tid)
            && self.comm.as_ref().is_none_or(|comm| padded(comm) == padded(&caller.comm))
    }
}

/// Go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Yes.
    Continue,
    /// Enough was found.
    Stop,
    /// Nobody gets anything of it any more, here.
    InVain,
}

impl Flow {
    /// What two say together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Stop, _) | (_, Self::Stop) => Self::Stop,
            (Self::InVain, Self::InVain) => Self::InVain,
            _ => Self::Continue,
        }
    }
}

/// From event to screen.
pub struct Pipeline {
    engine: Engine,
    reporter: Box<dyn Reporter>,
    findings_only: bool,
    left_to_tell: Option<u64>,
}

impl Pipeline {
    /// A pipeline that has seen nothing yet.
    #[must_use]
    pub fn new(selection: &Selection, reporter: Box<dyn Reporter>) -> Self {
        Self {
            engine: Engine::new(&selection.rules, selection.min_severity),
            reporter,
            findings_only: selection.findings_only,
            left_to_tell: selection.stop_after,
        }
    }

    /// Show where and how what follows was made.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.reporter.begin(header)
    }

    /// Judge an event and show what there is to show.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn event(&mut self, event: &Event) -> io::Result<Flow> {
        let ruling = self.engine.judge(event);
        if !self.findings_only || self.reporter.draws() {
            self.reporter.event(event, &ruling)?;
        }
        let Ruling { told, .. } = ruling;
        self.tell(&told)
    }

    /// Show findings.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn tell(&mut self, findings: &[Finding]) -> io::Result<Flow> {
        for finding in findings {
            if self.left_to_tell == Some(0) {
                break;
            }
            self.reporter.finding(finding)?;
            self.left_to_tell = self.left_to_tell.map(|left| left - 1);
        }
        Ok(if self.left_to_tell == Some(0) { Flow::Stop } else { Flow::Continue })
    }

    /// A finding that evidence shows by itself.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn found(&mut self, vcpu: VcpuKey, finding: Finding) -> io::Result<Flow> {
        let told = self.engine.admit(vcpu, finding);
        self.tell(told.as_slice())
    }

    /// Something worth saying that is no finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn note(&mut self, note: &str) -> io::Result<()> {
        self.reporter.note(note)
    }

    /// Show what was written so far.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.reporter.flush()
    }

    /// Nothing follows: tell what waited for more.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn settle(&mut self) -> io::Result<()> {
        let waited = self.engine.finish();
        self.tell(&waited).map(drop)
    }

    /// What was seen and found; the caller adds what it knows of the run.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.engine.summary()
    }

    /// Show the end.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn end(&mut self, summary: &Summary) -> io::Result<()> {
        self.reporter.summary(summary)?;
        self.reporter.flush()
    }
}
