//! The command of `trace -- CMD`: started but held before its first instruction until the probes are attached.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// How long a command may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);

/// A forked child that has not executed its program yet.
pub struct HeldCommand {
    name: String,
    pid: u32,
    go: File,
    spawning: JoinHandle<std::io::Result<Child>>,
}

impl HeldCommand {
    /// Fork the command and hold it; None if there is none to run.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn hold(words: &[String]) -> Result<Option<Self>> {
        let Some((name, arguments)) = words.split_first() else {
            return Ok(None);
        };
        let (mut pid_reader, pid_writer) = pipe()?;
        let (go_reader, go) = pipe()?;
        let mut command = Command::new(name);
        command.args(arguments);
        let go_fd = go.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and only calls close, getpid, write and read.
        unsafe { command.pre_exec(move || wait_for_go(&pid_writer, &go_reader, go_fd)) };
        // `spawn` returns only after the child's exec, so it needs a thread of its own.
        let spawning = thread::Builder::new().spawn(move || command.spawn()).context("start a thread")?;
        let mut pid = [0; 4];
        pid_reader.read_exact(&mut pid).with_context(|| format!("start {name}"))?;
        Ok(Some(Self { name: name.clone(), pid: u32::from_ne_bytes(pid), go, spawning }))
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Let it execute.
    ///
    /// # Errors
    /// When its program cannot be executed.
    pub fn release(mut self) -> Result<RunningCommand> {
        self.go.write_all(&[1]).with_context(|| format!("start {}", self.name))?;
        let spawned = self.spawning.join().map_err(|_| anyhow!("starting {} panicked", self.name))?;
        let child = spawned.with_context(|| format!("cannot run {}", self.name))?;
        Ok(RunningCommand { child, status: None })
    }
}

fn pipe() -> Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: a valid pointer to two ints.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        bail!("cannot make a pipe: {}", std::io::Error::last_os_error());
    }
    // SAFETY: pipe2 just made both and nobody else owns them.
    let [reader, writer] = fds.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    Ok((reader, writer))
}

/// In the child: tell the parent who we are, wait for its word. End of file means that it gave up.
fn wait_for_go(pid_writer: &File, go_reader: &File, go_fd: RawFd) -> std::io::Result<()> {
    // SAFETY: the child's own copy of the writing end, which nothing here uses; with it open there is no end of file.
    unsafe { libc::close(go_fd) };
    let pid = std::process::id().to_ne_bytes();
    let mut go = [0_u8];
    // SAFETY: both buffers are valid for the lengths given.
    let written = unsafe { libc::write(pid_writer.as_raw_fd(), pid.as_ptr().cast(), pid.len()) };
    // SAFETY: as above.
    let read = unsafe { libc::read(go_reader.as_raw_fd(), go.as_mut_ptr().cast(), go.len()) };
    if written == 4 && read == 1 { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
}

/// A command that runs under the trace.
pub struct RunningCommand {
    child: Child,
    status: Option<ExitStatus>,
}

/// How a command ended.
pub struct Ended(Option<ExitStatus>);

impl RunningCommand {
    /// Has it ended?
    ///
    /// # Errors
    /// When its status cannot be asked for.
    pub fn has_ended(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait().context("wait for the command")?;
        }
        Ok(self.status.is_some())
    }

    /// What went wrong, if it has ended and failed. If it has not ended it runs on.
    #[must_use]
    pub fn failure_so_far(self) -> Option<String> {
        self.status.and_then(|status| Ended(Some(status)).failure())
    }

    /// End it if it has not ended: politely, then not waiting for ever.
    ///
    /// # Errors
    /// When its status cannot be asked for.
    pub fn end(mut self) -> Result<Ended> {
        if !self.has_ended()? {
            // SAFETY: plain system call on our own child, which is not reaped yet.
            unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        }
        let give_up = Instant::now() + PATIENCE;
        while !self.has_ended()? && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Ended(self.status))
    }
}

impl Ended {
    /// What went wrong, if it did not succeed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match self.0 {
            Some(status) if status.success() => None,
            Some(status) => Some(status.to_string()),
            None => Some("still running".to_owned()),
        }
    }
}
