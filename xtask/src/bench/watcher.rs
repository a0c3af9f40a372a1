//! Something that watches vCPU ioctls while a load runs: stealtrace, or a tool it replaces.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{peers, process::which};

/// How long tools that do not say when they are ready get to attach.
const SETTLE: Duration = Duration::from_secs(2);

/// One way to watch.
pub(super) struct Watcher {
    pub(super) name: &'static str,
    pub(super) command: Vec<String>,
    pub(super) way: Way,
}

/// How a watcher comes to what it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It is started beside the load, and says on stderr when it watches.
    Says(&'static str),
    /// It is started beside the load, and gets time to attach.
    Settles,
    /// It starts the load.
    Around,
}

const COUNT: &str = "tracepoint:syscalls:sys_enter_ioctl { @[tid, args->cmd] = count(); }";
const PRINT: &str = r#"tracepoint:syscalls:sys_enter_ioctl { printf("%d %s %x\n", tid, comm, args->cmd); }"#;

/// `stealtrace trace` with these arguments.
pub(super) fn ours(stealtrace: &Path, name: &'static str, arguments: &[&str]) -> Watcher {
    let program = stealtrace.to_string_lossy();
    let command = [&*program, "trace"].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    Watcher { name, command, way: Way::Says("tracing") }
}

/// Empty programs on the probes of stealtrace's edges, its two volumes, and what it is compared with; of the others the
/// name, and why they are not here.
pub(super) fn watchers(stealtrace: &Path) -> (Vec<Watcher>, Vec<(&'static str, String)>) {
    let mut watchers = vec![
        ours(stealtrace, "empty programs", &["--findings-only", "--floor"]),
        ours(stealtrace, "edges", &["--findings-only"]),
        ours(stealtrace, "all", &["--format", "json"]),
    ];
    let others = [
        ("bpftrace count", "bpftrace", vec!["-e", COUNT], Way::Settles),
        ("bpftrace print", "bpftrace", vec!["-e", PRINT], Way::Settles),
        ("perf trace", "perf", vec!["trace", "-a", "-e", "ioctl", "-o", "/dev/null"], Way::Settles),
        ("strace", "strace", vec!["-f", "-e", "trace=ioctl", "-o", "/dev/null"], Way::Around),
    ];
    let mut absent = Vec::new();
    for (name, program, arguments, way) in others {
        match which(program).map_or_else(|| peers::find(program), Ok) {
            Ok(program) => {
                let arguments = arguments.into_iter().map(str::to_owned);
                let command = std::iter::once(program.display().to_string()).chain(arguments).collect();
                watchers.push(Watcher { name, command, way });
            }
            Err(error) => absent.push((name, format!("{error:#}"))),
        }
    }
    (watchers, absent)
}

impl Watcher {
    /// Who gets time to attach needs more of it where it is not in memory yet.
    pub(super) fn warm_up(&self) -> Result<()> {
        if self.way == Way::Settles {
            drop(self.start()?);
        }
        Ok(())
    }

    /// Begin to watch; it ends when dropped.
    pub(super) fn start(&self) -> Result<Watching> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let says = matches!(self.way, Way::Says(_));
        command.stderr(if says { Stdio::piped() } else { Stdio::null() });
        let mut child = Watching(command.spawn().with_context(|| format!("start {}", self.name))?);
        match (self.way, child.0.stderr.take()) {
            (Way::Says(word), Some(stderr)) => {
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

/// CPU time that a process used, its children not among it.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    const TICKS_A_SECOND: f64 = 100.0; // USER_HZ, everywhere
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read a process's CPU time")?;
    let (_, rest) = stat.rsplit_once(") ").context("read a process's CPU time")?;
    let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_A_SECOND)
}

/// Ends, as by Ctrl-C, when dropped.
pub(super) struct Watching(pub(super) Child);

impl Watching {
    /// Send it a signal.
    pub(super) fn signal(&self, signal: libc::c_int) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.0.id().cast_signed(), signal) };
    }

    /// The most memory it ever had, in megabytes.
    pub(super) fn peak_megabytes(&self) -> Result<f64> {
        self.megabytes("VmHWM:")
    }

    /// Its memory now, in megabytes.
    pub(super) fn megabytes_now(&self) -> Result<f64> {
        self.megabytes("VmRSS:")
    }

    fn megabytes(&self, key: &str) -> Result<f64> {
        let file = format!("/proc/{}/status", self.0.id());
        let status = std::fs::read_to_string(file).context("read the tracer's status")?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
        let kilobytes: f64 =
            line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{key} is no number"))?;
        Ok(kilobytes * 1024.0 / 1e6)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.signal(libc::SIGINT);
        let _reaped = self.0.wait();
    }
}
