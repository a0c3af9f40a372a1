//! The lab: boots real Debian kernels under QEMU's software emulation and runs commands in them.
//! Needs no root and no hardware virtualization.

mod container;
mod emulator;
mod hang;
mod image;
mod initramfs;
mod junit;
mod kernels;
mod kmod;
mod markdown;
mod matrix;
mod modules;
mod package;
mod page;
mod play;
mod processor;
mod progress;
mod qemu;
mod qemu_guest;
mod row;
mod serial;
mod series;
pub(crate) mod slot;
mod verify;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;
use comfy_table::{Table, presets};

use crate::{arch::Arch, build, ledger, peers};

use self::kernels::{KERNELS, Kernel};
pub(crate) use self::{emulator::Qemu, progress::Counts, qemu::Clock};
use self::{initramfs::Extra, qemu::Boot, watch::Outcome};

/// What to do in the lab.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the kernels
    List,
    /// Print where a kernel's image and its modules are, in load order
    Files {
        /// One of `lab list`
        kernel: String,
    },
    /// Boot a kernel and run a command in it; its exit code is ours (125: the lab itself failed)
    Run {
        /// One of `lab list`
        kernel: String,
        /// Give up after this many seconds; what the emulator waits for a CPU does not count
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// Let an instruction take a nanosecond, on one CPU: times are instruction counts, the same on every run
        #[arg(long)]
        icount: bool,
        /// A minute in which the command writes nothing, nor any file in /tmp, is a hang; else only one in which the
        /// lab guest itself stands still
        #[arg(long)]
        expect_output: bool,
        /// Put this program on PATH, too (repeatable)
        #[arg(long = "program", value_name = "FILE")]
        programs: Vec<PathBuf>,
        /// And this one of `xtask peer`, with its libraries (repeatable)
        #[arg(long = "peer", value_name = "NAME")]
        peers: Vec<String>,
        /// Leave the kernel's mitigations of processors' faults on
        #[arg(long)]
        mitigations: bool,
        /// The command; `stealtrace` is on PATH
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Play every scenario of `stealtrace verify` in kernels, print a matrix
    Verify(Box<verify::Verify>),
    /// Make a container image of the lab: any kernel is judged by it without a checkout, root or /dev/kvm
    Container,
    /// Boot a kernel, run QEMU with a Linux guest in it; exit 1 if stealtrace, QEMU and the guest do not agree
    QemuGuest {
        /// One of `lab list`
        #[arg(default_value = "stock-6.1")]
        kernel: String,
        /// Only this part of its life (repeatable): boot, restore, reset, replug, reset-again, guarded
        #[arg(long = "part", value_name = "PART")]
        parts: Vec<String>,
    },
    /// Boot a kernel and open a shell in it
    Shell {
        /// One of `lab list`
        kernel: String,
    },
}

/// Do it; the exit code.
pub(crate) fn run(verb: Verb) -> Result<u8> {
    match verb {
        Verb::List => list(),
        Verb::Files { kernel } => files(find(&kernel)?),
        Verb::Run { kernel, timeout, icount, expect_output, programs, peers, mitigations, command } => {
            let clock = if icount { Clock::Instructions } else { Clock::Real };
            let counts = if expect_output { Counts::Work } else { Counts::Life };
            let mut extras = programs.iter().map(|file| on_path(file)).collect::<Result<Vec<_>>>()?;
            for name in &peers {
                let (program, libraries) = peers::with_libraries(name)?;
                extras.push(on_path(&program)?);
                extras.extend(libraries.into_iter().map(|file| linked(file, Arch::HERE)));
            }
            let boot = boot(&command)?.with(extras).counting(counts).by(clock).mitigated(mitigations);
            run_boot(find(&kernel)?, &boot, Duration::from_secs(timeout))
        }
        Verb::Verify(options) => verify::verify(&options),
        Verb::Container => container(),
        Verb::QemuGuest { kernel, parts } => qemu_guest::run(find(&kernel)?, &parts),
        Verb::Shell { kernel } => prepare(find(&kernel)?, &Boot::SHELL)?.interactive(),
    }
}

#[expect(clippy::print_stdout, reason = "the list is the result")]
fn list() -> Result<u8> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["kernel", "what it is", "class"]);
    for kernel in KERNELS {
        table.add_row([kernel.name, kernel.about, kernel.class.unwrap_or("none")]);
    }
    println!("{table}");
    Ok(0)
}

#[expect(clippy::print_stdout, reason = "its place is the result")]
fn container() -> Result<u8> {
    println!("{}", container::image()?.display());
    Ok(0)
}

#[expect(clippy::print_stdout, reason = "the list is the result")]
fn files(kernel: &Kernel) -> Result<u8> {
    let files = kernel.files()?;
    println!("{}", files.image.display());
    files.modules.iter().for_each(|module| println!("{}", module.display()));
    Ok(0)
}

/// One command, in a boot.
fn boot(command: &[String]) -> Result<Boot> {
    ensure!(!command.is_empty(), "no command; try `cargo xtask lab run stock-6.1 -- stealtrace doctor`");
    Ok(Boot::command(command))
}

/// A program of this machine, in the lab guest's /bin.
fn on_path(file: &Path) -> Result<Extra> {
    let name = file.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
    Ok(Extra { file: file.to_owned(), at: format!("bin/{name}") })
}

/// A library, where the dynamic linker of Debian's programs looks for it, and where they look for the linker.
fn linked(file: PathBuf, arch: Arch) -> Extra {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let at = if name.starts_with("ld-linux") {
        format!("{}/{name}", arch.linkers_folder())
    } else {
        format!("lib/{}/{name}", arch.gnu())
    };
    Extra { at, file }
}

/// Boot a kernel; the command's exit code. A hang is tried once more, and said.
fn run_boot(kernel: &Kernel, boot: &Boot, timeout: Duration) -> Result<u8> {
    let boot = prepare(kernel, boot)?;
    match boot.run(timeout)? {
        Outcome::Exited(code) => Ok(code),
        Outcome::Hung(how) => {
            ledger::retry(&format!("{} {how}", kernel.name));
            match boot.run(timeout)? {
                Outcome::Exited(code) => Ok(code),
                Outcome::Refused(how) | Outcome::Hung(how) | Outcome::Died(how) => fail(kernel, &boot, &how),
            }
        }
        Outcome::Refused(how) | Outcome::Died(how) => fail(kernel, &boot, &how),
    }
}

fn fail(kernel: &Kernel, boot: &qemu::Machine, how: &str) -> Result<u8> {
    bail!("{}: {how}; console: {}", kernel.name, boot.console().display())
}

/// Those that every run of the tests boots as Debian has them.
pub(crate) fn of_every_run() -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().filter(|kernel| kernel.is_of_every_run())
}

/// Why a kernel cannot be fetched or booted today, if so.
pub(crate) fn problem(name: &str) -> Option<String> {
    let attempt = || run_boot(find(name)?, &boot(&["true".to_owned()])?, BOOT);
    match attempt() {
        Ok(0) => None,
        Ok(code) => Some(format!("`true` exits with {code} there")),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// A boot takes seconds.
const BOOT: Duration = Duration::from_secs(300);

/// The kernel with this name.
pub(crate) fn find(name: &str) -> Result<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name).with_context(|| {
        let names: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
        format!("no kernel {name}; there are {}", names.join(", "))
    })
}

fn prepare(kernel: &Kernel, boot: &Boot) -> Result<qemu::Machine> {
    let files = kernel.files()?;
    let binary = build::for_lab(files.processor.arch())?;
    qemu::Machine::new(kernel.name, &files, &binary, boot)
}
