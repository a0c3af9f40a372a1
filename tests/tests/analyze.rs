//! `stealtrace analyze` on files: what it prints is compared with golden files, word for word.
//! `UPDATE_GOLDEN=1` writes them anew; read the difference before you keep it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use stealtrace_tests::{Run, expected, findings, json_lines, run, stealtrace, summary};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn evidence(name: &str) -> String {
    folder("evidence").join(name).display().to_string()
}

fn recording(name: &str) -> String {
    folder("recordings").join(name).display().to_string()
}

fn analyze(args: &[&str]) -> Run {
    run(stealtrace().arg("analyze").args(args))
}

/// The output must be the golden file's.
fn assert_golden(name: &str, args: &[&str], code: i32) {
    let result = analyze(args);
    assert_eq!(result.code, code, "{args:?}: {}", result.stderr);
    assert_eq!(result.stderr, "", "{args:?}");
    let golden = folder("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &result.stdout).expect("write the golden file");
    }
    let wanted = fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        result.stdout == wanted,
        "{} differs:\n--- golden\n{wanted}\n--- now\n{}",
        golden.display(),
        result.stdout
    );
}

#[test]
fn the_bug_reports_evidence_reads_as_it_should() {
    for (name, code) in
        [("systemtap", 1), ("strace", 0), ("proc-stat", 1), ("xp-bytes", 1), ("xp-decimal", 0)]
    {
        let file = evidence(&format!("{name}.txt"));
        assert_golden(&format!("{name}.txt"), &[&file], code);
        assert_golden(&format!("{name}.json"), &["--format", "json", &file], code);
    }
}

#[test]
fn recordings_of_the_lab_read_as_the_live_traces_did() {
    for (name, code) in [("unfixed-6.1", 1), ("stock-6.1", 1)] {
        let file = recording(&format!("{name}.stealtrace"));
        assert_golden(&format!("{name}.txt"), &[&file], code);
        assert_golden(&format!("{name}.json"), &["--format", "json", &file], code);
        assert_golden(&format!("{name}-calls.txt"), &["--calls", &file], code);
    }
}

#[test]
fn what_calls_shows_reads_as_the_systemtap_script_did() {
    let shown = analyze(&["--calls", &recording("unfixed-6.1.stealtrace")]);
    let file = std::env::temp_dir().join(format!("stealtrace-calls-{}", std::process::id()));
    fs::write(&file, &shown.stdout).expect("write");
    let read = analyze(&["--kind", "systemtap", "--format", "json", &file.display().to_string()]);
    fs::remove_file(&file).expect("remove");
    assert_eq!(findings(&json_lines(&read.stdout)), expected(&[("steal-underflow", "error")]));
}

#[test]
fn every_recorded_finding_is_there_again_filtered_or_not() {
    let file = recording("unfixed-6.1.stealtrace");
    let found = |args: &[&str]| {
        let all = [&["--format", "json", file.as_str()], args].concat();
        findings(&json_lines(&analyze(&all).stdout))
    };
    let all = expected(&[
        ("cross-thread-ioctl", "notice"),
        ("foreign-steal-restore", "error"),
        ("steal-underflow", "error"),
    ]);
    assert_eq!(found(&[]), all);
    assert_eq!(found(&["--findings-only"]), all);
    assert_eq!(found(&["--rule", "steal-underflow"]), expected(&[("steal-underflow", "error")]));
    assert_eq!(
        found(&["--min-severity", "error"]),
        expected(&[("foreign-steal-restore", "error"), ("steal-underflow", "error")])
    );
    assert_eq!(found(&["--stop-after", "1"]), expected(&[("cross-thread-ioctl", "notice")]));
    assert_eq!(found(&["--pid", "1"]), expected(&[]));
    assert_eq!(found(&["--comm", "nobody"]), expected(&[]));
    assert_eq!(found(&["--vcpu", "7"]), expected(&[]));
    assert_eq!(found(&["--vcpu", "0"]), all);
}

#[test]
fn a_cut_recording_is_read_up_to_the_cut_and_inconclusive() {
    let whole = fs::read(recording("stock-6.1.stealtrace")).expect("the recording");
    let file = std::env::temp_dir().join(format!("stealtrace-cut-{}", std::process::id()));
    fs::write(&file, &whole[..whole.len() / 2]).expect("write");
    let result = analyze(&["--format", "json", &file.display().to_string()]);
    fs::remove_file(&file).expect("remove");
    assert_eq!(result.code, 3, "{}{}", result.stdout, result.stderr);
    let lines = json_lines(&result.stdout);
    assert!(lines.len() > 5, "what is before the cut is shown");
    let reason = summary(&lines)["inconclusive"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("cut off"), "{reason}");
}

#[test]
fn streams_are_read() {
    let mut child = stealtrace()
        .args(["analyze", "--format", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("stealtrace starts");
    let text = fs::read(folder("evidence/xp-bytes.txt")).expect("the evidence");
    child.stdin.take().expect("piped").write_all(&text).expect("written");
    let result = Run::from(child.wait_with_output().expect("ends"));
    assert_eq!(result.code, 1);
    assert_eq!(findings(&json_lines(&result.stdout)), expected(&[("steal-poisoned", "error")]));
}

#[test]
fn a_file_that_is_nothing_we_know_says_what_was_expected() {
    let result = analyze(&[&folder("Cargo.toml").display().to_string()]);
    assert_eq!(result.code, 2);
    assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
    for kind in ["recording", "systemtap", "strace", "/proc/stat", "xp"] {
        assert!(result.stderr.contains(kind), "{}", result.stderr);
    }
}

#[test]
fn a_file_that_is_not_there_is_exit_2() {
    let result = analyze(&["/no/such/file"]);
    assert_eq!(result.code, 2);
    assert!(result.stderr.contains("/no/such/file"), "{}", result.stderr);
}

#[test]
fn lines_not_understood_are_counted_not_refused() {
    let result = analyze(&[&evidence("strace.txt")]);
    assert!(result.stdout.contains("35 lines read, 4 not understood"), "{}", result.stdout);
}

#[test]
fn colour_and_utc_are_there_when_asked_for() {
    let file = recording("stock-6.1.stealtrace");
    let coloured = analyze(&["--color", "always", &file]).stdout;
    assert!(coloured.contains("\u{1b}[1;31m  error\u{1b}[0m: steal-underflow"), "{coloured}");
    assert!(!analyze(&[&file]).stdout.contains('\u{1b}'));
    let utc = analyze(&["--utc", &file]).stdout;
    assert!(utc.lines().next().is_some_and(|line| line.contains("Z ") && line.contains("T")), "{utc}");
}

#[test]
fn rules_are_explained() {
    let list = run(stealtrace().arg("rules")).stdout;
    for rule in [
        "cross-thread-ioctl",
        "foreign-steal-restore",
        "runner-hand-off",
        "steal-underflow",
        "steal-backwards",
        "steal-rewound",
        "steal-over-charge",
        "steal-poisoned",
    ] {
        assert!(list.contains(rule), "{list}");
        let about = run(stealtrace().args(["rules", rule]));
        assert_eq!(about.code, 0);
        for part in ["Why it matters", "Evidence", "What to do"] {
            assert!(about.stdout.contains(part), "{}", about.stdout);
        }
    }
    let unknown = run(stealtrace().args(["rules", "no-such"]));
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("steal-underflow"), "{}", unknown.stderr);
}
