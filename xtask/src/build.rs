//! The static release binary: one file, no libraries, for the lab guest and for any host.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cache,
    process::{run, say},
};

pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What builds it.
pub(crate) fn command() -> Result<Command> {
    static_build(&["--package", "stealtrace"])
}

fn static_build(what: &[&str]) -> Result<Command> {
    let mut command = Command::new("cargo");
    command
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET])
        .args(what)
        .env(
            "RUSTFLAGS",
            format!("-Ctarget-feature=+crt-static --remap-path-prefix={}=/cargo", home()?.display()),
        )
        .current_dir(cache::root()?);
    Ok(command)
}

/// Where cargo keeps what it fetched. Its path is in what is built, and no two machines have the same.
fn home() -> Result<PathBuf> {
    let default = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(default)
        .context("neither CARGO_HOME nor HOME is set")
}

/// The program that plays a Linux guest's life in the lab guest.
pub(crate) fn life() -> Result<PathBuf> {
    run(&mut static_build(&["--package", "stealtrace-tests", "--bin", "life"])?)?;
    Ok(cache::target()?.join(TARGET).join("release/life"))
}

/// Build it; where it is.
pub(crate) fn dist() -> Result<PathBuf> {
    say("building the static binary");
    run(&mut command()?)?;
    let binary = cache::target()?.join(TARGET).join("release/stealtrace");
    ensure!(binary.exists(), "{} was not built", binary.display());
    Ok(binary)
}
