//! Test Anything Protocol, version 13, with a YAML block per scenario that did not pass.

use std::io::{self, Write};

use serde_json::json;

use super::{VerifyReporter, class_sentence, not_played, witness_sentence};
use crate::{
    verify::{Status, Verdict, Verified},
    vmm::scenario::Scenario,
};

pub(in crate::report) struct Tap<W> {
    pub(in crate::report) out: W,
    pub(in crate::report) played: usize,
}

impl<W: Write> VerifyReporter for Tap<W> {
    fn begin(&mut self, scenarios: &[&Scenario]) -> io::Result<()> {
        writeln!(self.out, "TAP version 13\n1..{}", scenarios.len())
    }

    fn verdict(&mut self, verdict: &Verdict, so_far: &Verified) -> io::Result<()> {
        self.played += 1;
        let Self { out, played } = self;
        let id = verdict.scenario.id;
        match so_far.status(verdict) {
            Status::Passed => writeln!(out, "ok {played} - {id}"),
            Status::Skipped => writeln!(out, "ok {played} - {id} # SKIP {}", escape(&verdict.why())),
            Status::Failed | Status::Inconclusive => {
                writeln!(out, "not ok {played} - {id}")?;
                diagnose(out, verdict, so_far)
            }
        }
    }

    fn end(&mut self, verified: &Verified) -> io::Result<()> {
        if let Some(class) = class_sentence(verified) {
            writeln!(self.out, "# {class}")?;
        }
        writeln!(self.out, "# {}\n# seed {}", witness_sentence(verified), verified.seed)?;
        match not_played(verified) {
            Some(not_played) => writeln!(self.out, "Bail out! {not_played}"),
            None => Ok(()),
        }
    }
}

/// A string in JSON is one in YAML.
fn diagnose(out: &mut impl Write, verdict: &Verdict, so_far: &Verified) -> io::Result<()> {
    let expected = so_far.expectation.worst(verdict.scenario).to_string();
    writeln!(out, "  ---")?;
    for (name, text) in [
        ("message", verdict.why().as_str()),
        ("property", verdict.scenario.property),
        ("guest_saw", &verdict.observation.saw),
        ("expected", &expected),
    ] {
        writeln!(out, "  {name}: {}", json!(text))?;
    }
    writeln!(out, "  ...")
}

/// `#` would begin another directive.
fn escape(text: &str) -> String {
    text.replace('#', "\\#")
}
