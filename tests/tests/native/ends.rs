//! How traces end: their command, their process, signals.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use stealtrace_tests::{Run, findings, json_lines, run, stealtrace, summary};

use super::{child_of, started, unread};

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
    let lines = BufReader::with_capacity(1, child.stdout.as_mut().expect("piped")).lines();
    let number = lines.map_while(Result::ok).find_map(|line| line.parse().ok()).expect("a number");
    (child, number)
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

#[test]
fn a_commands_end_is_heard_of_where_ends_were_ignored() {
    let traced =
        |command| run(leaving(libc::SIGCHLD, libc::SIG_IGN, stealtrace().args(["trace", "--", command])));
    assert!(traced("true").stdout.contains("used no vCPU"));
    assert!(traced("false").stdout.contains("the command failed"));
    assert_eq!(traced("/no/such/command").code, 2);
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
