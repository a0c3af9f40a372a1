//! What each command needs instead of root: with exactly that it works, without any part of it an error names the part.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use stealtrace_tests::{Run, run, stealtrace};

use super::{scratch, three_vcpus};

const TRACING: [&str; 3] = ["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"];
const LOOKING: [&str; 2] = ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"];

/// A copy of the binary that every user can run.
struct Binary(PathBuf);

impl Binary {
    fn new() -> Self {
        let file = scratch("binary");
        fs::copy(stealtrace().get_program(), &file).expect("copied");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("for everybody");
        Self(file)
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// Until what does not end by itself is ended, in seconds; what is refused ends long before.
const PLENTY: &str = "60";
const SOME: &str = "3";

/// As nobody, with these capabilities and no way to more, ended after a while.
fn as_nobody(binary: &Path, capabilities: &[&str], seconds: &str, arguments: &[&str]) -> Run {
    let names =
        capabilities.iter().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let set = format!("-all{}", names.collect::<String>());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
    command.args(["--inh-caps", &set, "--ambient-caps", &set, "--bounding-set", &set]);
    run(command.args(["timeout", "--preserve-status", seconds]).arg(binary).args(arguments))
}

fn check(arguments: &[&str], needs: &[&str]) {
    let binary = Binary::new();
    let enough = as_nobody(&binary.0, needs, SOME, arguments);
    assert!([0, 3].contains(&enough.code), "{arguments:?} with {needs:?}: {}", enough.stderr);
    for dropped in needs.iter().filter(|name| **name != "CAP_DAC_READ_SEARCH") {
        let left: Vec<_> = needs.iter().filter(|name| *name != dropped).copied().collect();
        let refused = as_nobody(&binary.0, &left, PLENTY, arguments);
        assert_eq!(refused.code, 2, "{arguments:?} without {dropped}: {}", refused.stderr);
        assert!(refused.stderr.contains(dropped), "{arguments:?} without {dropped}: {}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
}

#[test]
fn trace_needs_three_capabilities() {
    check(&["trace", "--findings-only", "--duration", "100ms"], &TRACING);
}

#[test]
fn inspect_watch_and_export_need_two_more() {
    let once = &["watch", "--once", "--interval", "100ms"];
    for arguments in [&["inspect", "--wait", "0s"][..], &["export", "--listen", "127.0.0.1:0"], once] {
        check(arguments, &[&TRACING[..], &LOOKING].concat());
    }
}

#[test]
fn a_vm_of_another_user_takes_one_that_is_named_when_it_is_met() {
    let _vm = three_vcpus();
    let binary = Binary::new();
    let without = [&TRACING[..], &LOOKING[..1]].concat();
    for arguments in [&["inspect", "--wait", "0s"][..], &["export", "--listen", "127.0.0.1:0"]] {
        let told = loop {
            let told = as_nobody(&binary.0, &without, SOME, arguments);
            if !told.stdout.contains("no VM runs") {
                break told; // the VM begins while it is looked at
            }
        };
        assert!((told.stdout + &told.stderr).contains("CAP_DAC_READ_SEARCH"), "{arguments:?}");
    }
}

#[test]
fn the_unit_and_the_readme_say_exactly_this() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let read = |file: &str| fs::read_to_string(root.join(file)).expect("readable");
    let all = [&TRACING[..], &LOOKING].concat().join(" ");
    let unit = read("stealtrace/dist/stealtrace-export.service");
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert!(unit.lines().any(|line| line == format!("{key}={all}")), "{key}");
    }
    let readme = read("README.md");
    for (command, needs) in [("`trace`", &TRACING[..]), ("`inspect`, `watch`, `export`", &LOOKING)] {
        let row = readme.lines().find(|line| line.starts_with(&format!("| {command} | "))).expect("a row");
        assert!(needs.iter().all(|name| row.contains(name)), "{row}");
    }
}
