//! One boot of a lab guest: start QEMU, copy what the command prints, watch it to its end.

use std::{
    fs, io,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    emulator::Qemu,
    hang, image,
    initramfs::{self, Action, Extra},
    package::KernelFiles,
    processor::Processor,
    progress::Counts,
    serial::{Port, Written, copy},
    slot::{Length, Slot},
    watch::{Outcome, Watch, lines, watch},
};
use crate::{cache, ledger, process::say};

/// A hand-off waits for a grace period (`synchronize_rcu` in KVM_RUN), as the end of a probe does. If the kernel looks at
/// once who is still reading, a thousand random hand-offs take 11 s instead of 16. Expedited grace periods would take 2,
/// but whoever waited for one is preempted right afterwards, in the run that a scenario must see undisturbed.
const KERNEL_ARGUMENTS: &str = "quiet panic=-1 rcutree.jiffies_till_first_fqs=0";
/// Of a processor's faults, which a processor that is emulated has not.
const WITHOUT_MITIGATIONS: &str = "mitigations=off";

/// What the lab guest does, and how its time passes.
pub(crate) struct Boot {
    action: Action,
    clock: Clock,
    cpus: u8,
    counts: Counts,
    extras: Vec<Extra>,
    mitigations: bool,
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
    pub(crate) const SHELL: Self = Self {
        action: Action::Shell,
        clock: Clock::Real,
        cpus: 2,
        counts: Counts::Nothing,
        extras: Vec::new(),
        mitigations: false,
    };

    /// One command.
    pub(crate) fn command(command: &[String]) -> Self {
        let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
        let action = Action::Script(words.join(" "));
        Self { action, counts: Counts::Life, ..Self::SHELL }
    }

    /// The same with files that it needs.
    pub(crate) fn with(self, extras: Vec<Extra>) -> Self {
        Self { extras, ..self }
    }

    /// The same, where this counts as progress.
    pub(crate) fn counting(self, counts: Counts) -> Self {
        Self { counts, ..self }
    }

    /// The same with the kernel's mitigations, or without.
    pub(crate) fn mitigated(self, mitigations: bool) -> Self {
        Self { mitigations, ..self }
    }

    /// The same by this clock.
    pub(crate) fn by(self, clock: Clock) -> Self {
        match clock {
            Clock::Real => Self { clock, ..self },
            Clock::Instructions => Self { clock, cpus: 1, counts: Counts::Nothing, ..self },
        }
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

/// Everything a boot needs; can be run more than once.
pub(crate) struct Machine {
    image: PathBuf,
    processor: Processor,
    initramfs: PathBuf,
    console: PathBuf,
    sockets: PathBuf,
    name: String,
    clock: Clock,
    cpus: u8,
    counts: Counts,
    mitigations: bool,
}

impl Machine {
    /// Write the initramfs.
    pub(crate) fn new(name: &str, kernel: &KernelFiles, stealtrace: &Path, boot: &Boot) -> Result<Self> {
        let image = &kernel.image;
        ensure!(
            image::is_known(image),
            "{} is neither a bzImage nor an Image for ARM that is not compressed",
            image.display()
        );
        let folder = cache::target()?.join("lab");
        fs::create_dir_all(&folder)?;
        let own = format!("{name}-{}", std::process::id());
        let machine = Self {
            image: image.clone(),
            processor: kernel.processor,
            initramfs: folder.join(format!("{own}.cpio")),
            console: folder.join(format!("{own}.console.log")),
            sockets: std::env::temp_dir().join(format!("stealtrace-{own}")),
            name: name.to_owned(),
            clock: boot.clock,
            cpus: boot.cpus,
            counts: boot.counts,
            mitigations: boot.mitigations,
        };
        let beats = boot.counts != Counts::Nothing;
        initramfs::write(&machine.initramfs, kernel, stealtrace, &boot.action, beats, &boot.extras)?;
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
        let _slot = Slot::take(self.length())?;
        let began = Instant::now();
        say(&format!("booting {}", self.name));
        let Started { mut guest, stdout, stderr, control, monitor } = self.start()?;
        let written = Written::default();
        let copies = [copy(stdout, out, written.clone()), copy(stderr, err, written.clone())];
        let heard = lines(control.try_clone()?);
        let outcome = watch(&Watch {
            name: &self.name,
            counts: self.counts,
            timeout,
            control: &heard,
            port: &control,
            written,
            console: &self.console,
            emulator: guest.0.id(),
        });
        let outcome = match outcome {
            Outcome::Hung(how) => {
                let asked = hang::Asked { heard: &heard, control, monitor, console: &self.console };
                Outcome::Hung(hang::tell(asked, &self.name, &how))
            }
            ended => ended,
        };
        guest.end();
        ledger::lived(&self.name, began.elapsed());
        for copy in copies {
            let _panicked = copy.join();
        }
        Ok(outcome)
    }

    /// QEMU, connected to us.
    fn start(&self) -> Result<Started> {
        fs::create_dir_all(&self.sockets)?;
        let listen = |port| Port::listen(&self.sockets.join(port));
        let ports = [listen("stdout")?, listen("stderr")?, listen("control")?];
        let monitor = listen("monitor")?;
        let mut qemu = self.qemu()?;
        qemu.args(["-monitor", &monitor.argument()]);
        let console = format!("file,path={}", self.console.display());
        let [stdout, stderr, control] = ports.each_ref().map(Port::device);
        self.connect(&mut qemu, &[console, stdout, stderr, control]);
        let log = self.console.with_extension("qemu"); // software emulation warns of what it lacks
        qemu.stdin(Stdio::null()).stderr(fs::File::create(&log)?);
        end_with_us(&mut qemu);
        let mut guest = Guest(qemu.spawn().context("start QEMU")?);
        let said = || fs::read_to_string(&log).unwrap_or_default().trim().to_owned();
        let monitor = monitor.accept(&mut guest.0).with_context(said)?;
        let [stdout, stderr, control] = ports.map(|port| port.accept(&mut guest.0));
        Ok(Started { guest, stdout: stdout?, stderr: stderr?, control: control?, monitor })
    }

    /// Who demands work of a lab guest has minutes of it.
    fn length(&self) -> Length {
        if self.counts == Counts::Work { Length::Long } else { Length::Short }
    }

    /// Boot with the console on the terminal.
    pub(crate) fn interactive(&self) -> Result<u8> {
        say("the console is yours; `poweroff -f` or Ctrl-A X ends it");
        let mut qemu = self.qemu()?;
        self.connect(&mut qemu, &["stdio,mux=on,signal=off", "null", "null", "null"].map(str::to_owned));
        let status = qemu.args(["-mon", "chardev=port0"]).status().context("start QEMU")?;
        Ok(u8::from(!status.success()))
    }

    /// Lead its ports to these.
    fn connect(&self, qemu: &mut Command, devices: &[String; 4]) {
        for (number, device) in devices.iter().enumerate() {
            qemu.args(["-chardev", &format!("{device},id=port{number}")]);
        }
        qemu.args(self.processor.ports());
    }

    /// Software emulation of a processor that can virtualize. One thread for both CPUs: with one each, the lab guest
    /// hangs now and then when kprobes are armed.
    fn qemu(&self) -> Result<Command> {
        let clock = match self.clock {
            Clock::Real => &[][..],
            Clock::Instructions => &["-icount", "shift=0,sleep=off"],
        };
        let mitigations = if self.mitigations { "" } else { WITHOUT_MITIGATIONS };
        let mut qemu = Qemu::find(self.processor.arch())?.command();
        qemu.args(self.processor.options());
        qemu.args(["-accel", "tcg,thread=single", "-m", "2048", "-display", "none"])
            .args(["-smp", &self.cpus.to_string()])
            .args(clock)
            .args(["-no-reboot", "-nodefaults", "-vga", "none"])
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args([
                "-append",
                &format!("console={} {KERNEL_ARGUMENTS} {mitigations}", self.processor.console()),
            ]);
        Ok(qemu)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.initramfs);
        let _gone = fs::remove_dir_all(&self.sockets);
    }
}

/// Whoever kills us does not leave an emulator that takes a CPU for ever.
fn end_with_us(qemu: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call.
    unsafe {
        qemu.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// QEMU, and the other ends of its ports.
struct Started {
    guest: Guest,
    stdout: UnixStream,
    stderr: UnixStream,
    control: UnixStream,
    monitor: UnixStream,
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
