//! Every check and test, those that fail fastest first. What cannot run here is said, and never counted as passed.

use std::{
    env,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    build, cache,
    cross::Cross,
    lab::{self, slot},
    ledger::Ledger,
    peers,
    process::{output, run, say},
};

/// Tests that boot emulated machines, which share the CPUs: the longest first.
const EMULATED: [(&str, &str); 5] = [
    ("a real VMM", "qemu_guest"),
    ("lab", "lab"),
    ("matrix", "matrix"),
    ("other kernels", "kernels"),
    ("another processor", "arm64"),
];
/// Of these the test that takes a system of its own.
const IN_A_SYSTEM: &str = "rpms_are_unpacked";
/// And those of kernels that may not be there: one is at the end of its life, the other is another every day.
const OF_KERNELS: [(&str, &str); 2] =
    [("stock-5.10", "the_oldest_kernel"), ("stock-newest", "the_newest_kernel")];

/// A part of a run: its name, and what it is.
type Part = (&'static str, Command);

/// How often to look for what the parts noted.
const NEWS: Duration = Duration::from_secs(1);

/// Run them all; 0 if all that can run here passed.
pub(crate) fn check() -> Result<u8> {
    let start = Instant::now();
    let run = Run { ledger: Ledger::begin()?, slots: cache::target()?.join("slots") };
    fetch_ahead();
    run.step("format", cargo().args(["fmt", "--all", "--check"]))?;
    run.beside(vec![
        ("lints, and tests built", spare(arguments("test --quiet --locked --all-targets --no-run")?)),
        ("static binary", build::command(Arch::HERE)?),
    ])?;
    run.step("unit tests", &mut arguments("test --quiet --locked --lib --bins")?)?;
    run.step("licences and sources", &mut deny()?)?;
    let binary = build::dist(Arch::HERE)?;
    run.step("command line", &mut run.outside(&binary, "cli")?)?;
    run.step("files", &mut run.outside(&binary, "analyze")?)?;
    run.step("documents", &mut run.outside(&binary, "docs")?)?;
    run.step("units", &mut run.outside(&binary, "units")?)?;
    run.step("fleet", &mut run.outside(&binary, "fleet")?)?;
    let (native, skipped) = run.native(&binary)?;
    let alerts = Ok(("alerts", run.outside(&binary, "alerts")?));
    let (systems, unpacked) = run.in_systems(&binary)?;
    let absent = thread::scope(|scope| {
        let boots = OF_KERNELS.map(|(kernel, test)| (test, scope.spawn(|| lab::problem(kernel))));
        boots.map(|(test, boot)| {
            (test, boot.join().unwrap_or_else(|_| Some("looking for it panicked".to_owned())))
        })
    });
    let left_out = absent.iter().filter(|(_, problem)| problem.is_some()).map(|(test, _)| *test);
    let left_out: Vec<_> = left_out.chain(unpacked.as_ref().map(|_| IN_A_SYSTEM)).collect();
    let emulated = EMULATED.map(|(name, test)| {
        let mut command = run.outside(&binary, test)?;
        command.arg("--");
        command.args(left_out.iter().flat_map(|test| ["--skip", test]));
        Ok((name, command))
    });
    let others = native.into_iter().chain(systems).map(Ok).chain([alerts]);
    run.beside(emulated.into_iter().chain(others).collect::<Result<_>>()?)?;
    run.ledger.told()?.iter().for_each(|line| say(line));
    say(&format!("everything that can run here passed in {} s", start.elapsed().as_secs()));
    let absent = absent.into_iter().filter_map(|(test, why)| Some(format!("{test}: {}", why?)));
    [skipped, unpacked].into_iter().flatten().chain(absent).for_each(|what| say(&format!("NOT RUN: {what}")));
    Ok(0)
}

/// Begin with what comes over the network, and with what others' programs take of a compiler, while ours are built. What
/// fails here fails again where it is needed, which says so.
fn fetch_ahead() {
    for programs in peers::for_tests() {
        thread::spawn(|| programs.into_iter().for_each(|program| drop(peers::find(program))));
    }
    thread::spawn(|| lab::of_every_run().for_each(|kernel| drop(kernel.files())));
    thread::spawn(|| drop(Cross::find(Arch::Aarch64)));
}

/// One run of everything.
struct Run {
    ledger: Ledger,
    /// Where the emulators' slots are.
    slots: PathBuf,
}

/// A part that ran beside others, and what it printed.
struct Ended {
    name: &'static str,
    output: Output,
    took: Duration,
}

impl Ended {
    /// Show what it printed; its name if it failed.
    fn show(&self) -> Result<Option<&'static str>> {
        let Self { name, output, took } = self;
        say(&format!("=== {name}: {} s", took.as_secs()));
        io::stdout().write_all(&output.stdout).context("show the tests' output")?;
        io::stderr().write_all(&output.stderr).context("show the tests' output")?;
        Ok((!output.status.success()).then_some(*name))
    }
}

impl Run {
    fn step(&self, name: &str, command: &mut Command) -> Result<()> {
        say(&format!("=== {name}"));
        let start = Instant::now();
        run(command)?;
        say(&format!("=== {name}: {} s", start.elapsed().as_secs()));
        Ok(())
    }

    /// Tests that trace this very machine, or the reason why they cannot run here.
    fn native(&self, binary: &Path) -> Result<(Option<Part>, Option<String>)> {
        if !Path::new("/dev/kvm").exists() {
            return Ok((None, Some("native tests: this machine has no /dev/kvm".to_owned())));
        }
        let doctor = Command::new(binary).arg("doctor").output()?;
        if !doctor.status.success() {
            let reason = "native tests: stealtrace cannot trace this machine; `stealtrace doctor` says why";
            return Ok((None, Some(reason.to_owned())));
        }
        let mut native = self.outside(binary, "native")?;
        native.args(["--", "--test-threads=1"]); // each sees all that runs on the machine
        Ok((Some(("native", native)), None))
    }

    /// Tests that take systems of their own, or the reason why this machine has none.
    fn in_systems(&self, binary: &Path) -> Result<(Vec<Part>, Option<String>)> {
        const PARTS: [&str; 2] = ["packages", "pictures"];
        if let Err(error) = output(Command::new(peers::find("debian")?).arg("/").arg("true")) {
            let reason =
                format!("{}, {IN_A_SYSTEM}: no system of their own here: {error:#}", PARTS.join(", "));
            return Ok((Vec::new(), Some(reason)));
        }
        let parts = PARTS.map(|test| Ok((test, self.outside(binary, test)?)));
        Ok((parts.into_iter().collect::<Result<_>>()?, None))
    }

    /// Beside each other; what each prints is shown when it ends.
    fn beside(&self, parts: Vec<Part>) -> Result<()> {
        let (sender, ended) = mpsc::channel();
        for (name, mut command) in parts {
            let sender = sender.clone();
            say(&format!("=== {name}: begins"));
            let start = Instant::now();
            thread::spawn(move || {
                let output = command.output();
                let _given_up =
                    sender.send(output.map(|output| Ended { name, output, took: start.elapsed() }));
            });
        }
        drop(sender);
        let mut failed = Vec::new();
        loop {
            match ended.recv_timeout(NEWS) {
                Ok(part) => failed.extend(part.context("run a part of the tests")?.show()?),
                Err(RecvTimeoutError::Timeout) => self.ledger.tell_news(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        Ok(())
    }

    /// One file of the tests package, told where the binary and the lab are.
    fn outside(&self, binary: &Path, test: &str) -> Result<Command> {
        let (ledger, file) = self.ledger.variable();
        let mut command = cargo();
        command
            .args(["test", "--locked", "--test", test]) // of all packages, as they were built
            .env("STEALTRACE", binary)
            .env("XTASK", env::current_exe()?)
            .env(ledger, file)
            .env(slot::VARIABLE, &self.slots)
            .current_dir(cache::root()?);
        Ok(command)
    }
}

/// Of everything that stealtrace is built from.
fn deny() -> Result<Command> {
    let mut deny = Command::new(peers::find("cargo-deny")?);
    deny.args(["--offline", "--config", ".cargo/deny.toml", "check", "--hide-inclusion-graph"]);
    deny.args(["licenses", "bans", "sources"]).current_dir(cache::root()?);
    Ok(deny)
}

/// Our own crates are compiled by clippy, as `cargo clippy -- -D warnings` has it: what that only checks is built here, so
/// that what we depend on need not be looked at twice.
fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver").env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings");
    cargo
}

/// The same on what the CPUs have to spare: the end of the static binary's build keeps one alone busy for a minute.
fn spare(mut command: Command) -> Command {
    const LESS_URGENT: libc::c_int = 10;
    // SAFETY: the closure runs between fork and exec and makes one system call.
    unsafe {
        command.pre_exec(|| {
            libc::nice(LESS_URGENT);
            Ok(())
        });
    }
    command
}

/// cargo with these arguments, in the repository.
fn arguments(words: &str) -> Result<Command> {
    let mut command = cargo();
    command.args(words.split(' ')).current_dir(cache::root()?);
    Ok(command)
}
