//! stealtrace on this very machine: needs /dev/kvm and the right to trace. `cargo xtask test` says when it cannot run.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    thread,
};

use quick_junit::{Report, TestCaseStatus};
use stealtrace_tests::{Run, expected, findings, json_lines, run, stealtrace, summary};

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
    let errors: Vec<_> = lines.iter().filter(|line| line["type"] == "finding").collect();
    let [finding] = errors[..] else { panic!("not one finding: {errors:?}") };
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
        assert_eq!(verdict["witnesses_agree"], true, "{verdict}");
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

#[test]
fn lost_events_are_counted_and_make_a_clean_run_inconclusive() {
    let mut child = started(&["--buffer", "4", "--format", "json"]);
    let tell = |signal| {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(child.id().cast_signed(), signal) }
    };
    tell(libc::SIGSTOP);
    for _ in 0..5 {
        assert_eq!(run(stealtrace().args(["verify", "same-thread"])).code, 0);
    }
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
    let mut sleeper = std::process::Command::new("sleep").arg("1").spawn().expect("sleep starts");
    let pid = sleeper.id().to_string();
    let waiter = thread::spawn(move || sleeper.wait());
    let result = run(stealtrace().args(["trace", "--pid", &pid, "--duration", "60s"]));
    assert_eq!(result.code, 3, "{}", result.stderr);
    assert!(
        result.stdout.contains(&format!("no vCPU ioctl was seen; process {pid} has ended")),
        "{}",
        result.stdout
    );
    waiter.join().expect("no panic").expect("sleep ends");
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
    let look = format!(
        "{binary} load run --duration 3s > /dev/null & sleep 0.5; {binary} inspect --format json --pid $!; \
         {binary} trace --format json --findings-only --pid $! --duration 500ms; wait"
    );
    let result = run(Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "sh", "-c", &look]));
    let lines = json_lines(&result.stdout);
    let [vcpu] = lines[0]["vcpus"].as_array().expect("a list").as_slice() else { panic!("{}", lines[0]) };
    assert_eq!((&vcpu["judgement"], &vcpu["vm_comm"]), (&"healthy".into(), &"stealtrace".into()));
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
    let mut vm = vm.args(["load", "run", "--duration", "3s"]).stdout(Stdio::null()).spawn().expect("unshare");
    thread::sleep(std::time::Duration::from_millis(500));
    let inner = child_of(vm.id());
    let traced = ["trace", "--format", "json", "--findings-only", "--duration", "500ms", "--pid"];
    let result = run(stealtrace().args(traced).arg(inner.to_string()));
    vm.wait().expect("it ends");
    let lines = json_lines(&result.stdout);
    assert_eq!(summary(&lines)["vcpus"][0]["vm_pid"], inner, "{}{}", result.stdout, result.stderr);
}

#[test]
fn threads_outside_of_ones_pid_namespace_are_marked() {
    const OUTSIDE: u32 = 1 << 31;
    let mut vm = three_vcpus();
    let result =
        run(contained().args(["trace", "--format", "json", "--findings-only", "--duration", "500ms"]));
    let pid = vm.id();
    vm.wait().expect("it ends");
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

/// The one child of a process.
fn child_of(pid: u32) -> u32 {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("readable");
    list.trim().parse().expect("one child")
}

#[test]
fn a_thread_is_no_process_and_no_thread_matches_nothing() {
    let mut vm = three_vcpus();
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
    vm.wait().expect("it ends");
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

/// A trace of a command that says its number, and that number once the command runs.
fn tracing_a_command() -> (Child, u32) {
    let sleep = "echo $$; exec sleep 60";
    let mut command = stealtrace();
    let mut child = command
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
        while std::fs::read_to_string(format!("/proc/{command}/comm")).is_ok_and(|comm| comm == "sleep\n") {
            thread::yield_now(); // a command that runs on hangs the test
        }
        if signal != libc::SIGKILL {
            assert!(
                summary(&json_lines(&text))["inconclusive"] == "the command used no vCPU",
                "{signal}: {text}"
            );
        }
    }
}

#[test]
fn a_signal_before_the_command_began_is_no_crash() {
    let mut command = stealtrace();
    let child = command
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

/// One vCPU that runs and two that do nothing, for three seconds.
fn three_vcpus() -> Child {
    let mut command = stealtrace();
    command.args(["load", "run", "--idle", "2", "--duration", "3s"]).stdout(Stdio::null());
    command.spawn().expect("stealtrace starts")
}

#[test]
fn inspect_watches_a_processs_vcpus_until_it_ends() {
    let mut vm = three_vcpus();
    let pid = vm.id().to_string();
    let watched = run(stealtrace().args(["inspect", "--format", "json", "--watch", "100ms", "--pid", &pid]));
    vm.wait().expect("it ends");
    let looks = json_lines(&watched.stdout);
    let most = looks.iter().max_by_key(|look| look["vcpus"].as_array().map(Vec::len)).expect("a look");
    let vcpus = most["vcpus"].as_array().expect("a list");
    assert_eq!(vcpus.len(), 3, "{}", watched.stderr);
    assert!(vcpus.iter().all(|vcpu| vcpu["judgement"] == "healthy" && vcpu["vm_pid"] == vm.id()), "{most}");
    assert!(looks.len() > 3, "{}", watched.stdout);
    let gone = run(stealtrace().args(["inspect", "--pid", &pid]));
    assert_eq!(gone.code, 2);
    assert!(gone.stderr.contains("no process"), "{}", gone.stderr);
}

#[test]
fn inspect_into_a_closed_pipe_is_quiet() {
    let mut vm = three_vcpus();
    let watch = format!("{} inspect --watch 10ms | head -n 1", stealtrace().get_program().display());
    let result = run(std::process::Command::new("sh").args(["-c", &watch]));
    vm.wait().expect("it ends");
    assert_eq!((result.stdout.lines().count(), result.stderr.as_str()), (1, ""));
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
