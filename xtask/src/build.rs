//! The static release binary: one file, no libraries, for the lab guest and for any host.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, ensure};

use crate::{
    cache,
    process::{run, say},
};

pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build it; where it is.
pub(crate) fn dist() -> Result<PathBuf> {
    say("building the static binary");
    run(Command::new("cargo")
        .args(["build", "--quiet", "--release", "--locked", "--package", "stealtrace", "--target", TARGET])
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .current_dir(cache::root()?))?;
    let binary = cache::target()?.join(TARGET).join("release/stealtrace");
    ensure!(binary.exists(), "{} was not built", binary.display());
    Ok(binary)
}
