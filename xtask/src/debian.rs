//! Debian's packages: install them as root, fetch them without.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::process::{output, run, say, which};

/// Install these packages, or say how.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if which("apt-get").is_none() {
        bail!("missing: {list} (names of Debian's packages); install what provides them here");
    }
    if !is_root() {
        bail!("missing: {list}; run as root: apt-get install {list}");
    }
    say(&format!("installing {list}"));
    refresh_lists()?;
    run(apt_get().args(["install", "-y", "-q", "--no-install-recommends"]).args(packages))
}

/// Bring the package lists up to date, if we may.
pub(crate) fn refresh_lists() -> Result<()> {
    if is_root() { run(apt_get().args(["update", "-q"])) } else { Ok(()) }
}

/// Fetch `name=version` (or just `name`) and unpack it into a folder. Needs no root; apt checks the content.
pub(crate) fn unpack(package: &str, into: &Path) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("the lab takes its kernels from Debian's packages: apt-get is missing");
    }
    let folder = into.join("deb");
    std::fs::create_dir_all(&folder)?;
    output(Command::new("apt-get").args(["download", "-q", package]).current_dir(&folder))?;
    for deb in debs(&folder)? {
        run(Command::new("dpkg").arg("-x").arg(deb).arg(into))?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .stdout(std::io::stderr());
    command
}

fn is_root() -> bool {
    // SAFETY: the call has no arguments and always succeeds.
    unsafe { libc::geteuid() == 0 }
}
