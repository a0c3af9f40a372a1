//! stealtrace on this very machine: needs /dev/kvm and the right to trace. `cargo xtask test` says when it cannot run.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Stdio},
};

use quick_junit::{Report, TestCaseStatus};
use serde_json::Value;
use stealtrace_tests::{Run, expected, findings, json_lines, run, stealtrace, summary};

fn traced(flags: &[&str], scenario: &str) -> Run {
    let binary = stealtrace().get_program().to_owned();
    let quiet = format!("{} verify --no-trace {scenario} > /dev/null", binary.display());
    run(stealtrace().arg("trace").args(flags).args(["--", "sh", "-c", &quiet]))
}

#[test]
fn a_hand_off_is_one_finding_with_both_threads_and_the_guests_counter() {
    let result = traced(&["--findings-only", "--format", "json"], "run-hand-off-down");
    assert_eq!(result.code, 1, "{}", result.stderr);
    let lines = json_lines(&result.stdout);
    let errors: Vec<_> = lines.iter().filter(|line| line["type"] == "finding").collect();
    let [finding] = errors[..] else { panic!("not one finding: {errors:?}") };
    assert_eq!(finding["rule"], "steal-underflow");
    assert_eq!(finding["steal_backwards"], "yes");
    assert_ne!(finding["caller_tid"], finding["last_steal_of_tid"]);
    let number = |name: &str| finding[name].as_i64().expect(name);
    assert_eq!(number("delta_ns"), number("run_delay_ns") - number("last_steal_ns"));
    assert_eq!(number("steal_after_ns") - number("steal_before_ns"), number("delta_ns"));
    assert_eq!(summary(&lines)["lost"], 0);
}

#[test]
fn one_thread_alone_is_silent() {
    let result = traced(&["--format", "json"], "same-thread");
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    let lines = json_lines(&result.stdout);
    assert_eq!(findings(&lines), expected(&[]));
    assert!(lines.iter().any(|line| line["type"] == "update"), "nothing was seen");
}

#[test]
fn warnings_count_when_asked_for() {
    assert_eq!(traced(&["--fail-on", "warning"], "restore-by-main-thread").code, 1);
    assert_eq!(traced(&["--fail-on", "error"], "restore-by-main-thread").code, 0);
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
        assert_eq!(verdict["witnesses_agree"], true, "{verdict}");
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

#[test]
fn a_command_that_is_not_there_is_exit_2() {
    let result = run(stealtrace().args(["trace", "--", "/no/such/command"]));
    assert_eq!(result.code, 2);
    assert!(result.stderr.contains("cannot run /no/such/command"), "{}", result.stderr);
    assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
}

#[test]
fn a_command_without_vcpus_proves_nothing() {
    let result = run(stealtrace().args(["trace", "--", "true"]));
    assert_eq!(result.code, 3, "{}{}", result.stdout, result.stderr);
    assert!(result.stdout.contains("used no vCPU"), "{}", result.stdout);
}

#[test]
fn a_process_that_is_not_there_is_exit_2() {
    let result = run(stealtrace().args(["trace", "--pid", "4194305"]));
    assert_eq!(result.code, 2);
    assert!(result.stderr.contains("no process 4194305"), "{}", result.stderr);
}

/// Started, and past the line that says that it traces.
fn started(flags: &[&str]) -> Child {
    let mut child = stealtrace()
        .arg("trace")
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("stealtrace starts");
    let mut first = String::new();
    BufReader::new(child.stderr.as_mut().expect("piped")).read_line(&mut first).expect("a first line");
    assert!(first.contains("tracing"), "{first}");
    child
}

#[test]
fn ctrl_c_ends_a_trace_with_its_summary() {
    let mut child = started(&[]);
    // SAFETY: our own child, not reaped yet.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("readable");
    assert!(text.contains("lost: 0"), "{text}");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_closed_pipe_is_quiet() {
    let mut child = started(&["--format", "json"]);
    drop(child.stdout.take());
    let verify = run(stealtrace().args(["verify", "same-thread"]));
    assert_eq!(verify.code, 0);
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("readable");
    assert_eq!(said, "");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn lost_events_are_counted_and_make_a_clean_run_inconclusive() {
    let mut child = started(&["--buffer", "4", "--format", "json"]);
    let tell = |signal| {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(child.id().cast_signed(), signal) }
    };
    tell(libc::SIGSTOP);
    for _ in 0..5 {
        assert_eq!(run(stealtrace().args(["verify", "same-thread"])).code, 0);
    }
    tell(libc::SIGCONT);
    tell(libc::SIGINT);
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("readable");
    let lines = json_lines(&text);
    let summary = summary(&lines);
    let sum = |of: &str| -> u64 {
        let probes = summary["probes"].as_array().expect("probes");
        probes.iter().filter_map(|probe| probe[of].as_u64()).sum()
    };
    assert!(sum("lost") > 0, "{summary}");
    assert_eq!(summary["lost"], sum("lost"));
    assert_eq!(summary["events"], sum("emitted"), "every event that was not lost was read");
    assert_eq!(child.wait().expect("ends").code(), Some(3));
}

#[test]
fn a_traced_process_that_ends_ends_the_trace() {
    let mut sleeper = std::process::Command::new("sleep").arg("600").spawn().expect("sleep starts");
    let mut trace = started(&["--pid", &sleeper.id().to_string()]);
    sleeper.kill().expect("it runs");
    sleeper.wait().expect("it ends");
    assert_eq!(trace.wait().expect("ends").code(), Some(0));
}

/// One vCPU that runs and two that do nothing, until it is ended.
fn three_vcpus() -> Child {
    let mut command = stealtrace();
    command.args(["load", "run", "--idle", "2", "--duration", "10m"]).stdout(Stdio::null());
    command.spawn().expect("stealtrace starts")
}

fn end(mut vm: Child) {
    vm.kill().expect("it runs");
    vm.wait().expect("it ends");
}

#[test]
fn inspect_watches_a_processs_vcpus_until_it_ends() {
    let vm = three_vcpus();
    let (id, pid) = (vm.id(), vm.id().to_string());
    let mut inspect = stealtrace();
    inspect.args(["inspect", "--format", "json", "--wait", "100ms", "--watch", "100ms", "--pid", &pid]);
    let mut inspect = inspect.stdout(Stdio::piped()).spawn().expect("stealtrace starts");
    let looks = BufReader::new(inspect.stdout.take().expect("piped")).lines();
    let looks = looks.map(|look| json_lines(&look.expect("text")).remove(0));
    let told = |look: &Value| {
        let mut judgements: Vec<_> =
            look["vcpus"].as_array().expect("a list").iter().map(|vcpu| vcpu["judgement"].as_str()).collect();
        judgements.sort_unstable();
        judgements == [Some("cannot tell"), Some("cannot tell"), Some("sound")]
    };
    let mut looks = looks.filter(told); // the VM begins while it is looked at
    let look = looks.nth(2).expect("two that do nothing, and one that counts right");
    assert!(look["vcpus"].as_array().expect("a list").iter().all(|vcpu| vcpu["vm_pid"] == id), "{look}");
    end(vm);
    looks.for_each(drop);
    inspect.wait().expect("it ends with the VM");
    let gone = run(stealtrace().args(["inspect", "--pid", &pid]));
    assert_eq!(gone.code, 2);
    assert!(gone.stderr.contains("no process"), "{}", gone.stderr);
}

#[test]
fn inspect_into_a_closed_pipe_is_quiet() {
    let vm = three_vcpus();
    let watch = format!("{} inspect --watch 10ms | head -n 1", stealtrace().get_program().display());
    let result = run(std::process::Command::new("sh").args(["-c", &watch]));
    end(vm);
    assert_eq!((result.stdout.lines().count(), result.stderr.as_str()), (1, ""));
}
