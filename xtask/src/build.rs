//! The static release binary: one file, no libraries, for the lab guest and for any host.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cache, peers,
    process::{output, run, say},
};

pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What builds it. The binary carries the list of what it is made of, for `cargo audit bin`.
pub(crate) fn command() -> Result<Command> {
    let mut cargo = Command::new(peers::find("cargo-auditable")?);
    cargo.arg("auditable");
    static_build(cargo, &["--package", "stealtrace"])
}

/// Build it once more, in another folder, from the files that git knows; where it is. What it depends on is taken as it
/// was built before.
pub(crate) fn again(binary: &Path, other: &Path) -> Result<PathBuf> {
    let (root, target) = (cache::root()?, cache::target()?);
    let _absent = fs::remove_dir_all(other);
    let files = output(Command::new("git").args(["ls-files", "-z"]).current_dir(&root))?;
    for file in files.split_terminator('\0').map(Path::new) {
        copy(&root.join(file), &other.join(file))?;
    }
    copy(&root.join(TOOLCHAIN), &other.join(TOOLCHAIN))?;
    for built in ["release", "ebpf", TARGET] {
        run(Command::new("cp")
            .args(["--archive", "--reflink=auto"])
            .arg(target.join(built))
            .arg(other.join("target")))?;
    }
    let commit = output(Command::new(binary).arg("--version"))?;
    let commit = commit.split(['(', ')']).nth(1).context("a version without a commit")?.to_owned();
    let mut cargo = command()?;
    cargo.env("STEALTRACE_COMMIT", commit).env("CARGO_TARGET_DIR", other.join("target"));
    run(cargo.current_dir(other))?;
    Ok(other.join("target").join(TARGET).join("release/stealtrace"))
}

/// Which toolchain builds the kernel side.
pub(crate) const TOOLCHAIN: &str = "target/ebpf-toolchain";

/// Copy a file to a folder that need not be there.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

fn static_build(mut cargo: Command, what: &[&str]) -> Result<Command> {
    cargo
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET])
        .args(what)
        .env(
            "RUSTFLAGS",
            format!("-Ctarget-feature=+crt-static --remap-path-prefix={}=/cargo", home()?.display()),
        )
        .current_dir(cache::root()?);
    Ok(cargo)
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
    run(&mut static_build(Command::new("cargo"), &["--package", "stealtrace-tests", "--bin", "life"])?)?;
    Ok(cache::target()?.join(TARGET).join("release/life"))
}

/// Where it is, in the lab's container, which has no Rust.
const BUILT: &str = "STEALTRACE_BUILT";

/// Is nothing to be built here?
pub(crate) fn is_done() -> bool {
    env::var_os(BUILT).is_some()
}

/// Build it; where it is.
pub(crate) fn dist() -> Result<PathBuf> {
    if let Some(built) = env::var_os(BUILT) {
        return Ok(built.into());
    }
    say("building the static binary");
    run(&mut command()?)?;
    let binary = cache::target()?.join(TARGET).join("release/stealtrace");
    ensure!(binary.exists(), "{} was not built", binary.display());
    Ok(binary)
}
