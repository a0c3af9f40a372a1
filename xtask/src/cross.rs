//! Building for another processor than this machine's: Debian's C compiler for it, and Rust's standard library, which
//! rustup may have and Debian has beside its own Rust. Unpacked into the cache, not installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    arch::Arch,
    cache,
    debian::{self, Archive},
    process::{output, say, which},
};

/// What cargo is told.
pub(crate) struct Cross {
    arch: Arch,
    /// The folder with the compiler; None if it is installed.
    compiler: Option<PathBuf>,
    /// Whose standard library it is.
    rust: Rust,
}

enum Rust {
    /// The one that builds everything: it knows this processor, too.
    Ours,
    /// Debian's, and the folder with the standard library for it.
    Debians(PathBuf),
}

impl Cross {
    /// Find it all, or fetch it.
    pub(crate) fn find(arch: Arch) -> Result<Self> {
        Ok(Self { arch, compiler: compiler(arch)?, rust: rust(arch)? })
    }

    /// Flags for rustc, beside those of every build.
    pub(crate) fn flags(&self) -> String {
        let linker = format!("-Clinker={}", gcc(self.arch));
        match &self.rust {
            Rust::Ours => linker,
            Rust::Debians(library) => format!("--sysroot={} {linker}", library.join("usr").display()),
        }
    }

    /// Let this cargo build for it, and clippy look at our own crates meanwhile: nobody else compiles them for it.
    pub(crate) fn prepare(&self, cargo: &mut Command) {
        let clippy = match self.rust {
            Rust::Ours => "clippy-driver",
            Rust::Debians(_) => {
                cargo.env("CARGO", DEBIANS_CARGO).env("RUSTC", DEBIANS_RUSTC);
                DEBIANS_CLIPPY
            }
        };
        cargo.env("RUSTC_WORKSPACE_WRAPPER", clippy);
        cargo.env(format!("CC_{}", self.arch.target().replace('-', "_")), gcc(self.arch));
        cargo.env(format!("AR_{}", self.arch.target().replace('-', "_")), format!("{}-ar", self.arch.gnu()));
        if let Some(root) = &self.compiler {
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = [root.join("usr/bin")].into_iter().chain(env::split_paths(&path));
            cargo.env("PATH", env::join_paths(folders).unwrap_or(path));
            cargo.env("LD_LIBRARY_PATH", debian::library_path(root));
        }
    }
}

const DEBIANS_CARGO: &str = "/usr/bin/cargo";
const DEBIANS_RUSTC: &str = "/usr/bin/rustc";
const DEBIANS_CLIPPY: &str = "/usr/bin/clippy-driver";

fn gcc(arch: Arch) -> String {
    format!("{}-gcc", arch.gnu())
}

fn compiler(arch: Arch) -> Result<Option<PathBuf>> {
    if which(&gcc(arch)).is_some() {
        return Ok(None);
    }
    let packages =
        [format!("gcc-{}", arch.gnu().replace('_', "-")), format!("libc6-dev-{}-cross", arch.debian())];
    let root = cache::made(&format!("cross/gcc-{}", arch.name()), |into| {
        debian::refresh_lists()?;
        say(&format!("unpacking {} into the cache", packages.join(" and ")));
        Archive::system().unpack_with_needs(&packages.each_ref().map(String::as_str), into)
    })?;
    Ok(Some(root))
}

fn rust(arch: Arch) -> Result<Rust> {
    let known = output(Command::new("rustc").args(["--print", "target-libdir", "--target", arch.target()]));
    if known.is_ok_and(|folder| Path::new(folder.trim()).exists()) {
        return Ok(Rust::Ours);
    }
    let name = "libstd-rust-web-dev";
    let installed = output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", name]));
    let Ok(version) = installed else {
        bail!("no standard library of Rust for {0}; run `rustup target add {0}`", arch.target());
    };
    let made = cache::made(&format!("cross/std-{}-{version}", arch.name()), |into| {
        say(&format!("unpacking Rust's standard library {version} for {} into the cache", arch.name()));
        let packages = [format!("{name}={version}")];
        Archive::of(arch)?.unpack_all(&packages, into)
    });
    made.with_context(|| format!("fetch {name}; or run `rustup target add {}`", arch.target()))
        .map(Rust::Debians)
}
