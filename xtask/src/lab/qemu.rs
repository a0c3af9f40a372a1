//! One boot of a lab guest: start QEMU, wait for "booted", wait for "exit N", tell hangs and deaths apart.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    emulator::Qemu,
    initramfs::{self, Action, Extra},
    package::KernelFiles,
    serial::{Port, copy},
};
use crate::{cache, process::say};

/// A boot takes about 5 s; a machine busy with other things may need more.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);

/// What the lab guest does, and how its time passes.
pub(crate) struct Boot {
    action: Action,
    clock: Clock,
    cpus: u8,
    extras: Vec<Extra>,
}

/// How time passes in the lab guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// As here.
    Real,
    /// A nanosecond an instruction, on one CPU: what takes so long there takes so many instructions.
    Instructions,
}

impl Boot {
    /// A shell for the user.
    pub(crate) const SHELL: Self =
        Self { action: Action::Shell, clock: Clock::Real, cpus: 2, extras: Vec::new() };

    /// One command.
    pub(crate) fn command(command: &[String]) -> Self {
        let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
        Self::script(words.join(" "), Vec::new())
    }

    /// A shell script, and files that it needs.
    pub(crate) fn script(script: String, extras: Vec<Extra>) -> Self {
        Self { action: Action::Script(script), clock: Clock::Real, cpus: 2, extras }
    }

    /// The same by this clock.
    pub(crate) fn by(self, clock: Clock) -> Self {
        let cpus = if clock == Clock::Instructions { 1 } else { self.cpus };
        Self { clock, cpus, ..self }
    }

    /// The same on one CPU. On two, a Linux guest of the lab guest sooner or later misses a wake-up and hangs: the
    /// software emulation's fault.
    pub(crate) fn on_one_cpu(self) -> Self {
        Self { cpus: 1, ..self }
    }
}

/// For the lab guest's shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// How a boot ended.
pub(crate) enum Outcome {
    /// The command's exit code.
    Exited(u8),
    /// Nothing happened any more.
    Hung(String),
    /// The lab guest ended before the command did.
    Died(String),
}

/// Everything a boot needs; can be run more than once.
pub(crate) struct Machine {
    image: PathBuf,
    initramfs: PathBuf,
    console: PathBuf,
    sockets: PathBuf,
    name: String,
    clock: Clock,
    cpus: u8,
}

impl Machine {
    /// Write the initramfs.
    pub(crate) fn new(name: &str, kernel: &KernelFiles, stealtrace: &Path, boot: &Boot) -> Result<Self> {
        let folder = cache::target()?.join("lab");
        fs::create_dir_all(&folder)?;
        let own = format!("{name}-{}", std::process::id());
        let machine = Self {
            image: kernel.image.clone(),
            initramfs: folder.join(format!("{own}.cpio")),
            console: folder.join(format!("{own}.console.log")),
            sockets: std::env::temp_dir().join(format!("stealtrace-{own}")),
            name: name.to_owned(),
            clock: boot.clock,
            cpus: boot.cpus,
        };
        initramfs::write(&machine.initramfs, kernel, stealtrace, &boot.action, &boot.extras)?;
        Ok(machine)
    }

    /// Where the kernel's messages go.
    pub(crate) fn console(&self) -> &Path {
        &self.console
    }

    /// Boot and run the command; its output is ours.
    pub(crate) fn run(&self, timeout: Duration) -> Result<Outcome> {
        self.run_into(timeout, io::stdout(), io::stderr())
    }

    /// Boot and run the command; what it prints goes there.
    pub(crate) fn run_into(
        &self,
        timeout: Duration,
        out: impl io::Write + Send + 'static,
        err: impl io::Write + Send + 'static,
    ) -> Result<Outcome> {
        say(&format!("booting {}", self.name));
        fs::create_dir_all(&self.sockets)?;
        let [stdout, stderr, control] =
            ["stdout", "stderr", "control"].map(|port| Port::listen(&self.sockets.join(port)));
        let (stdout, stderr, control) = (stdout?, stderr?, control?);
        let mut qemu = self.qemu()?;
        qemu.arg("-display").arg("none").arg("-monitor").arg("none");
        qemu.arg("-serial").arg(format!("file:{}", self.console.display()));
        for port in [&stdout, &stderr, &control] {
            qemu.args(["-serial", &port.argument()]);
        }
        let log = fs::File::create(self.console.with_extension("qemu"))?; // software emulation warns of what it lacks
        let mut guest =
            Guest(qemu.stdin(Stdio::null()).stderr(log).spawn().context("start qemu-system-x86_64")?);
        let [stdout, stderr, control] = [stdout, stderr, control].map(|port| port.accept(&mut guest.0));
        let said = || fs::read_to_string(self.console.with_extension("qemu")).unwrap_or_default();
        let control = control.with_context(|| said().trim().to_owned())?;
        let copies = [copy(stdout?, out), copy(stderr?, err)];
        let outcome = watch(&lines(control), timeout);
        guest.end();
        for copy in copies {
            let _panicked = copy.join();
        }
        Ok(outcome)
    }

    /// Boot with the console on the terminal.
    pub(crate) fn interactive(&self) -> Result<u8> {
        say("the console is yours; `poweroff -f` or Ctrl-A X ends it");
        let null = ["-serial", "null"];
        let mut qemu = self.qemu()?;
        qemu.args(["-nographic", "-serial", "mon:stdio"]).args(null).args(null).args(null);
        let status = qemu.status().context("start qemu-system-x86_64")?;
        Ok(u8::from(!status.success()))
    }

    /// Software emulation of an AMD processor with SVM. One thread for both CPUs: with one each, the lab guest
    /// hangs now and then when kprobes are armed.
    fn qemu(&self) -> Result<Command> {
        let clock = match self.clock {
            Clock::Real => &[][..],
            Clock::Instructions => &["-icount", "shift=0,sleep=off"],
        };
        let mut qemu = Qemu::find()?.command();
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "EPYC", "-m", "2048"])
            .args(["-smp", &self.cpus.to_string()])
            .args(clock)
            .args(["-no-reboot", "-nodefaults", "-vga", "none"])
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
        Ok(qemu)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.initramfs);
        let _gone = fs::remove_dir_all(&self.sockets);
    }
}

/// QEMU; ended when dropped.
struct Guest(Child);

impl Guest {
    fn end(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

fn lines(control: std::os::unix::net::UnixStream) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Booting, then running, then exited; anything else is a hang or a death.
fn watch(control: &Receiver<String>, timeout: Duration) -> Outcome {
    match wait_for(control, "booted", BOOT_TIMEOUT) {
        Ok(_) => {}
        Err(RecvTimeoutError::Timeout) => {
            return Outcome::Hung(format!("did not boot within {BOOT_TIMEOUT:?}"));
        }
        Err(RecvTimeoutError::Disconnected) => {
            return Outcome::Died("died while booting".to_owned());
        }
    }
    match wait_for(control, "exit ", timeout) {
        Ok(code) => {
            code.trim().parse().map_or_else(|_| Outcome::Died(format!("said exit {code:?}")), Outcome::Exited)
        }
        Err(RecvTimeoutError::Timeout) => Outcome::Hung(format!("did not finish within {timeout:?}")),
        Err(RecvTimeoutError::Disconnected) => {
            Outcome::Died("died (panic?) before the command ended".to_owned())
        }
    }
}

/// What follows this word on the first line that begins with it.
fn wait_for(control: &Receiver<String>, word: &str, patience: Duration) -> Result<String, RecvTimeoutError> {
    let end = Instant::now() + patience;
    loop {
        let line = control.recv_timeout(end.saturating_duration_since(Instant::now()))?;
        if let Some(rest) = line.strip_prefix(word) {
            return Ok(rest.to_owned());
        }
    }
}
