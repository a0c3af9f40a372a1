//! A table for people; on a terminal the scenario that was played last shows on stderr.

use std::io::{self, IsTerminal as _, Write};

use super::{VerifyReporter, class_sentence, not_played, witness_sentence};
use crate::{
    os::talk::is_quiet,
    report::{PAGE, Paint, Tone, table, wrap},
    verify::{Status, Verdict, Verified},
    vmm::scenario::{ABSENT, Scenario, scenarios},
};

pub(in crate::report) struct Table<W> {
    pub(in crate::report) paint: Paint,
    pub(in crate::report) out: W,
}

impl<W: Write> VerifyReporter for Table<W> {
    fn begin(&mut self, scenarios: &[&Scenario]) -> io::Result<()> {
        progress(&format!("playing {} scenarios ...", scenarios.len()))
    }

    fn verdict(&mut self, verdict: &Verdict, so_far: &Verified) -> io::Result<()> {
        let (number, status) = (so_far.verdicts.len() + 1, so_far.status(verdict));
        progress(&format!("{number:>2} {:<28} {status}", verdict.scenario.id))
    }

    fn end(&mut self, verified: &Verified) -> io::Result<()> {
        progress("")?;
        let Self { paint, out } = self;
        let mut rows = table(["scenario", "property", "the guest saw", "expected", "verdict"]);
        wrap(&mut rows, PAGE);
        for verdict in &verified.verdicts {
            let status = verified.status(verdict);
            rows.add_row([
                verdict.scenario.id.into(),
                verdict.scenario.property.into(),
                verdict.observation.saw.as_str().into(),
                verified.expectation.worst(verdict.scenario).to_string().into(),
                paint.cell(&format!("{status}: {}", verdict.why()), tone(status)),
            ]);
        }
        paint.table(&mut rows);
        writeln!(out, "{rows}")?;
        if let Some(class) = class_sentence(verified) {
            writeln!(out, "{class}")?;
        }
        if let Some(not_played) = not_played(verified) {
            writeln!(out, "{not_played}")?;
        }
        writeln!(out, "{}", witness_sentence(verified))?;
        writeln!(out, "{}", outcome(verified))
    }
}

pub(in crate::report) fn list(out: &mut dyn Write) -> io::Result<()> {
    let mut rows = table(["scenario", "what it does", "what must hold"]);
    wrap(&mut rows, PAGE);
    for scenario in scenarios() {
        rows.add_row([scenario.id, scenario.about, scenario.property]);
    }
    writeln!(out, "{rows}")?;
    ABSENT.iter().try_for_each(|(id, why)| writeln!(out, "not here: {id}: {why}"))
}

const fn tone(status: Status) -> Tone {
    match status {
        Status::Passed => Tone::Good,
        Status::Failed => Tone::Bad,
        Status::Skipped | Status::Inconclusive => Tone::Doubtful,
    }
}

pub(super) fn outcome(verified: &Verified) -> String {
    let counts = [Status::Passed, Status::Failed, Status::Skipped, Status::Inconclusive]
        .map(|status| (verified.count(status), status))
        .into_iter()
        .map(|(count, status)| (count, status.to_string()))
        .chain([(verified.not_played.len(), "not played".to_owned())])
        .filter(|(count, _)| *count > 0)
        .map(|(count, status)| format!("{count} {status}"))
        .collect::<Vec<_>>()
        .join(", ");
    let strictly = if verified.expectation.strict { ", strictly" } else { "" };
    format!(
        "expected{strictly} of a kernel that is {}: {counts} (seed {})",
        verified.expectation.class, verified.seed
    )
}

/// How progress shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// One line, written over the one before.
    Rewritten,
    /// A line each: where results go to a terminal, a trace around this command may write its own in between.
    Lines,
    /// Nobody watches.
    Silent,
}

impl Progress {
    fn here() -> Self {
        Self::on(io::stderr().is_terminal() && !is_quiet(), io::stdout().is_terminal())
    }

    const fn on(talk_is_terminal: bool, results_are_terminal: bool) -> Self {
        match (talk_is_terminal, results_are_terminal) {
            (true, false) => Self::Rewritten,
            (true, true) => Self::Lines,
            (false, _) => Self::Silent,
        }
    }

    /// What to write for this line; nothing is left of the last.
    fn shown(self, line: &str) -> String {
        match self {
            Self::Rewritten => format!("\r\x1b[K{line}"),
            Self::Lines if !line.is_empty() => format!("{line}\n"),
            Self::Lines | Self::Silent => String::new(),
        }
    }
}

/// On stderr.
fn progress(line: &str) -> io::Result<()> {
    let mut err = io::stderr();
    err.write_all(Progress::here().shown(line).as_bytes()).and_then(|()| err.flush())
}

#[cfg(test)]
mod tests {
    use super::Progress;

    #[test]
    fn a_terminal_that_gets_results_gets_whole_lines() {
        let shown = |talk, results| Progress::on(talk, results).shown("playing");
        assert_eq!(shown(true, true), "playing\n");
        assert_eq!(shown(true, false), "\r\u{1b}[Kplaying");
        assert_eq!(shown(false, true), "");
        assert_eq!(Progress::Lines.shown(""), "");
    }
}
