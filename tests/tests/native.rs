//! stealtrace on this very machine: needs /dev/kvm and the right to trace. `cargo xtask test` says when it cannot run.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
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

/// `load run`, traced with these flags.
fn traced_load(flags: &[&str]) -> std::process::Command {
    let mut command = stealtrace();
    command.arg("trace").args(flags).arg("--").arg(stealtrace().get_program());
    command.args(["load", "run", "--duration", "100ms"]);
    command
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("stealtrace-native-{name}-{}", std::process::id()))
}

/// The summary of a recording, and its exit code.
fn analyzed(file: &Path) -> (serde_json::Value, i32) {
    let result = run(stealtrace().args(["analyze", "--format", "json", "--findings-only"]).arg(file));
    (summary(&json_lines(&result.stdout)).clone(), result.code)
}

#[test]
fn a_recording_is_not_begun_before_the_command_is() {
    let file = scratch("begun");
    let name = file.display().to_string();
    let fail = || run(stealtrace().args(["trace", "--record", &name, "--", "/no/such/command"]));
    assert_eq!(fail().code, 2);
    assert!(!file.exists(), "nothing is left behind");
    fs::write(&file, "old").expect("written");
    assert_eq!(fail().code, 2);
    assert_eq!(fs::read_to_string(&file).expect("still there"), "old");
    fs::remove_file(file).expect("removed");
}

#[test]
fn a_recording_goes_on_when_nobody_reads_the_results() {
    let file = scratch("unread");
    let name = file.display().to_string();
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let result: Run = traced_load(&["--record", &name]).stdout(writer).output().expect("it starts").into();
    assert!(result.stderr.contains("the recording goes on"), "{}", result.stderr);
    assert_eq!(result.code, 0, "{}", result.stderr);
    let (summary, _) = analyzed(&file);
    fs::remove_file(file).expect("removed");
    assert!(summary["inconclusive"].is_null(), "whole to the end of the command: {summary}");
    assert!(summary["events"].as_u64() > Some(100), "{summary}");
}

#[test]
fn a_recording_on_a_full_disk_is_named_and_the_trace_goes_on() {
    let result = run(&mut traced_load(&["--record", "/dev/full", "--format", "json", "--findings-only"]));
    assert_eq!(result.code, 2, "{}", result.stderr);
    assert!(result.stderr.contains("/dev/full is not whole: No space left"), "{}", result.stderr);
    let last = result.stdout.lines().last().unwrap_or_default();
    assert_eq!(summary(&json_lines(last))["lost"], 0, "the summary is there: {}", result.stdout);
}

#[test]
fn a_recording_whose_writer_was_killed_is_read_up_to_there() {
    let file = scratch("killed");
    let mut child = started(&["--record", &file.display().to_string()]);
    let header = fs::metadata(&file).expect("begun").len();
    assert_eq!(run(stealtrace().args(["verify", "--no-trace", "same-thread"])).code, 0);
    while fs::metadata(&file).expect("there").len() == header {
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("killed");
    child.wait().expect("ends");
    let (summary, code) = analyzed(&file);
    fs::remove_file(file).expect("removed");
    assert_eq!(code, 3);
    assert!(summary["events"].as_u64() > Some(0), "{summary}");
    assert!(summary["inconclusive"].as_str().is_some_and(|why| why.contains("cut off")), "{summary}");
}

#[test]
fn a_commands_output_stays_out_of_a_file_of_results() {
    let file = scratch("results");
    let result = run(stealtrace().args(["trace", "--format", "json", "--output"]).arg(&file).args([
        "--",
        "sh",
        "-c",
        "echo hello",
    ]));
    let lines = json_lines(&fs::read_to_string(&file).expect("results"));
    fs::remove_file(file).expect("removed");
    assert_eq!(result.stdout, "hello\n");
    assert_eq!((&lines[0]["type"], &lines[1]["type"]), (&"start".into(), &"summary".into()));
}

#[test]
fn calls_of_a_vm_that_runs_already_pair_up() {
    let mut vm = three_vcpus();
    let pid = vm.id().to_string();
    let shown = run(stealtrace().args(["trace", "--calls", "--duration", "300ms", "--pid", &pid]));
    let file = scratch("no-calls");
    let name = file.display().to_string();
    assert_eq!(
        run(stealtrace().args(["trace", "--pid", &pid, "--record", &name, "--duration", "100ms"])).code,
        0
    );
    let refused = run(stealtrace().args(["analyze", "--calls", &name]));
    fs::remove_file(file).expect("removed");
    vm.wait().expect("it ends");
    let calls: Vec<_> =
        shown.stdout.lines().filter_map(|line| line.split_once("): ").map(|(_, says)| says)).collect();
    let runs = calls.iter().filter(|call| **call == "-> KVM_RUN").count();
    let returns = calls.iter().filter(|call| **call == "<- KVM_RUN").count();
    assert!(runs > 10 && runs.abs_diff(returns) <= 1, "{runs} calls, {returns} returns");
    assert!(!calls.iter().any(|call| call.starts_with(' ') || call.contains("> 0x")), "{}", shown.stdout);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("recorded without --calls"), "{}", refused.stderr);
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

#[test]
fn memory_that_runs_out_is_one_line() {
    let binary = stealtrace().get_program().display().to_string();
    let mut said = 0;
    for kib in (20_000..60_000).step_by(4_000) {
        let limited = format!("ulimit -v {kib}; exec {binary} trace --duration 0s");
        let result = run(std::process::Command::new("sh").args(["-c", &limited]));
        assert!([0, 2].contains(&result.code), "{kib} KiB: {} {}", result.code, result.stderr);
        assert_eq!(result.stderr.lines().count(), 1, "{kib} KiB: {}", result.stderr);
        said += u32::from(result.stderr.contains("out of memory"));
    }
    assert!(said > 0, "no limit was too small");
}
