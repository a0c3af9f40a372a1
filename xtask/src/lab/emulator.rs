//! The QEMU that emulates the lab's machines: the one on PATH, or Debian's, unpacked into the cache with what it needs.
//! Never installed: it may be in conflict with the user's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Error, Result};

use crate::{
    arch::Arch,
    cache,
    debian::{self, Archive},
    elf,
    process::{output, say, which},
};

/// The package that it is in.
pub(super) const fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86",
        Arch::Aarch64 => "qemu-system-arm",
    }
}

fn program(arch: Arch) -> String {
    format!("qemu-system-{}", arch.name())
}

/// Where Debian's packages put firmware.
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// Older ones forget a timer's interrupt far more often (see [`super::watch`]): in two of five lives of the Linux guest with
/// 7.2, in one of 26 with 10.0.2.
const SOUND: u32 = 10;

/// Debian's, or its backports'; what they have is better than nothing.
fn fetch(arch: Arch, into: &Path) -> Result<()> {
    let package = package(arch);
    debian::require_apt()?;
    debian::refresh_lists()?;
    let (system, lists) = (Archive::system(), into.join("apt"));
    let version =
        system.candidate(package)?.with_context(|| format!("Debian's package lists have no {package}"))?;
    let backports = if major(&version) < SOUND {
        Archive::backports(&lists).inspect_err(no_backports).ok()
    } else {
        None
    };
    let archive = backports.unwrap_or(system);
    say(&format!("unpacking {package} {} into the cache", archive.candidate(package)?.unwrap_or(version)));
    archive.unpack_with_needs(&[package], into)?;
    let _runs = output(Qemu::below(into, Arch::HERE, arch).command().arg("--version"))?;
    let _absent = fs::remove_dir_all(lists);
    Ok(())
}

fn no_backports(error: &Error) {
    say(&format!("{error:#}; an older QEMU hangs more often"));
}

/// `10` of `1:10.0.2+ds-2`
fn major(version: &str) -> u32 {
    let upstream = version.split_once(':').map_or(version, |(_, upstream)| upstream);
    upstream.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A QEMU that emulates one architecture.
pub(crate) struct Qemu {
    /// What it runs on, itself.
    host: Arch,
    program: PathBuf,
    /// Below it are its libraries and firmware; `/` for an installed one.
    root: PathBuf,
}

impl Qemu {
    /// Find one that is sound, or fetch it; else the one there is.
    pub(crate) fn find(arch: Arch) -> Result<Self> {
        let of_system =
            which(&program(arch)).map(|program| Self { host: Arch::HERE, program, root: PathBuf::from("/") });
        let installed = match of_system {
            Some(qemu) if qemu.is_sound()? => return Ok(qemu),
            other => other,
        };
        let name = if arch == Arch::HERE { "" } else { arch.name() };
        match cache::made(&format!("lab/qemu-{name}{SOUND}"), |into| fetch(arch, into)) {
            Ok(root) => Ok(Self::below(&root, Arch::HERE, arch)),
            Err(error) => {
                installed.inspect(|_| say(&format!("{error:#}; using the installed QEMU"))).ok_or(error)
            }
        }
    }

    /// `QEMU emulator version 10.0.2 (Debian ...)`
    fn is_sound(&self) -> Result<bool> {
        let version = output(self.command().arg("--version"))?;
        Ok(version.split(' ').nth(3).is_some_and(|version| major(version) >= SOUND))
    }

    fn below(root: &Path, host: Arch, arch: Arch) -> Self {
        Self { host, program: root.join("usr/bin").join(program(arch)), root: root.to_owned() }
    }

    /// Debian's for a machine of its own kind, which has KVM.
    pub(super) fn beside_kvm(arch: Arch) -> Result<Self> {
        if arch == Arch::HERE {
            return Self::find(arch);
        }
        let root = cache::made(&format!("lab/qemu-on-{}", arch.name()), |into| {
            say(&format!("unpacking {} of {} into the cache", package(arch), arch.debian()));
            Archive::of(arch)?.unpack_with_needs(&[package(arch)], into)
        })?;
        Ok(Self::below(&root, arch, arch))
    }

    /// To run it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if self.root != Path::new("/") {
            command.env("LD_LIBRARY_PATH", debian::library_path(&self.root));
            for folder in FIRMWARE.map(|folder| self.root.join(folder)) {
                command.arg("-L").arg(folder);
            }
        }
        command
    }

    /// The program itself.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// What it is linked with.
    pub(super) fn libraries(&self) -> Result<Vec<PathBuf>> {
        elf::libraries(&self.program, self.host, &self.root)
    }

    /// A file of its firmware.
    pub(super) fn firmware(&self, name: &str) -> Result<PathBuf> {
        FIRMWARE
            .map(|folder| self.root.join(folder).join(name))
            .into_iter()
            .find(|file| file.exists())
            .with_context(|| {
                format!("QEMU's firmware {name} is missing; install seabios and qemu-system-data")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn a_version_may_have_an_epoch() {
        assert_eq!(["1:10.0.2+ds-2~bpo12+1", "7.2.22", "?"].map(major), [10, 7, 0]);
    }
}
