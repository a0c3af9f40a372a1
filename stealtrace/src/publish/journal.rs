//! Findings for the host's log: to the journal, field by field, where our output goes there; else as JSON lines.

use std::{
    io::{self, Write as _},
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use log::{Level, Record};
use serde_json::Value as Json;
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::{
    model::{Finding, Severity},
    os::{output::Output, privileges, talk::say},
    report::journal,
};

/// Findings that wait for the journal.
const WAITING: usize = 256;
/// How long the journal may take for them when we end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where findings go. Tracing does not wait for the journal, and goes on where nothing can be written.
pub(crate) struct Log {
    to: To,
    utc_offset_ns: u64,
    /// Findings that did not get there since one did.
    unwritten: u64,
}

enum To {
    Journal(Journal),
    Lines(Output),
}

impl Log {
    /// The journal, if that reads our output; else the output.
    ///
    /// # Errors
    /// When the journal cannot be reached.
    pub(crate) fn open(out: &Output, utc_offset_ns: u64) -> Result<Self> {
        let to = if connected_to_journal() { To::Journal(Journal::open()?) } else { To::Lines(out.clone()) };
        Ok(Self { to, utc_offset_ns, unwritten: 0 })
    }

    /// One more finding, of a VM of this name.
    pub(crate) fn finding(&mut self, finding: &Finding, domain: String) {
        let written = match &mut self.to {
            To::Journal(journal) => journal.take(finding.clone(), domain),
            To::Lines(out) => write_line(out, &journal::object(finding, &domain, self.utc_offset_ns)),
        };
        match written {
            Err(error) => {
                if self.unwritten == 0 {
                    say(&format!("findings cannot be logged: {error}; metrics go on counting them"));
                }
                self.unwritten += 1;
            }
            Ok(()) if self.unwritten > 0 => {
                say(&format!("findings are logged again; {} were not", self.unwritten));
                self.unwritten = 0;
            }
            Ok(()) => {}
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.unwritten > 0 {
            say(&format!("{} findings were not logged", self.unwritten));
        }
    }
}

/// Unless that would take until somebody reads.
fn write_line(out: &mut Output, line: &Json) -> io::Result<()> {
    if out.would_wait() {
        return Err(io::Error::other("nobody reads them"));
    }
    writeln!(out, "{line}")?;
    out.flush()?;
    match out.is_over() {
        true => Err(io::Error::other("nothing more can be written")),
        false => Ok(()),
    }
}

/// A thread that waits for the journal.
struct Journal {
    /// None once we end.
    findings: Option<SyncSender<(Finding, String)>>,
    /// Hangs up when all are sent.
    done: Receiver<()>,
}

impl Journal {
    fn open() -> Result<Self> {
        let log = JournalLog::empty().context("reach the journal")?;
        let log = log.with_syslog_identifier("stealtrace".to_owned());
        let (findings, waiting) = mpsc::sync_channel::<(Finding, String)>(WAITING);
        let (hang_up, done) = mpsc::channel();
        let send_all = move || {
            privileges::drop_all();
            let _at_the_end = hang_up;
            for (finding, domain) in waiting {
                if let Err(error) = send(&log, &finding, &domain) {
                    say(&format!("the journal refuses a finding: {error}"));
                }
            }
        };
        thread::Builder::new().name("journal".to_owned()).spawn(send_all).context("start a thread")?;
        Ok(Self { findings: Some(findings), done })
    }

    fn take(&self, finding: Finding, domain: String) -> io::Result<()> {
        let is_taken = |findings: &SyncSender<_>| findings.try_send((finding, domain)).is_ok();
        match self.findings.as_ref().is_some_and(is_taken) {
            true => Ok(()),
            false => Err(io::Error::other("the journal does not take them as fast as they come")),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.findings = None;
        let _hung_up_or_late = self.done.recv_timeout(PATIENCE);
    }
}

fn send(journal: &JournalLog, finding: &Finding, domain: &str) -> io::Result<()> {
    let level = match finding.severity {
        Severity::Error => Level::Error,
        Severity::Warning => Level::Warn,
        Severity::Notice => Level::Info,
    };
    let fields = journal::fields(finding, domain);
    let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    let message = journal::message(finding, domain);
    journal.journal_send(
        &Record::builder().level(level).args(format_args!("{message}")).key_values(&fields).build(),
    )
}
