//! stealtrace on this very machine: needs /dev/kvm and the right to trace. `cargo xtask test` says when it cannot run.

mod ends;
mod export;
mod filters;
mod findings;
mod inspect;
mod limits;
mod monitoring;
mod namespaces;
mod output;
mod privileges;
mod recordings;
mod service;
mod verify;
mod watch;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use stealtrace_tests::{Run, run, stealtrace};

pub(crate) fn traced(flags: &[&str], scenario: &str) -> Run {
    let binary = stealtrace().get_program().to_owned();
    let quiet = format!("{} verify --no-trace {scenario} > /dev/null", binary.display());
    run(stealtrace().arg("trace").args(flags).args(["--", "sh", "-c", &quiet]))
}

/// Started, and past the line that says that it traces.
pub(crate) fn started(flags: &[&str]) -> Child {
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

/// The one child of a process, as soon as there is one.
pub(crate) fn child_of(pid: u32) -> u32 {
    loop {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("readable").flatten();
        let mut lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        if let Some(child) = lists.find_map(|list| list.trim().parse().ok()) {
            return child;
        }
        thread::yield_now();
    }
}

/// A thread of this process beside its first, as soon as there is one.
pub(crate) fn a_second_thread(pid: u32) -> u32 {
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let tids = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        if let Some(tid) = { tids }.find(|tid| *tid != pid) {
            return tid;
        }
    }
}

/// Bytes that wait in a pipe.
pub(crate) fn unread(pipe: &impl AsRawFd) -> i32 {
    let mut bytes = 0;
    // SAFETY: a descriptor of ours, and a number to write to.
    unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    bytes
}

/// A VM that runs until it is ended, by a test that fails too.
pub(crate) struct Vm(pub(crate) Child);

impl Vm {
    pub(crate) fn id(&self) -> u32 {
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
pub(crate) fn three_vcpus() -> Vm {
    let mut command = stealtrace();
    command.args(["load", "run", "--idle", "2", "--duration", "10m"]).stdout(Stdio::null());
    Vm(command.spawn().expect("stealtrace starts"))
}

/// `load run`, traced with these flags.
pub(crate) fn traced_load(flags: &[&str]) -> std::process::Command {
    let mut command = stealtrace();
    command.arg("trace").args(flags).arg("--").arg(stealtrace().get_program());
    command.args(["load", "run", "--duration", "100ms"]);
    command
}

pub(crate) fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("stealtrace-native-{name}-{}", std::process::id()))
}

pub(crate) fn shell(script: &str) -> Run {
    let binary = stealtrace().get_program().display().to_string();
    run(Command::new("sh").args(["-c", &script.replace("stealtrace", &binary)]))
}
