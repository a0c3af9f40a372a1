//! stealtrace on this very machine: needs /dev/kvm and the right to trace. `cargo xtask test` says when it cannot run.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsRawFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use quick_junit::{Report, TestCaseStatus};
use serde_json::Value;
use stealtrace_tests::{Run, expected, findings, found, json_lines, run, stealtrace, summary};

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
        let played = (verdict["status"] != "skipped").then_some(true);
        assert_eq!(verdict["witnesses_agree"], Value::from(played), "{verdict}");
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
fn quiet_says_only_what_went_wrong() {
    let trace = |flags: &[&str]| run(stealtrace().args(["trace", "--duration", "10ms"]).args(flags)).stderr;
    assert!(trace(&[]).contains("tracing"));
    assert_eq!(trace(&["--quiet"]), "");
    assert!(trace(&["--quiet", "--pid", "4194305"]).contains("no process 4194305"));
}

#[test]
fn colours_are_everywhere_or_nowhere() {
    let vm = three_vcpus();
    let pid = vm.id().to_string();
    let commands: [&[&str]; 3] =
        [&["doctor"], &["inspect", "--pid", &pid], &["verify", "--no-trace", "same-thread"]];
    for command in commands {
        let shown = |color| run(stealtrace().args(["--color", color]).args(command)).stdout;
        assert!(shown("always").contains("\u{1b}["), "{command:?}");
        assert!(!shown("never").contains('\u{1b}'), "{command:?}");
        assert!(!shown("auto").contains('\u{1b}'), "{command:?}: no terminal");
    }
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
fn a_traced_process_that_ends_ends_the_trace() {
    let mut sleeper = Command::new("sleep").arg("600").spawn().expect("sleep starts");
    let pid = sleeper.id().to_string();
    let mut trace = started(&["--pid", &pid]);
    sleeper.kill().expect("it runs");
    sleeper.wait().expect("it ends");
    let mut text = String::new();
    trace.stdout.take().expect("piped").read_to_string(&mut text).expect("readable");
    assert_eq!(trace.wait().expect("ends").code(), Some(3));
    assert!(text.contains(&format!("no vCPU ioctl was seen; process {pid} has ended")), "{text}");
}

/// The binary in a PID namespace of its own, as in a container.
fn contained() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(stealtrace().get_program());
    command
}

#[test]
fn in_a_pid_namespace_both_witnesses_agree() {
    let scenarios = ["same-thread", "restore-by-main-thread", "run-hand-off-*"];
    let result = run(contained().args(["verify", "--format", "json"]).args(scenarios));
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    let lines = json_lines(&result.stdout);
    let agree: Vec<_> = lines.iter().filter_map(|line| line["witnesses_agree"].as_bool()).collect();
    assert_eq!(agree, [true; 5], "{}", result.stdout);
}

#[test]
fn in_a_pid_namespace_a_commands_threads_have_the_numbers_they_have_there() {
    let quiet = format!(
        "echo $$; {} verify --no-trace run-hand-off-down > /dev/null",
        stealtrace().get_program().display()
    );
    let result = run(contained().args(["trace", "--format", "json", "--", "sh", "-c", &quiet]));
    assert_eq!(result.code, 1, "{}{}", result.stdout, result.stderr);
    let (shell, trace) = result.stdout.split_once('\n').expect("the shell's number");
    let shell: u64 = shell.parse().expect("a number");
    let lines = json_lines(trace);
    let runs = lines.iter().filter(|line| line["type"] == "ioctl");
    let callers: Vec<_> = runs.filter_map(|line| line["caller_tgid"].as_u64()).collect();
    assert!(
        !callers.is_empty() && callers.iter().all(|tgid| (shell..shell + 20).contains(tgid)),
        "{callers:?}"
    );
    assert_eq!(findings(&lines)["steal-underflow"], "error");
}

#[test]
fn in_a_pid_namespace_inspect_and_filters_know_its_numbers() {
    let binary = stealtrace().get_program().display().to_string();
    let file = scratch("look");
    let look_file = file.display();
    let look = format!(
        "{binary} load run --duration 10m > /dev/null & vm=$!
         until ls -l /proc/$vm/fd | grep -q kvm-vcpu; do :; done
         until {binary} inspect --format json --pid $vm > {look_file} && grep -q sound {look_file}; do :; done
         cat {look_file}
         {binary} trace --format json --findings-only --pid $vm --duration 2s
         kill $vm"
    );
    let result = run(Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "sh", "-c", &look]));
    fs::remove_file(file).expect("removed");
    let lines = json_lines(&result.stdout);
    let [vcpu] = lines[0]["vcpus"].as_array().expect("a list").as_slice() else { panic!("{}", lines[0]) };
    assert_eq!((&vcpu["judgement"], &vcpu["vm_comm"]), (&"sound".into(), &"stealtrace".into()));
    assert_eq!(vcpu["runner"], "vcpu0");
    let seen = &summary(&lines)["vcpus"][0];
    assert_eq!(
        (&seen["vm_pid"], &seen["runner_tid"]),
        (&vcpu["vm_pid"], &vcpu["runner_tid"]),
        "{}",
        result.stdout
    );
}

#[test]
fn threads_of_a_pid_namespace_are_seen_from_outside_by_their_outer_numbers() {
    let mut vm = contained();
    let mut vm =
        vm.args(["load", "run", "--duration", "10m"]).stdout(Stdio::null()).spawn().expect("unshare");
    let inner = child_of(vm.id());
    let _runs = a_second_thread(inner);
    let traced = ["trace", "--format", "json", "--findings-only", "--duration", "2s", "--pid"];
    let result = run(stealtrace().args(traced).arg(inner.to_string()));
    // SAFETY: a process that we started and whose parent, unshare, waits for it.
    unsafe { libc::kill(inner.cast_signed(), libc::SIGKILL) };
    vm.wait().expect("it ends");
    let lines = json_lines(&result.stdout);
    assert_eq!(summary(&lines)["vcpus"][0]["vm_pid"], inner, "{}{}", result.stdout, result.stderr);
}

#[test]
fn threads_outside_of_ones_pid_namespace_are_marked() {
    const OUTSIDE: u32 = 1 << 31;
    let vm = three_vcpus();
    let result = run(contained().args(["trace", "--format", "json", "--findings-only", "--duration", "2s"]));
    let pid = vm.id();
    drop(vm);
    let lines = json_lines(&result.stdout);
    let vcpus = summary(&lines)["vcpus"].as_array().expect("a list");
    assert!(vcpus.iter().any(|vcpu| vcpu["vm_pid"] == (OUTSIDE | pid)), "{}", result.stdout);
}

#[test]
fn a_proc_of_another_pid_namespace_is_exit_2() {
    for command in ["trace", "inspect", "doctor"] {
        let binary = stealtrace().get_program().to_owned();
        let result = run(Command::new("unshare").args(["--pid", "--fork"]).arg(&binary).arg(command));
        assert_eq!(result.code, 2, "{command}: {}{}", result.stdout, result.stderr);
        assert!((result.stdout + &result.stderr).contains("mount -t proc"), "{command}");
    }
}

/// The one child of a process, as soon as there is one.
fn child_of(pid: u32) -> u32 {
    loop {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("readable").flatten();
        let mut lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        if let Some(child) = lists.find_map(|list| list.trim().parse().ok()) {
            return child;
        }
        thread::yield_now();
    }
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

/// A thread of this process beside its first, as soon as there is one.
fn a_second_thread(pid: u32) -> u32 {
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let tids = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        if let Some(tid) = { tids }.find(|tid| *tid != pid) {
            return tid;
        }
    }
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
fn a_command_that_the_trace_ends_did_not_fail() {
    let binary = stealtrace().get_program().display().to_string();
    for command in
        [format!("exec {binary} load run --duration 60s"), format!("{binary} load run --duration 60s & wait")]
    {
        let limited = ["trace", "--findings-only", "--duration", "1s", "--fail-on", "error"];
        let result = run(stealtrace().args(limited).args(["--", "sh", "-c", &command]));
        assert_eq!(result.code, 0, "{command}: {}{}", result.stdout, result.stderr);
        assert!(!result.stderr.contains("still running"), "{}", result.stderr);
    }
}

#[test]
fn a_command_that_fails_by_itself_did_fail() {
    let result = run(stealtrace().args(["trace", "--", "sh", "-c", "exit 7"]));
    assert_eq!(result.code, 3);
    assert!(result.stdout.contains("the command failed: exit status: 7"), "{}", result.stdout);
}

#[test]
fn what_a_command_leaves_behind_is_traced_to_its_end() {
    let binary = stealtrace().get_program().display().to_string();
    let daemon = format!("setsid {binary} verify --no-trace run-hand-off-down > /dev/null & sleep 0.1");
    let result = run(stealtrace().args(["trace", "--format", "json", "--", "sh", "-c", &daemon]));
    assert_eq!(result.code, 1, "{}{}", result.stdout, result.stderr);
    assert!(result.stderr.contains("the command has ended, but not stealtrace("), "{}", result.stderr);
    assert_eq!(findings(&json_lines(&result.stdout))["steal-underflow"], "error");
}

/// As whoever starts a program may leave a signal to it.
fn leaving(signal: i32, to: libc::sighandler_t, command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec, one system call.
    unsafe {
        command.pre_exec(move || {
            libc::signal(signal, to);
            Ok(())
        })
    }
}

/// As a terminal starts it: a test that is run under nohup must not hand that on.
fn hearing_hang_up(command: &mut Command) -> &mut Command {
    leaving(libc::SIGHUP, libc::SIG_DFL, command)
}

/// Does a process of this name and number run on? Then this hangs the test.
fn wait_for_end(pid: u32, name: &str) {
    while fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name) {
        thread::yield_now();
    }
}

/// A trace of a command that says its number, and that number once the command runs.
fn tracing_a_command() -> (Child, u32) {
    let sleep = "echo $$; exec sleep 600";
    let mut command = stealtrace();
    let mut child = hearing_hang_up(&mut command)
        .args(["trace", "--format", "json", "--", "sh", "-c", sleep])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("stealtrace starts");
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    (child, line.trim().parse().expect("a number"))
}

#[test]
fn every_signal_ends_command_and_trace() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGKILL] {
        let (mut trace, command) = tracing_a_command();
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(trace.id().cast_signed(), signal) };
        let mut text = String::new();
        trace.stdout.take().expect("piped").read_to_string(&mut text).expect("readable");
        trace.wait().expect("it ends");
        wait_for_end(command, "sleep");
        if signal != libc::SIGKILL {
            assert!(
                summary(&json_lines(&text))["inconclusive"] == "the command used no vCPU",
                "{signal}: {text}"
            );
        }
    }
}

/// A reader that does not read holds up whoever writes to it; who tells the trace again does not want to wait for that.
#[test]
fn a_trace_whose_reader_does_not_read_ends_when_it_is_told_again() {
    for (ignored, signal) in [(libc::SIGUSR1, libc::SIGTERM), (libc::SIGINT, libc::SIGINT)] {
        assert_ends_when_told_again(ignored, signal);
    }
}

/// A shell's background job ignores SIGINT.
fn assert_ends_when_told_again(ignored: i32, signal: i32) {
    let mut trace = leaving(ignored, libc::SIG_IGN, &mut stealtrace())
        .args(["trace", "--format", "json", "--"])
        .arg(stealtrace().get_program())
        .args(["load", "run", "--duration", "600s"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("stealtrace starts");
    let pipe = trace.stdout.take().expect("piped");
    while unread(&pipe) < 32 << 10 {
        thread::yield_now();
    }
    let command = child_of(trace.id());
    let status = loop {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(trace.id().cast_signed(), signal) };
        thread::sleep(Duration::from_millis(100));
        if let Some(status) = trace.try_wait().expect("our own child") {
            break status;
        }
    };
    assert_eq!(status.signal(), Some(signal));
    wait_for_end(command, "stealtrace");
}

/// Bytes that wait in a pipe.
fn unread(pipe: &impl AsRawFd) -> i32 {
    let mut bytes = 0;
    // SAFETY: a descriptor of ours, and a number to write to.
    unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    bytes
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

#[test]
fn a_commands_end_is_heard_of_where_ends_were_ignored() {
    let traced =
        |command| run(leaving(libc::SIGCHLD, libc::SIG_IGN, stealtrace().args(["trace", "--", command])));
    assert!(traced("true").stdout.contains("used no vCPU"));
    assert!(traced("false").stdout.contains("the command failed"));
    assert_eq!(traced("/no/such/command").code, 2);
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
fn a_file_that_may_not_grow_is_an_error_that_names_it() {
    let file = scratch("limited");
    let binary = stealtrace().get_program().display().to_string();
    let script = format!(
        "ulimit -f 8; exec {binary} trace --output {} -- {binary} load run --duration 200ms",
        file.display()
    );
    let result = run(Command::new("bash").args(["-c", &script]));
    assert_eq!(result.code, 2, "{}", result.stderr);
    assert!(result.stderr.contains(&format!("write {}", file.display())), "{}", result.stderr);
    fs::remove_file(file).expect("it is there");
}

#[test]
fn a_signal_before_the_command_began_is_no_crash() {
    let mut command = stealtrace();
    let child = hearing_hang_up(&mut command)
        .args(["trace", "--", "sh", "-c", "echo executed"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("stealtrace starts");
    while !has_begun(child.id()) {
        thread::yield_now();
    }
    // SAFETY: our own child, not reaped yet.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGHUP) };
    let result: Run = child.wait_with_output().expect("it ends").into();
    assert_eq!((result.code, result.stderr.as_str()), (3, ""), "{}", result.stdout);
    assert!(
        !result.stdout.contains("executed") || result.stdout.contains("used no vCPU"),
        "{}",
        result.stdout
    );
}

/// Does stealtrace's own program run, and have signals wait?
fn has_begun(pid: u32) -> bool {
    let is_ours =
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "stealtrace\n");
    is_ours && blocks_signals(pid)
}

fn blocks_signals(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
    blocked.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// A VM that runs until it is ended, by a test that fails too.
struct Vm(Child);

impl Vm {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// One vCPU that runs and two that do nothing.
fn three_vcpus() -> Vm {
    let mut command = stealtrace();
    command.args(["load", "run", "--idle", "2", "--duration", "10m"]).stdout(Stdio::null());
    Vm(command.spawn().expect("stealtrace starts"))
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
    drop(vm);
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
    drop(vm);
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

fn shell(script: &str) -> Run {
    let binary = stealtrace().get_program().display().to_string();
    run(Command::new("sh").args(["-c", &script.replace("stealtrace", &binary)]))
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
    for command in ["inspect", "guard", "verify", "guest"] {
        assert!(usual.stdout.contains(&format!("│ {command} ")), "{}", usual.stdout);
    }
}

/// A process may call itself anything but NUL and a slash.
const HOSTILE: &str = "x\u{1b}[31m\nerr\u{202e}";

#[test]
fn a_name_reaches_nobodys_terminal_as_it_is() {
    let binary = scratch("hostile").with_file_name(HOSTILE);
    fs::copy(stealtrace().get_program(), &binary).expect("copied");
    let mut vm = Command::new(&binary);
    vm.args(["load", "run", "--idle", "1", "--duration", "10m"]).stdout(Stdio::null());
    let vm = Vm(vm.spawn().expect("it starts"));
    let pid = vm.id().to_string();
    let _runs = a_second_thread(vm.id());
    let path = binary.display().to_string();
    let mut shown = Vec::new();
    let verify = [path.as_str(), "verify", "--no-trace", "restore-by-main-thread"];
    for command in [
        vec!["inspect", "--wait", "0s", "--pid", &pid],
        vec!["inspect", "--wait", "0s", "--format", "json", "--pid", &pid],
        [&["trace", "--"], &verify[..]].concat(),
        [&["trace", "--format", "json", "--"], &verify[..]].concat(),
        [&["trace", "--calls", "--"], &verify[..]].concat(),
        vec!["analyze", &path],
        vec!["trace", "--comm", HOSTILE, "--pid", "4194305"],
    ] {
        let result = run(stealtrace().args(&command));
        shown.push((command.join(" "), result.stdout + &result.stderr));
    }
    drop(vm);
    fs::remove_file(binary).expect("removed");
    for (command, text) in shown {
        let is_json = command.contains("json"); // which has escapes of its own, for what controls
        let acts = |c: char| (c.is_control() && c != '\n') || (c == '\u{202e}' && !is_json);
        assert!(!text.contains(acts), "{command:?}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("err")), "{command:?}: {text:?}");
    }
}
