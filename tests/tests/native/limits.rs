//! What is missing: memory, privileges, /proc.

use std::process::Command;

use stealtrace_tests::{run, stealtrace};

use super::shell;

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

#[test]
fn what_is_missing_is_named_by_trace_and_by_doctor() {
    let without = |capabilities: &str| {
        format!("setpriv --bounding-set {capabilities} --inh-caps {capabilities} stealtrace")
    };
    let hidden = shell(&format!("{} trace", without("-syslog,-sys_admin")));
    assert_eq!(hidden.code, 2, "{}", hidden.stderr);
    assert!(hidden.stderr.contains("CAP_SYSLOG"), "{}", hidden.stderr);
    let told = shell(&format!("{} doctor --format json", without("-syslog,-sys_admin")));
    assert_eq!(told.code, 2, "{}", told.stdout);
    assert!(told.stdout.contains("CAP_SYSLOG"), "{}", told.stdout);
    let blind = shell(&format!("{} doctor --format json", without("-dac_read_search")));
    assert!(blind.stdout.contains("needs CAP_DAC_READ_SEARCH"), "{}", blind.stdout);
    let few = shell("ulimit -n 12; stealtrace trace");
    assert!(few.stderr.contains("ulimit -n") && few.stderr.contains("Too many open files"), "{}", few.stderr);
}

#[test]
fn doctor_lives_without_proc_and_fits_80_columns() {
    let script = "mount -t tmpfs none /proc; stealtrace doctor";
    let result = run(Command::new("unshare")
        .args(["-m", "sh", "-c"])
        .arg(script.replace("stealtrace", &stealtrace().get_program().display().to_string())));
    assert_eq!(result.code, 2, "{}{}", result.stdout, result.stderr);
    assert!(result.stdout.contains("mount -t proc"), "{}", result.stdout);
    let usual = run(stealtrace().arg("doctor"));
    assert_eq!(usual.code, 0, "{}", usual.stdout);
    assert!(usual.stdout.lines().all(|line| line.chars().count() <= 80), "{}", usual.stdout);
    assert!(!usual.stdout.contains(" NO "), "{}", usual.stdout);
    for command in ["inspect, watch, export", "guard", "verify", "guest"] {
        assert!(usual.stdout.contains(&format!("│ {command} ")), "{}", usual.stdout);
    }
}
