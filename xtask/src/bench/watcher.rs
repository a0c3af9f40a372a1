//! Something that watches vCPU ioctls while a load runs: stealtrace, or a tool it replaces.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::process::which;

/// How long tools that do not say when they are ready get to attach.
const SETTLE: Duration = Duration::from_secs(2);

/// One way to watch.
pub(super) struct Watcher {
    pub(super) name: &'static str,
    command: Vec<String>,
    /// What it says on stderr once it watches; None if it does not say.
    ready: Option<&'static str>,
}

const COUNT: &str = "tracepoint:syscalls:sys_enter_ioctl { @[tid, args->cmd] = count(); }";
const PRINT: &str = r#"tracepoint:syscalls:sys_enter_ioctl { printf("%d %s %x\n", tid, comm, args->cmd); }"#;

/// stealtrace's two volumes, and what else is installed.
pub(super) fn watchers(stealtrace: &Path) -> Vec<Watcher> {
    let ours = |name, arguments: &[&str]| Watcher {
        name,
        command: [&[&*stealtrace.to_string_lossy(), "trace"], arguments]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        ready: Some("tracing"),
    };
    let mut watchers = vec![ours("edges", &["--findings-only"]), ours("all", &["--format", "json"])];
    let others = [
        ("bpftrace count", "bpftrace", vec!["-e", COUNT]),
        ("bpftrace print", "bpftrace", vec!["-e", PRINT]),
        ("perf trace", "perf", vec!["trace", "-a", "-e", "ioctl", "-o", "/dev/null"]),
    ];
    for (name, program, arguments) in others {
        if which(program).is_some() {
            let command = std::iter::once(program).chain(arguments).map(str::to_owned).collect();
            watchers.push(Watcher { name, command, ready: None });
        }
    }
    watchers
}

impl Watcher {
    /// Begin to watch; it ends when dropped.
    pub(super) fn start(&self) -> Result<Watching> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let piped = self.ready.is_some();
        command.stderr(if piped { Stdio::piped() } else { Stdio::null() });
        let mut child = Watching(command.spawn().with_context(|| format!("start {}", self.name))?);
        match (self.ready, child.0.stderr.take()) {
            (Some(word), Some(stderr)) => {
                let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines
                    .find(|line| line.contains(word))
                    .with_context(|| format!("{} does not watch", self.name))?;
                thread::spawn(move || lines.for_each(drop)); // keep its stderr open
            }
            _ => thread::sleep(SETTLE),
        }
        Ok(child)
    }
}

/// Ends, as by Ctrl-C, when dropped.
pub(super) struct Watching(pub(super) Child);

impl Drop for Watching {
    fn drop(&mut self) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGINT) };
        let _reaped = self.0.wait();
    }
}
