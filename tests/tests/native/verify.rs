//! What verify says of this kernel, to people and to CI systems.

use std::{fs, process::Stdio, thread, time::Duration};

use quick_junit::{Report, TestCaseStatus};
use serde_json::Value;
use stealtrace_tests::{Run, json_lines, run, stealtrace, summary};

#[test]
fn a_page_says_what_the_guest_saw_and_what_the_witness_says() {
    let page = run(stealtrace().args([
        "verify",
        "--format",
        "html",
        "same-thread",
        "restore-by-main-thread",
        "run-hand-off-down",
    ]));
    assert_eq!(page.code, 0, "{}", page.stderr);
    assert!(page.stdout.contains("<h1>This kernel is fixed"), "{}", page.stdout);
    assert_eq!(page.stdout.matches("class=\"verdict passed\"").count(), 3, "{}", page.stdout);
    assert_eq!(page.stdout.matches("<dd>says the same</dd>").count(), 3, "{}", page.stdout);
    let failed =
        run(stealtrace().args(["verify", "--format", "html", "--expect", "sound", "run-hand-off-down"]));
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stdout.contains("<details class=\"verdict failed\" open>"), "{}", failed.stdout);
    let svg = failed.stdout.split_once("<svg").expect("a picture of it").1;
    assert!(svg.contains("vcpu0-old") && svg.contains("vcpu0-new"), "both threads: {}", failed.stdout);
}

#[test]
fn this_kernel_passes_verify_and_both_witnesses_agree() {
    let result = run(stealtrace().args(["verify", "--expect", "fixed", "--format", "json"]));
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    let lines = json_lines(&result.stdout);
    let verdicts: Vec<_> = lines.iter().filter(|line| line["type"] == "verdict").collect();
    assert_eq!(Some(verdicts.len()), lines[0]["scenarios"].as_array().map(Vec::len));
    for verdict in verdicts {
        assert_ne!(verdict["status"], "failed", "{verdict}");
        let played = (verdict["status"] != "skipped").then_some(true);
        assert_eq!(verdict["witnesses_agree"], Value::from(played), "{verdict}");
    }
    assert_eq!(summary(&lines)["class"], "fixed");
    assert!(!summary(&lines)["witness"].is_null());
}

/// One scenario that passes and two that do not.
const MIXED: [&str; 7] =
    ["verify", "--strict", "--expect", "sound", "same-thread", "run-hand-off-*", "--no-trace"];

#[test]
fn junit_is_read_by_its_consumer() {
    let result = run(stealtrace().args(MIXED).args(["--format", "junit"]));
    assert_eq!(result.code, 1, "{}", result.stderr);
    let report = Report::deserialize_from_str(&result.stdout).expect("JUnit");
    assert_eq!((report.tests, report.failures), (4, 3), "{}", result.stdout);
    let passed = |name: &str| {
        let case = report.test_suites[0].test_cases.iter().find(|case| case.name.as_str() == name);
        matches!(case.map(|case| &case.status), Some(TestCaseStatus::Success { .. }))
    };
    assert!(passed("same-thread") && !passed("run-hand-off-down"));
}

#[test]
fn tap_is_read_by_its_consumer() {
    let result = run(stealtrace().args(MIXED).args(["--format", "tap"]));
    assert_eq!(result.code, 1, "{}", result.stderr);
    let file = std::env::temp_dir().join(format!("stealtrace-{}.tap", std::process::id()));
    std::fs::write(&file, &result.stdout).expect("writable");
    let read = run(std::process::Command::new("prove").args(["--verbose", "--exec", "cat"]).arg(&file));
    std::fs::remove_file(file).expect("removable");
    assert!(read.stdout.contains("Failed 3/4 subtests"), "{}{}", read.stdout, read.stderr);
}

#[test]
fn a_seed_is_kept_and_a_repetition_counted() {
    let result = run(stealtrace()
        .args(["verify", "random-hand-offs", "--no-trace", "--seed", "7"])
        .args(["--rounds", "20", "--repeat", "2", "--format", "json"]));
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    let lines = json_lines(&result.stdout);
    assert_eq!(summary(&lines)["seed"], 7);
    assert_eq!(summary(&lines)["no_witness"], "--no-trace");
    assert_eq!(lines[1]["played"], 2);
}

/// Is this process ready to be interrupted?
fn notes_signals(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    tasks
        .flatten()
        .any(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm == "signals\n"))
}

#[test]
fn an_interrupted_verify_prints_what_it_has_and_names_the_rest() {
    for (format, signal) in
        [("table", libc::SIGINT), ("json", libc::SIGINT), ("tap", libc::SIGTERM), ("junit", libc::SIGTERM)]
    {
        let mut command = stealtrace();
        command.args(["verify", "--no-trace", "--repeat", "50", "--format", format]).stdout(Stdio::piped());
        let child = command.spawn().expect("it starts");
        while !notes_signals(child.id()) {
            thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(child.id().cast_signed(), signal) };
        let result = Run::from(child.wait_with_output().expect("ends"));
        assert_eq!(result.code, 3, "{format}: {}{}", result.stdout, result.stderr);
        for scenario in ["same-thread", "replug-off", "random-hand-offs"] {
            assert!(result.stdout.contains(scenario), "{format}: {}", result.stdout);
        }
        let says = match format {
            "json" => "\"type\":\"summary\"",
            "tap" => "Bail out! interrupted; not played: ",
            _ => "interrupted",
        };
        assert!(result.stdout.contains(says), "{format}: {}", result.stdout);
        if format == "junit" {
            let report = Report::deserialize_from_str(&result.stdout).expect("JUnit");
            assert!(report.errors > 0 && report.tests >= 28, "{}", result.stdout);
        }
    }
}
