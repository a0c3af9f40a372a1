//! Whom a trace follows, and what it says where that is nobody.
use stealtrace_tests::{findings, json_lines, run, stealtrace};

use super::{a_second_thread, three_vcpus, traced_load};

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

#[test]
fn a_thread_is_no_process_and_no_thread_matches_nothing() {
    let vm = three_vcpus();
    let (pid, tid) = (vm.id(), a_second_thread(vm.id()));
    for command in ["trace", "inspect"] {
        let result = run(stealtrace().args([command, "--pid", &tid.to_string()]));
        assert_eq!(result.code, 2, "{}", result.stderr);
        let says = format!("{tid} is a thread of process {pid} (stealtrace)");
        assert!(result.stderr.contains(&says), "{}", result.stderr);
    }
    let gone = run(stealtrace().args(["trace", "--tid", "4194305"]));
    assert_eq!(gone.code, 2);
    assert!(gone.stderr.contains("no thread 4194305"), "{}", gone.stderr);
    drop(vm);
}

#[test]
fn where_nothing_was_seen_it_is_said_why() {
    let nobody = ["trace", "--duration", "100ms", "--comm", "no-such-name"];
    let result = run(stealtrace().args(nobody));
    assert_eq!(result.code, 3, "{}{}", result.stdout, result.stderr);
    assert!(result.stdout.contains("no vCPU ioctl was seen"), "{}", result.stdout);
    let this = std::process::id();
    let inspected = run(stealtrace().args(["inspect", "--pid", &this.to_string()]));
    assert_eq!(inspected.code, 3, "{}", inspected.stdout);
    assert!(inspected.stdout.starts_with(&format!("process {this} ")), "{}", inspected.stdout);
    assert!(inspected.stdout.contains("has no vCPU"), "{}", inspected.stdout);
}

#[test]
fn children_of_a_command_are_traced_whatever_their_parent_is_called() {
    let binary = stealtrace().get_program().display().to_string();
    let script = format!("{binary} verify --no-trace run-hand-off-down > /dev/null; true");
    let flags = ["trace", "--format", "json", "--findings-only", "--comm", "vcpu0-new"];
    let result = run(stealtrace().args(flags).args(["--", "sh", "-c", &script]));
    assert_eq!(findings(&json_lines(&result.stdout))["steal-underflow"], "error");
}

#[test]
fn a_vcpu_that_is_not_there_proves_nothing() {
    let mut command = traced_load(&["--vcpu", "3"]);
    let result = run(&mut command);
    assert_eq!(result.code, 3, "{}", result.stdout);
    assert!(result.stdout.contains("used no vCPU"), "{}", result.stdout);
}
