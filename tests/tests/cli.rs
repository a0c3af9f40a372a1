//! The binary's messages and exit codes on any machine, without privilege and without KVM.

use std::os::unix::process::CommandExt as _;

use stealtrace_tests::{Run, run, stealtrace, xtask};

const NOBODY: u32 = 65534;

fn fails(args: &[&str], code: i32, says: &str) -> Run {
    let result = run(stealtrace().args(args));
    assert_eq!(result.code, code, "{args:?}: {}", result.stderr);
    assert!(result.stderr.contains(says), "{args:?} should say {says:?}: {}", result.stderr);
    result
}

/// A copy that an unprivileged user can execute, wherever the build folder is.
fn as_nobody(args: &[&str]) -> Run {
    let copy =
        std::env::temp_dir().join(format!("stealtrace-nobody-{}-{}", std::process::id(), args.join("-")));
    std::fs::copy(stealtrace().get_program(), &copy).expect("copy the binary");
    let mut command = std::process::Command::new(&copy);
    // SAFETY: geteuid has no arguments and always succeeds.
    let is_root = unsafe { libc::geteuid() } == 0;
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let result = run(command.args(args).current_dir("/"));
    std::fs::remove_file(copy).expect("remove the copy");
    result
}

#[test]
fn scenarios_are_listed_with_their_properties() {
    let result = run(stealtrace().args(["verify", "--list"]));
    assert_eq!(result.code, 0);
    for scenario in ["same-thread", "pinned-overcommit", "random-hand-offs"] {
        assert!(result.stdout.contains(scenario), "{}", result.stdout);
    }
}

#[test]
fn an_unknown_scenario_lists_the_known_ones() {
    let result = fails(&["verify", "no-such"], 2, "no scenario no-such");
    for known in ["same-thread", "restore-by-main-thread", "run-hand-off-down"] {
        assert!(result.stderr.contains(known), "{}", result.stderr);
    }
    assert_eq!(result.stderr.lines().count(), 1);
}

#[test]
fn scenarios_are_listed_without_kvm() {
    let result = run(stealtrace().args(["verify", "--list"]));
    assert_eq!(result.code, 0);
    assert!(result.stdout.contains("restore-by-main-thread"), "{}", result.stdout);
}

#[test]
fn bad_usage_is_exit_2() {
    fails(&["trace", "--backend", "magic"], 2, "auto");
    fails(&["trace", "--duration", "10"], 2, "time unit needed");
    fails(&["trace", "--fail-on", "never"], 2, "notice");
    fails(&["trace", "--pid", "1", "--", "true"], 2, "cannot be used with");
    fails(&["verify", "--expect", "perfect"], 2, "affected");
    fails(&["trace", "--comm", ""], 2, "value is required");
    fails(&["trace", "--tid", "1", "--", "true"], 2, "cannot be used with");
    fails(&["guard", "--pid", "1", "--", "true"], 2, "cannot be used with");
    fails(&["inspect", "--watch", "1"], 2, "time unit needed");
    fails(&[], 2, "Usage");
}

#[test]
fn without_privilege_tracing_says_which_is_missing() {
    for command in ["trace", "inspect", "guard"] {
        let result = as_nobody(&[command]);
        assert_eq!(result.code, 2, "{}", result.stderr);
        assert!(
            result.stderr.contains("CAP_BPF") && result.stderr.contains("run as root"),
            "{}",
            result.stderr
        );
        assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
    }
}

#[test]
fn without_privilege_doctor_says_not_usable() {
    let result = as_nobody(&["doctor", "--format", "json"]);
    assert_eq!(result.code, 2, "{}", result.stderr);
    let object: serde_json::Value = serde_json::from_str(&result.stdout).expect("one JSON object");
    assert_eq!(object["usable"], false);
    assert!(object["reason"].as_str().is_some_and(|reason| reason.contains("CAP_BPF")), "{object}");
}

#[test]
fn without_permission_for_kvm_verify_says_so() {
    let result = as_nobody(&["verify"]);
    assert_eq!(result.code, 2);
    assert!(result.stderr.contains("/dev/kvm"), "{}", result.stderr);
    assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
}

#[test]
fn help_explains_exit_codes() {
    let result = run(stealtrace().arg("--help"));
    assert_eq!(result.code, 0);
    assert!(result.stdout.contains("inconclusive"), "{}", result.stdout);
}

#[test]
fn an_unknown_kernel_lists_the_known_ones() {
    let result = run(xtask().args(["lab", "run", "linux-9", "--", "true"]));
    assert_eq!(result.code, 125);
    for known in ["stock-6.1", "unfixed-6.1", "stock-6.12"] {
        assert!(result.stderr.contains(known), "{}", result.stderr);
    }
}

#[test]
fn a_filter_by_thread_holds_for_findings_that_a_log_shows_by_itself() {
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/evidence/systemtap.txt");
    let found = |tid: &str| {
        let result = run(stealtrace().args(["analyze", "--format", "json", "--tid", tid, log]));
        result.stdout.lines().filter(|line| line.starts_with("{\"type\":\"finding\"")).count()
    };
    assert_eq!((found("18449"), found("18448"), found("4194305")), (1, 1, 0));
}
