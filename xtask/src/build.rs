//! The static release binary: one file, no libraries, for the lab guest and for any host.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    cache,
    cross::Cross,
    peers,
    process::{output, run, say},
};

/// What builds it. The binary carries the list of what it is made of, for `cargo audit bin`.
pub(crate) fn command(arch: Arch) -> Result<Command> {
    let mut cargo = Command::new(peers::find("cargo-auditable")?);
    cargo.args(["auditable", "build"]);
    static_build(cargo, arch, &["--release", "--package", "stealtrace"])
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
    for built in ["release", "ebpf", Arch::HERE.target()] {
        run(Command::new("cp")
            .args(["--archive", "--reflink=auto"])
            .arg(target.join(built))
            .arg(other.join("target")))?;
    }
    let commit = output(Command::new(binary).arg("--version"))?;
    let commit = commit.split(['(', ')']).nth(1).context("a version without a commit")?.to_owned();
    let mut cargo = command(Arch::HERE)?;
    cargo.env("STEALTRACE_COMMIT", commit).env("CARGO_TARGET_DIR", other.join("target"));
    run(cargo.current_dir(other))?;
    Ok(place(&other.join("target"), Arch::HERE, "release"))
}

/// Which toolchain builds the kernel side.
pub(crate) const TOOLCHAIN: &str = "target/ebpf-toolchain";

/// Copy a file to a folder that need not be there.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

fn static_build(mut cargo: Command, arch: Arch, what: &[&str]) -> Result<Command> {
    let mut flags = format!("-Ctarget-feature=+crt-static --remap-path-prefix={}=/cargo", home()?.display());
    if arch != Arch::HERE {
        let cross = Cross::find(arch)?;
        flags = format!("{flags} {}", cross.flags());
        cross.prepare(&mut cargo);
    }
    cargo.args(["--quiet", "--locked", "--target", arch.target()]).args(what);
    cargo.env("RUSTFLAGS", flags).current_dir(cache::root()?);
    Ok(cargo)
}

/// Where it is built.
fn place(target: &Path, arch: Arch, profile: &str) -> PathBuf {
    target.join(arch.target()).join(profile).join("stealtrace")
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
pub(crate) fn life(arch: Arch) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.arg("build");
    let what = ["--profile", LAB, "--package", "stealtrace-tests", "--bin", "life"];
    run(&mut static_build(cargo, arch, &what)?)?;
    Ok(place(&cache::target()?, arch, LAB).with_file_name("life"))
}

/// Where it is, in the lab's container, which has no Rust.
const BUILT: &str = "STEALTRACE_BUILT";

/// Is nothing to be built here?
pub(crate) fn is_done() -> bool {
    env::var_os(BUILT).is_some()
}

/// Build it; where it is.
pub(crate) fn dist(arch: Arch) -> Result<PathBuf> {
    if arch == Arch::HERE
        && let Some(built) = env::var_os(BUILT)
    {
        return Ok(built.into());
    }
    build(arch, "release", &mut command(arch)?)
}

/// The one that the lab runs on this processor. Where that is emulated from end to end the build's time matters more than
/// the binary's, which is not optimised as a whole.
pub(crate) fn for_lab(arch: Arch) -> Result<PathBuf> {
    if arch == Arch::HERE {
        return dist(arch);
    }
    let mut cargo = Command::new("cargo");
    cargo.arg("build");
    build(arch, LAB, &mut static_build(cargo, arch, &["--profile", LAB, "--package", "stealtrace"])?)
}

/// The profile of that one.
const LAB: &str = "lab";

fn build(arch: Arch, profile: &str, command: &mut Command) -> Result<PathBuf> {
    say(&format!("building the static binary for {}", arch.name()));
    run(command)?;
    let binary = place(&cache::target()?, arch, profile);
    ensure!(binary.exists(), "{} was not built", binary.display());
    Ok(binary)
}
