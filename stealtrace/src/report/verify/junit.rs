//! JUnit XML, as CI systems read it.

use std::io::{self, Write};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{VerifyReporter, class_sentence, not_played, witness_sentence};
use crate::{
    verify::{Status, Verdict, Verified},
    vmm::scenario::Scenario,
};

const NAME: &str = "stealtrace verify";

pub(in crate::report) struct Junit<W>(pub(in crate::report) W);

impl<W: Write> VerifyReporter for Junit<W> {
    fn end(&mut self, verified: &Verified) -> io::Result<()> {
        let mut suite = TestSuite::new(NAME);
        suite.add_test_cases(verified.verdicts.iter().map(|verdict| case(verdict, verified)));
        suite.add_test_cases(verified.not_played.iter().map(|scenario| interrupted(scenario)));
        let said = [class_sentence(verified), not_played(verified), Some(witness_sentence(verified))];
        suite.set_system_out(said.into_iter().flatten().collect::<Vec<_>>().join("\n"));
        let mut report = Report::new(NAME);
        report.add_test_suite(suite);
        let Self(out) = self;
        let xml = report.to_string().map_err(io::Error::other)?;
        // Jenkins' schema (xunit-plugin, junit-10.xsd) knows "skipped" of a suite, but not of all suites together.
        let skipped = format!(" skipped=\"{}\"", verified.count(Status::Skipped));
        writeln!(out, "{}", xml.trim_end().replacen(&skipped, "", 1))
    }
}

fn case(verdict: &Verdict, verified: &Verified) -> TestCase {
    let mut case = TestCase::new(verdict.scenario.id, status(verdict, verified));
    case.set_classname("stealtrace.verify");
    case.set_time(verdict.took);
    case.set_system_out(format!("{}\nthe guest saw: {}", verdict.scenario.property, verdict.observation.saw));
    case
}

fn interrupted(scenario: &Scenario) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_message("not played: interrupted");
    let mut case = TestCase::new(scenario.id, status);
    case.set_classname("stealtrace.verify");
    case
}

/// JUnit knows no "inconclusive": whoever gates on it must not take that for passed.
fn status(verdict: &Verdict, verified: &Verified) -> TestCaseStatus {
    let mut status = match verified.status(verdict) {
        Status::Passed => return TestCaseStatus::success(),
        Status::Skipped => TestCaseStatus::skipped(),
        Status::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Status::Inconclusive => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    status.set_message(verdict.why());
    status
}
