//! Every check and test, those that fail fastest first. What cannot run here is said, and never counted as passed.

use std::{env, path::Path, process::Command, time::Instant};

use anyhow::Result;

use crate::{
    build, cache,
    process::{run, say},
    setup,
};

/// Run them all; 0 if all that can run here passed.
pub(crate) fn check() -> Result<u8> {
    let start = Instant::now();
    step("format", cargo().args(["fmt", "--all", "--check"]))?;
    step("lints", cargo().args(["clippy", "--quiet", "--locked", "--all-targets", "--", "-D", "warnings"]))?;
    step("lints, kernel side", &mut setup::toolchain()?.clippy(&cache::root()?, &cache::target()?))?;
    step("unit tests", cargo().args(["test", "--quiet", "--locked", "--lib", "--bins"]))?;
    let binary = build::dist()?;
    step("command line", &mut outside(&binary, "cli")?)?;
    step("files", &mut outside(&binary, "analyze")?)?;
    let skipped = native(&binary)?;
    step("lab", &mut outside(&binary, "lab")?)?;
    step("a real VMM", &mut outside(&binary, "qemu_guest")?)?;
    step("matrix", alone(&mut outside(&binary, "matrix")?))?;
    say(&format!("everything that can run here passed in {} s", start.elapsed().as_secs()));
    if let Some(reason) = skipped {
        say(&format!("NOT RUN: native tests: {reason}"));
    }
    Ok(0)
}

/// Tests that trace this very machine; the reason if they cannot run here.
fn native(binary: &Path) -> Result<Option<String>> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Some("this machine has no /dev/kvm".to_owned()));
    }
    let doctor = Command::new(binary).arg("doctor").output()?;
    if !doctor.status.success() {
        return Ok(Some("stealtrace cannot trace this machine; `stealtrace doctor` says why".to_owned()));
    }
    step("native", alone(&mut outside(binary, "native")?))?;
    Ok(None)
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    say(&format!("=== {name}"));
    run(command)
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// One file of the tests package, told where the binary and the lab are.
fn outside(binary: &Path, test: &str) -> Result<Command> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "--package", "stealtrace-tests", "--test", test])
        .env("STEALTRACE", binary)
        .env("XTASK", env::current_exe()?)
        .current_dir(cache::root()?);
    Ok(command)
}

/// One test at a time: each takes the whole machine, or sees all that runs on it.
fn alone(test: &mut Command) -> &mut Command {
    test.args(["--", "--test-threads=1"])
}
