//! What is found, what is not, and what of it is lost.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use serde_json::Value;
use stealtrace_tests::{expected, findings, found, json_lines, run, stealtrace, summary};

use super::{scratch, started, three_vcpus, traced};

#[test]
fn a_hand_off_is_one_finding_with_both_threads_and_the_guests_counter() {
    let result = traced(&["--findings-only", "--format", "json"], "run-hand-off-down");
    assert_eq!(result.code, 1, "{}", result.stderr);
    let lines = json_lines(&result.stdout);
    let [finding] = found(&lines)[..] else { panic!("not one finding: {}", result.stdout) };
    assert_eq!(finding["rule"], "steal-underflow");
    assert_eq!(finding["steal_backwards"], "yes");
    assert_ne!(finding["caller_tid"], finding["last_steal_of_tid"]);
    let number = |name: &str| finding[name].as_i64().expect(name);
    assert_eq!(number("delta_ns"), number("run_delay_ns") - number("last_steal_ns"));
    assert_eq!(number("steal_after_ns") - number("steal_before_ns"), number("delta_ns"));
    assert_eq!(summary(&lines)["lost"], 0);
}

#[test]
fn a_trace_ends_with_a_page_and_text_beside_it() {
    let result = traced(&["--format", "html"], "run-hand-off-down");
    assert_eq!(result.code, 1, "{}", result.stderr);
    assert!(result.stdout.starts_with("<!DOCTYPE html>") && result.stdout.ends_with("</html>"));
    assert!(result.stdout.contains("the hand-off that this update consumed"), "{}", result.stdout);
    assert!(result.stderr.contains("error: steal-underflow × 1"), "{}", result.stderr);
}

#[test]
fn a_page_of_edges_shows_what_is_not_known() {
    let result = traced(&["--format", "html", "--findings-only"], "run-hand-off-down");
    assert_eq!(result.code, 1, "{}", result.stderr);
    assert!(result.stdout.contains("dotted lines are not"), "{}", result.stdout);
    assert!(result.stdout.contains("class=\"line last-steal gaps\""), "{}", result.stdout);
}

#[test]
fn what_an_unknown_thread_does_again_and_again_is_told_once() {
    let mut load = stealtrace()
        .args(["load", "get-regs", "--duration", "1m"])
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let pid = load.id().to_string();
    while !run(stealtrace().args(["inspect", "--pid", &pid])).stdout.contains(&pid) {}
    let trace = ["trace", "--findings-only", "--format", "json", "--duration", "300ms", "--pid", &pid];
    let traced = run(stealtrace().args(trace));
    load.kill().and_then(|()| load.wait()).expect("ended");
    let lines = json_lines(&traced.stdout);
    let [seen, told] =
        [&summary(&lines)["probes"][1]["hits"], &summary(&lines)["events"]].map(|n| n.as_u64());
    assert!(seen > Some(500) && told < Some(20), "{}", traced.stdout);
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

/// Of one process: what else runs on this machine may well have findings.
#[test]
fn lost_events_are_counted_and_make_a_clean_run_inconclusive() {
    let vm = format!(
        "read go; exec {} verify --no-trace --repeat 5 same-thread > /dev/null",
        stealtrace().get_program().display()
    );
    let mut vm =
        std::process::Command::new("sh").args(["-c", &vm]).stdin(Stdio::piped()).spawn().expect("sh starts");
    let mut child = started(&["--buffer", "4", "--format", "json", "--pid", &vm.id().to_string()]);
    let tell = |signal| {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(child.id().cast_signed(), signal) }
    };
    tell(libc::SIGSTOP);
    vm.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    assert_eq!(vm.wait().expect("it ends").code(), Some(0));
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
fn times_in_a_time_namespace_are_the_hosts() {
    let mut command = Command::new("unshare");
    command.args(["--time", "--monotonic", "100000"]).arg(stealtrace().get_program());
    command.args(["trace", "--format", "json", "--"]).arg(stealtrace().get_program());
    let result = run(command.args(["load", "get-regs", "--duration", "10ms"]));
    let times: Vec<_> = result
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["time_ns"].as_u64())
        .collect();
    assert!(
        !times.is_empty() && times.iter().all(|time_ns| (1..3_600_000_000_000).contains(time_ns)),
        "{times:?}"
    );
}

#[test]
fn calls_of_a_vm_that_runs_already_pair_up() {
    let vm = three_vcpus();
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
    drop(vm);
    let calls: Vec<_> =
        shown.stdout.lines().filter_map(|line| line.split_once("): ").map(|(_, says)| says)).collect();
    let runs = calls.iter().filter(|call| **call == "-> KVM_RUN").count();
    let returns = calls.iter().filter(|call| **call == "<- KVM_RUN").count();
    assert!(runs > 10 && runs.abs_diff(returns) <= 1, "{runs} calls, {returns} returns");
    assert!(!calls.iter().any(|call| call.starts_with(' ') || call.contains("> 0x")), "{}", shown.stdout);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("recorded without --calls"), "{}", refused.stderr);
}
