//! `lab verify --junit`: a suite for each kernel and backend, as CI systems read it.

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::Value;

use super::{
    matrix::{lines, plain},
    row::{Pass, Row},
};

pub(super) fn document(rows: &[Row]) -> Result<String> {
    let mut report = Report::new("lab verify");
    report.add_test_suites(rows.iter().flat_map(suites));
    let xml = report.to_string().context("write JUnit")?;
    // Jenkins' schema (xunit-plugin, junit-10.xsd) knows "skipped" of a suite, but not of all suites together.
    let skipped: usize = report.test_suites.iter().map(|suite| suite.skipped).sum();
    Ok(xml.replacen(&format!(" skipped=\"{skipped}\""), "", 1))
}

/// One for each backend; where the lab failed, or nothing was proved, one that says so.
fn suites(row: &Row) -> Vec<TestSuite> {
    let mut suites: Vec<_> = row.passes.iter().flatten().map(|pass| suite(row, pass)).collect();
    if row.code() != 0 {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(lines(row).join("\n"));
        let mut whole = TestSuite::new(row.name.as_str());
        whole.add_test_case(TestCase::new("as expected", status));
        suites.push(whole);
    }
    suites
}

fn suite(row: &Row, pass: &Pass) -> TestSuite {
    let mut suite = TestSuite::new(format!("{}, {}", row.name, pass.backend().unwrap_or("not traced")));
    suite.add_test_cases(pass.verdicts.iter().map(|verdict| case(row, verdict)));
    suite
}

fn case(row: &Row, verdict: &Value) -> TestCase {
    let text = |name: &str| plain(&verdict[name]);
    let mut case = TestCase::new(text("scenario"), status(verdict));
    case.set_classname(row.name.as_str());
    case.set_time(std::time::Duration::from_secs_f64(verdict["seconds"].as_f64().unwrap_or(0.0)));
    case.set_system_out(format!("{}\nthe guest saw: {}", text("property"), text("guest_saw")));
    case
}

/// JUnit knows no "inconclusive": whoever gates on it must not take that for passed.
fn status(verdict: &Value) -> TestCaseStatus {
    let mut status = match verdict["status"].as_str() {
        Some("passed") => return TestCaseStatus::success(),
        Some("skipped") => TestCaseStatus::skipped(),
        Some("failed") => TestCaseStatus::non_success(NonSuccessKind::Failure),
        _ => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    status.set_message(plain(&verdict["why"]));
    status
}
