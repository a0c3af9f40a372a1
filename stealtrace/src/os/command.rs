//! The command of `-- CMD`: held before its first instruction until the probes are attached, then followed until the
//! last process that it left behind has ended.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::os::{
    interrupt::Interrupt,
    process,
    talk::{remark, say},
};

/// How long a command may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);

/// What becomes of a command whose stealtrace is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphaned {
    /// The kernel sends it SIGTERM.
    Ends,
    /// It runs on.
    RunsOn,
}

/// A forked child that has not executed its program yet.
pub struct HeldCommand {
    name: String,
    pid: u32,
    go: File,
    spawned: Receiver<io::Result<Child>>,
    parent: Parent,
    orphaned: Orphaned,
    /// Children that we had before.
    others: BTreeSet<u32>,
}

/// The thread that forked lives as long as this: the kernel takes its end for that of the command's parent.
type Parent = Sender<()>;

impl HeldCommand {
    /// Fork the command and hold it; None if there is none to run.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn hold(words: &[String], orphaned: Orphaned) -> Result<Option<Self>> {
        let Some((name, arguments)) = words.split_first() else {
            return Ok(None);
        };
        let others = process::children();
        process::hear_of_children();
        process::adopt_orphans()?;
        let (mut pid_reader, pid_writer) = process::pipe()?;
        let (go_reader, go) = process::pipe()?;
        let mut command = Command::new(name);
        command.args(arguments);
        let go_fd = go.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and only makes system calls.
        unsafe {
            command.pre_exec(move || {
                Interrupt::unblock_in_child();
                end_with_parent(orphaned);
                wait_for_go(&pid_writer, &go_reader, go_fd);
                Ok(())
            })
        };
        let (spawned, parent) = spawn(command);
        let mut pid = [0; 4];
        pid_reader.read_exact(&mut pid).with_context(|| format!("start {name}"))?;
        let pid = u32::from_ne_bytes(pid);
        Ok(Some(Self { name: name.clone(), pid, go, spawned, parent, orphaned, others }))
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
        if self.go.write_all(&[1]).is_err() {
            bail!("{} was killed before it began", self.name);
        }
        let spawned = self.spawned.recv().with_context(|| format!("start {}", self.name))?;
        spawned.with_context(|| format!("cannot run {}", self.name))?;
        Ok(RunningCommand {
            pid: self.pid,
            status: None,
            orphaned: self.orphaned,
            others: self.others,
            told_of_rest: false,
            _parent: self.parent,
        })
    }
}

/// `Command::spawn` returns only after the child's exec, so it needs a thread of its own.
fn spawn(mut command: Command) -> (Receiver<io::Result<Child>>, Parent) {
    let (done, spawned) = channel();
    let (parent, end) = channel();
    thread::spawn(move || {
        let _nobody_waits = done.send(command.spawn());
        drop(command); // with its ends of the pipes
        let _over = end.recv();
    });
    (spawned, parent)
}

/// In the child: be told when stealtrace is killed.
fn end_with_parent(orphaned: Orphaned) {
    if orphaned == Orphaned::Ends {
        // SAFETY: plain system call.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0) };
    }
}

/// In the child: tell the parent who we are, wait for its word. End of file means that it gave up: then nobody is left
/// to hear of an error.
fn wait_for_go(pid_writer: &File, go_reader: &File, go_fd: RawFd) {
    // SAFETY: the child's own copy of the writing end, which nothing here uses; with it open there is no end of file.
    unsafe { libc::close(go_fd) };
    let pid = std::process::id().to_ne_bytes();
    let mut go = [0_u8];
    // SAFETY: both buffers are valid for the lengths given.
    let written = unsafe { libc::write(pid_writer.as_raw_fd(), pid.as_ptr().cast(), pid.len()) };
    // SAFETY: as above.
    let read = unsafe { libc::read(go_reader.as_raw_fd(), go.as_mut_ptr().cast(), go.len()) };
    if written != 4 || read != 1 {
        // SAFETY: ends the child, which shares nothing that would need to be cleaned up.
        unsafe { libc::_exit(1) };
    }
}

/// A command that runs under the trace.
pub struct RunningCommand {
    pid: u32,
    status: Option<ExitStatus>,
    orphaned: Orphaned,
    /// Children of ours that it has nothing to do with.
    others: BTreeSet<u32>,
    /// Was it said that processes that it left behind run on?
    told_of_rest: bool,
    _parent: Parent,
}

/// How a command ended.
pub struct Ended {
    status: Option<ExitStatus>,
    /// Did we end it?
    by_us: bool,
}

impl RunningCommand {
    /// Has it ended, and whatever it left behind?
    ///
    /// # Errors
    /// When its status cannot be asked for.
    pub fn has_ended(&mut self) -> Result<bool> {
        let alive = self.reap()?;
        if self.status.is_none() || !alive {
            return Ok(self.status.is_some());
        }
        if !self.told_of_rest || !self.others.is_empty() {
            let rest = self.rest();
            if rest.is_empty() {
                return Ok(true);
            }
            if !self.told_of_rest {
                let names = names(&rest);
                remark(&format!(
                    "the command has ended, but not {names}; going on until then; Ctrl-C ends it"
                ));
                self.told_of_rest = true;
            }
        }
        Ok(false)
    }

    /// Take note of every child that ended; is one left?
    fn reap(&mut self) -> Result<bool> {
        loop {
            let mut status = 0;
            // SAFETY: a valid pointer; every child of ours is the command's or one that nobody waits for.
            match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
                0 => return Ok(true),
                -1 if errno() == libc::ECHILD => return Ok(false),
                -1 if errno() == libc::EINTR => {}
                -1 => return Err(io::Error::last_os_error()).context("wait for the command"),
                ended if ended.cast_unsigned() == self.pid => {
                    self.status = Some(ExitStatus::from_raw(status));
                }
                ended => drop(self.others.remove(&ended.cast_unsigned())),
            }
        }
    }

    /// What runs of it: itself, or what it left behind.
    fn rest(&self) -> Vec<u32> {
        let children = process::children();
        children.difference(&self.others).copied().filter(|pid| process::is_alive(*pid)).collect()
    }

    /// End it if it has not ended and does not outlive us: politely, then not waiting for ever. What made a session of its
    /// own, as daemons do, runs on.
    ///
    /// # Errors
    /// When its status cannot be asked for.
    pub fn end(mut self) -> Result<Ended> {
        let by_us = self.status.is_none();
        if self.orphaned == Orphaned::RunsOn {
            return Ok(Ended { status: self.status, by_us });
        }
        self.told_of_rest = true;
        let mut told = BTreeSet::new();
        let give_up = Instant::now() + PATIENCE;
        let mut alive = self.reap()?;
        while alive && Instant::now() < give_up && self.tell_to_end(&mut told) {
            thread::sleep(Duration::from_millis(10));
            alive = self.reap()?;
        }
        let rest = if alive { self.rest() } else { Vec::new() };
        if !rest.is_empty() {
            say(&format!("no longer traced, still running: {}", names(&rest)));
        }
        Ok(Ended { status: self.status, by_us })
    }

    /// SIGTERM to each of its processes that has us for a parent, once; is there one to wait for?
    fn tell_to_end(&self, told: &mut BTreeSet<u32>) -> bool {
        let ours: Vec<_> = self.rest().into_iter().filter(|pid| self.belongs_here(*pid)).collect();
        for pid in &ours {
            if told.insert(*pid) {
                // SAFETY: plain system call on our own child, which is not reaped yet.
                unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
            }
        }
        !ours.is_empty()
    }

    fn belongs_here(&self, pid: u32) -> bool {
        // SAFETY: plain system calls.
        pid == self.pid || unsafe { libc::getsid(pid.cast_signed()) == libc::getsid(0) }
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// `qemu-system-x86(4711), sleep(4712)`
fn names(pids: &[u32]) -> String {
    let names: Vec<_> = pids.iter().map(|pid| format!("{}({pid})", process::comm(*pid))).collect();
    names.join(", ")
}

impl Ended {
    /// What went wrong, if it did not succeed. What we ended did not fail.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let status = self.status.filter(|status| !self.by_us && !status.success())?;
        Some(status.to_string())
    }

    /// It ended of the very signal that ended us, as at a terminal's Ctrl-C.
    #[must_use]
    pub const fn with_us(self) -> Self {
        Self { by_us: true, ..self }
    }
}
