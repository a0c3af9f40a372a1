//! The binary's messages and exit codes on any machine, without privilege and without KVM.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use stealtrace_tests::{Run, findings, json_lines, run, stealtrace, summary, xtask};

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
    // By another process: one that is forked here meanwhile would keep the copy open for writing, and unusable.
    let copied = run(std::process::Command::new("cp").arg(stealtrace().get_program()).arg(&copy));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
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
fn the_version_names_the_commit_and_its_day() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let log = run(std::process::Command::new("git").current_dir(root).args([
        "log",
        "-1",
        "--format=%h %cs",
        "--abbrev=12",
    ]));
    let commit = if log.code == 0 { log.stdout.trim_end() } else { "commit not known" };
    let told = run(stealtrace().arg("--version")).stdout;
    assert_eq!(told, format!("stealtrace {} ({commit})\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_completed_is_what_there_is() {
    for shell in ["bash", "zsh", "fish"] {
        let completed = run(stealtrace().args(["completions", shell]));
        assert_eq!(completed.code, 0, "{}", completed.stderr);
        for word in ["inspect", "watch", "export", "max-series"] {
            assert!(completed.stdout.contains(word), "{shell}: {word}");
        }
    }
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
fn scenarios_are_listed_as_json_too() {
    let result = run(stealtrace().args(["verify", "--list", "--format", "json"]));
    assert_eq!(result.code, 0, "{}", result.stderr);
    let lines = json_lines(&result.stdout);
    let replug = lines.iter().find(|line| line["scenario"] == "replug").expect("replug");
    assert_eq!(replug["expected"]["fixed"], "corrupt");
    fails(&["verify", "--list", "--format", "tap"], 2, "text and json");
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
    fails(&["guard", "--backend", "tracepoint"], 2, "auto, fentry, kprobe");
    fails(&["inspect", "--watch", "1"], 2, "time unit needed");
    for endless in
        [["trace", "--duration"], ["inspect", "--watch"], ["inspect", "--wait"], ["guest", "--interval"]]
    {
        fails(&[endless[0], endless[1], "18446744073709551615s"], 2, "at most 365 days");
    }
    fails(&["inspect", "--watch", "0s"], 2, "at least 1ms");
    fails(&["trace", "--record", "-"], 2, "/dev/stdout");
    fails(&["trace", "--record", "/tmp/f", "--output", "/tmp/f"], 2, "--output must be another file");
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

fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/unfixed-6.1.stealtrace")
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("stealtrace-cli-{name}-{}", std::process::id()))
}

/// What a command that needs nothing prints its results with.
fn printing() -> Vec<Vec<String>> {
    let recording = recording().display().to_string();
    let commands: [&[&str]; 6] = [
        &["rules"],
        &["verify", "--list"],
        &["doctor"],
        &["guest", "--count", "1"],
        &["analyze", &recording],
        &["analyze", "--format", "json", &recording],
    ];
    commands.iter().map(|command| command.iter().map(|word| (*word).to_owned()).collect()).collect()
}

#[test]
fn a_closed_pipe_is_quiet_whatever_the_command() {
    for command in printing() {
        let whole = run(stealtrace().args(&command));
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let unread = stealtrace().args(&command).stdout(writer).output().map(Run::from).expect("it starts");
        assert_eq!(unread.stderr, "", "{command:?}");
        assert!([whole.code, 3].contains(&unread.code), "{command:?}: {}", unread.code);
    }
}

#[test]
fn a_full_disk_is_named_whatever_the_command() {
    for command in printing() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let stdout = stealtrace().args(&command).stdout(full).output().map(Run::from).expect("it starts");
        let file = run(stealtrace().args(&command).args(["--output", "/dev/full"]));
        for (result, name) in [(stdout, "standard output"), (file, "/dev/full")] {
            assert_eq!(result.code, 2, "{command:?}: {}", result.stderr);
            assert!(result.stderr.contains(&format!("write {name}: No space left")), "{}", result.stderr);
            assert_eq!(result.stderr.lines().count(), 1, "{command:?}: {}", result.stderr);
        }
    }
}

#[test]
fn results_go_to_a_file_that_is_asked_for() {
    let file = scratch("output");
    for command in printing() {
        let shown = run(stealtrace().args(&command));
        fs::write(&file, "what was there before, and longer than nothing").expect("written");
        let written = run(stealtrace().arg("--output").arg(&file).args(&command));
        assert_eq!(
            (written.code, written.stdout.as_str()),
            (shown.code, ""),
            "{command:?}: {}",
            written.stderr
        );
        let results = fs::read_to_string(&file).expect("results");
        assert_eq!(results.lines().count(), shown.stdout.lines().count(), "{command:?}: {results}");
        assert_eq!(results.lines().next(), shown.stdout.lines().next(), "{command:?}");
    }
    fs::remove_file(file).expect("removed");
}

#[test]
fn a_file_is_not_overwritten_before_there_are_results() {
    let file = scratch("old");
    fs::copy(recording(), &file).expect("copied");
    let name = file.display().to_string();
    fails(&["analyze", &name, "--output", &name], 2, "--output must be another file");
    fails(&["analyze", "/no/such/file", "--output", &name], 2, "/no/such/file");
    assert_eq!(fs::read(&file).expect("there"), fs::read(recording()).expect("there"));
    fs::remove_file(&file).expect("removed");
    fails(&["analyze", "/no/such/file", "--output", &name], 2, "/no/such/file");
    assert!(!file.exists(), "nothing is left behind");
}

/// As a user sees it: what it found, or that it proves nothing.
fn judged(bytes: &[u8]) -> Run {
    static FILES: AtomicU32 = AtomicU32::new(0); // tests run beside each other
    let file = scratch(&format!("damaged-{}", FILES.fetch_add(1, Ordering::Relaxed)));
    fs::write(&file, bytes).expect("written");
    let result = run(stealtrace().args(["analyze", "--format", "json"]).arg(&file));
    fs::remove_file(file).expect("removed");
    result
}

#[test]
fn damage_to_a_recording_is_never_silent() {
    let whole = fs::read(recording()).expect("the recording");
    let findings = |run: &Run| findings(&json_lines(&run.stdout));
    let sound = findings(&judged(&whole));
    for bit in (0..8 * whole.len()).step_by(101) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = judged(&bytes);
        let noticed = result.code == 2 || summary(&json_lines(&result.stdout))["inconclusive"].is_string();
        assert!(noticed || findings(&result) == sound, "bit {bit}: {}", result.stdout);
    }
}

#[test]
fn a_second_recording_in_the_same_file_is_said() {
    let whole = fs::read(recording()).expect("the recording");
    let result = judged(&[&whole[..], &whole].concat());
    let reason = summary(&json_lines(&result.stdout))["inconclusive"].to_string();
    assert!(reason.contains("another recording"), "{reason}");
}

#[test]
fn a_recording_of_another_version_is_told_in_one_line() {
    for version in ["1", "3"] {
        let result = judged(format!("stealtrace recording {version}\n{{}}\n").as_bytes());
        assert_eq!(result.code, 2);
        assert!(result.stderr.contains(&format!("recording of version {version};")), "{}", result.stderr);
        assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
    }
}

#[test]
fn json_says_when_it_began_and_utc_where_asked_for() {
    let json = |flags: &[&str]| {
        let result = run(stealtrace().args(["analyze", "--format", "json"]).args(flags).arg(recording()));
        json_lines(&result.stdout)
    };
    let lines = json(&["--utc"]);
    let (start, first) = (&lines[0], &lines[1]);
    assert_eq!((&start["type"], &start["backend"]), (&"start".into(), &"kprobe".into()));
    assert_eq!(start["utc"], "2026-11-22T21:24:36.966045Z");
    assert_eq!(start["utc_ns"], 1_795_382_676_966_045_790_u64);
    assert_eq!(first["utc"].as_str().map(|utc| &utc[..16]), Some("2026-11-22T21:24"), "{first}");
    assert!(lines.iter().filter(|line| line["type"] == "finding").all(|finding| finding["utc"].is_string()));
    assert!(json(&[])[1]["utc"].is_null());
    let guest = run(stealtrace().args(["guest", "--count", "1", "--format", "json"]));
    assert!(json_lines(&guest.stdout)[0]["utc"].is_string(), "{}", guest.stdout);
}

#[test]
fn a_recording_without_calls_says_so() {
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("evidence/strace.txt").display().to_string();
    let refused = fails(&["analyze", "--calls", &log], 2, "leave --calls out");
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
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
