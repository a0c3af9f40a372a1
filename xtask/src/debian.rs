//! Debian's packages: install them as root, fetch them without.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::process::{output, run, say, which};

/// Install these packages, or say how. Removes nothing: what conflicts with them is named instead.
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
    let plan = Plan::of(packages)?;
    if !plan.removes.is_empty() {
        bail!("{list} would remove {}, which this never does; install them by hand", plan.removes.join(", "));
    }
    for change in &plan.upgrades {
        say(&format!("this changes the version of {change}"));
    }
    run(apt_get().args(INSTALL).args(packages))
}

/// How packages are installed.
const INSTALL: [&str; 5] = ["install", "-y", "-q", "--no-install-recommends", "--no-remove"];

/// What installing would do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// `name=version` of packages that are not here.
    brings: Vec<String>,
    /// `name: old to new` of those that are.
    upgrades: Vec<String>,
    removes: Vec<String>,
}

impl Plan {
    fn of(packages: &[String]) -> Result<Self> {
        let simulated = ["install", "-s", "-q", "--no-install-recommends"];
        Ok(Self::read(&output(Command::new("apt-get").args(simulated).args(packages))?))
    }

    /// `Inst libssl3 [3.0.19-1] (3.0.22-1 Debian-Security:12 [amd64])`, `Remv qemu-utils [1:10.0.2]`
    fn read(simulation: &str) -> Self {
        let mut plan = Self::default();
        for line in simulation.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["Inst", name, old, new, ..] if old.starts_with('[') => {
                    plan.upgrades.push(format!("{name}: {} to {}", bare(old), bare(new)));
                }
                ["Inst", name, new, ..] => plan.brings.push(format!("{name}={}", bare(new))),
                ["Remv", name, ..] => plan.removes.push(name.to_owned()),
                _ => {}
            }
        }
        plan
    }
}

fn bare(version: &str) -> &str {
    version.trim_matches(['(', ')', '[', ']'])
}

/// Bring the package lists up to date, if we may.
pub(crate) fn refresh_lists() -> Result<()> {
    if is_root() { run(apt_get().args(["update", "-q"])) } else { Ok(()) }
}

/// Fetch `name=version` (or just `name`) and unpack it into a folder. Needs no root; apt checks the content.
pub(crate) fn unpack(package: &str, into: &Path) -> Result<()> {
    unpack_all(&[package.to_owned()], into)
}

/// A package and all that it needs and this system lacks, unpacked into a folder: nothing is installed, and nothing of
/// the system's can be in conflict with it.
pub(crate) fn unpack_with_needs(package: &str, into: &Path) -> Result<()> {
    unpack_all(&Plan::of(&[package.to_owned()])?.brings, into)
}

fn unpack_all(packages: &[String], into: &Path) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("the lab takes its kernels and QEMU from Debian's packages: apt-get is missing");
    }
    let folder = into.join("deb");
    std::fs::create_dir_all(&folder)?;
    output(Command::new("apt-get").args(["download", "-q"]).args(packages).current_dir(&folder))?;
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

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn a_simulation_says_what_comes_changes_and_goes() {
        let plan = Plan::read(
            "Reading package lists...\n\
             Inst libssl3 [3.0.19-1~deb12u2] (3.0.22-1~deb12u2 Debian-Security:12 [amd64])\n\
             Remv qemu-utils [1:10.0.2+ds-2]\n\
             Inst m4 (1.4.19-3 Debian:12.15/oldstable [amd64])\n\
             Conf m4 (1.4.19-3 Debian:12.15/oldstable [amd64])\n",
        );
        assert_eq!(plan.brings, ["m4=1.4.19-3"]);
        assert_eq!(plan.upgrades, ["libssl3: 3.0.19-1~deb12u2 to 3.0.22-1~deb12u2"]);
        assert_eq!(plan.removes, ["qemu-utils"]);
    }
}
