//! Recordings, whatever happens to their writer and their disk.

use std::{fs, io, path::Path, thread, time::Duration};

use stealtrace_tests::{Run, json_lines, run, stealtrace, summary};

use super::{scratch, started, traced_load};

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
    let mut child = started(&["--output", "/dev/null", "--record", &file.display().to_string()]);
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
