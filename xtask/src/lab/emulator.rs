//! The QEMU that emulates the lab's machines: the one on PATH, or Debian's, unpacked into the cache with what it needs.
//! Never installed: it may be in conflict with the user's packages.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cache, debian,
    process::{output, say, which},
};

const PROGRAM: &str = "qemu-system-x86_64";

/// Where Debian's packages put libraries and firmware.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// A QEMU for x86-64.
pub(crate) struct Qemu {
    program: PathBuf,
    /// Below it are its libraries and firmware; `/` for an installed one.
    root: PathBuf,
}

impl Qemu {
    /// Find it, or fetch it.
    pub(crate) fn find() -> Result<Self> {
        if let Some(program) = which(PROGRAM) {
            return Ok(Self { program, root: PathBuf::from("/") });
        }
        let root = cache::made("lab/qemu", |into| {
            say("unpacking qemu-system-x86 into the cache");
            debian::refresh_lists()?;
            debian::unpack_with_needs("qemu-system-x86", into)?;
            let _runs = output(Self::below(into).command().arg("--version"))?;
            Ok(())
        })?;
        Ok(Self::below(&root))
    }

    fn below(root: &Path) -> Self {
        Self { program: root.join("usr/bin").join(PROGRAM), root: root.to_owned() }
    }

    /// To run it.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.with_libraries(&self.program);
        if self.root != Path::new("/") {
            for folder in FIRMWARE.map(|folder| self.root.join(folder)) {
                command.arg("-L").arg(folder);
            }
        }
        command
    }

    fn with_libraries(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if self.root != Path::new("/") {
            let folders = LIBRARIES.map(|folder| self.root.join(folder));
            command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap_or_default());
        }
        command
    }

    /// The program itself.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// What it is linked with.
    pub(super) fn libraries(&self) -> Result<Vec<PathBuf>> {
        let linked = output(self.with_libraries("ldd").arg(&self.program))?;
        Ok(linked.split_ascii_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
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
