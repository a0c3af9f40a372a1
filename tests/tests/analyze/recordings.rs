//! Recordings, read again.

use std::fs;

use stealtrace_tests::{expected, findings, json_lines, summary};

use super::{analyze, analyze_bytes, assert_golden, evidence, gzip, recording, zstd};

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
fn a_filter_that_leaves_nothing_proves_nothing() {
    let recording = recording("unfixed-6.1.stealtrace");
    for filter in [["--pid", "99999"], ["--tid", "99999"], ["--comm", "nobody"], ["--vcpu", "77"]] {
        for file in [&recording, &evidence("strace.txt"), &evidence("proc-stat.txt")] {
            let result = analyze(&[filter[0], filter[1], file]);
            assert!(result.code != 0, "{filter:?} {file}: {}", result.stdout);
        }
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
fn compressed_recordings_are_read() {
    let file = recording("unfixed-6.1.stealtrace");
    let plain = analyze(&[&file]).stdout;
    let bytes = fs::read(&file).expect("the recording");
    for packed in [gzip(&bytes), zstd(&bytes)] {
        assert_eq!(analyze_bytes(&[], &packed).stdout, plain);
    }
    let cut = gzip(&bytes);
    let cut = analyze_bytes(&["--rule", "steal-poisoned"], &cut[..cut.len() / 2]);
    assert_eq!(cut.code, 3, "{}", cut.stdout);
}
