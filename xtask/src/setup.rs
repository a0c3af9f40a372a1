//! What building and the lab need, found or installed. Quick when nothing is missing; asks nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    build, cache, debian,
    lab::Qemu,
    process::{output, run, say, which},
};

/// The version of bpf-linker that aya 0.14 goes with.
const LINKER_VERSION: &str = "0.13.0";

/// Something the lab runs, and the Debian package it comes from.
struct Tool {
    present: fn() -> bool,
    package: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool { present: || which("cc").is_some(), package: "gcc" },
    Tool { present: || which("make").is_some(), package: "make" },
    Tool { present: || which("patch").is_some(), package: "patch" },
    Tool { present: || which("xz").is_some(), package: "xz-utils" },
    Tool { present: || which("zstd").is_some(), package: "zstd" },
    Tool { present: || which("flex").is_some(), package: "flex" },
    Tool { present: || which("prove").is_some(), package: "perl" },
    Tool { present: || which("bison").is_some(), package: "bison" },
    Tool { present: || which("pip3").is_some(), package: "python3-pip" },
    Tool { present: || which("tmux").is_some(), package: "tmux" },
    Tool { present: || which("bc").is_some(), package: "bc" },
    Tool { present: || which("pahole").is_some(), package: "dwarves" },
    Tool { present: || which("depmod").is_some(), package: "kmod" },
    Tool { present: || Path::new("/usr/include/gelf.h").exists(), package: "libelf-dev" },
    Tool { present: || Path::new("/usr/include/openssl/opensslv.h").exists(), package: "libssl-dev" },
];

/// Debian's newest Rust, its source and linter, for the kernel side; and the LLVM it is built with.
const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
const DEBIAN_LLVM: u32 = 22;

/// For those who cannot have Debian's.
const ADVICE: &str = "set-up (instead of Debian's Rust and LLVM also `rustup toolchain install nightly --component \
                      rust-src,clippy` and a bpf-linker on PATH)";

/// Find or install everything.
pub(crate) fn setup() -> Result<()> {
    let found = find_toolchain();
    debian::install(&missing(found.as_ref())).context(ADVICE)?;
    let toolchain = found.map_or_else(toolchain, Ok)?;
    let linker = linker(&toolchain)?;
    Qemu::find(Arch::HERE)?;
    remember(&toolchain, &linker)
}

/// Every package that is missing, so that one command gets them all.
fn missing(toolchain: Option<&Toolchain>) -> Vec<String> {
    let tools = TOOLS.iter().filter(|tool| !(tool.present)()).map(|tool| tool.package.to_owned());
    let rust = if toolchain.is_none() { DEBIAN_RUST } else { &[] };
    let llvm = toolchain.map_or(DEBIAN_LLVM, |toolchain| toolchain.llvm);
    tools.chain(rust.iter().map(|package| (*package).to_owned())).chain(missing_llvm(llvm)).collect()
}

/// What bpf-linker is built with and runs with.
fn missing_llvm(llvm: u32) -> Option<String> {
    let present = which("bpf-linker").is_some() || llvm_prefix(llvm).join("lib/cmake/llvm").exists();
    (!present).then(|| format!("llvm-{llvm}-dev"))
}

fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// A cargo and rustc whose rust-src can be built for BPF.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    llvm: u32,
}

/// The toolchain for the kernel side.
fn toolchain() -> Result<Toolchain> {
    find_toolchain().context(
        "no Rust with rust-src that is new enough; run `rustup toolchain install nightly --component rust-src`",
    )
}

fn find_toolchain() -> Option<Toolchain> {
    rustup_nightly().or_else(distribution)
}

fn rustup_nightly() -> Option<Toolchain> {
    let tool = |name: &str| {
        let path = output(Command::new("rustup").args(["which", "--toolchain", "nightly", name])).ok()?;
        Some(PathBuf::from(path.trim()))
    };
    usable(tool("cargo")?, tool("rustc")?)
}

fn distribution() -> Option<Toolchain> {
    let file = |path: &str| Some(PathBuf::from(path)).filter(|path| path.exists());
    usable(file("/usr/bin/cargo")?, file("/usr/bin/rustc")?)
}

/// The toolchain, if it has rust-src and is new enough for our `rust-version`.
fn usable(cargo: PathBuf, rustc: PathBuf) -> Option<Toolchain> {
    let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    let about = output(Command::new(&rustc).arg("-vV")).ok()?;
    let release = version(&about, "release: ")?;
    (core.exists() && release >= rust_version()?).then_some(())?;
    let (llvm, _) = version(&about, "LLVM version: ")?;
    Some(Toolchain { cargo, rustc, llvm })
}

/// `(major, minor)` after this word.
fn version(text: &str, word: &str) -> Option<(u32, u32)> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn rust_version() -> Option<(u32, u32)> {
    let manifest = include_str!("../../Cargo.toml");
    version(manifest, "rust-version = \"")
}

/// bpf-linker for this LLVM: from PATH, or ours, or built.
fn linker(toolchain: &Toolchain) -> Result<PathBuf> {
    if let Some(found) = which("bpf-linker") {
        return Ok(found);
    }
    let llvm = toolchain.llvm;
    if let Some(package) = missing_llvm(llvm) {
        debian::install(&[package]).context("LLVM, for bpf-linker")?; // another than Debian's Rust was expected to need
    }
    let name = format!("bpf-linker-{LINKER_VERSION}-llvm{llvm}");
    let root = cache::made(&name, |into| install_linker(llvm, into))?;
    Ok(root.join("bin/bpf-linker"))
}

fn install_linker(llvm: u32, into: &Path) -> Result<()> {
    say(&format!("building bpf-linker {LINKER_VERSION} with LLVM {llvm} (about a minute)"));
    run(Command::new("cargo")
        .args(["install", "bpf-linker", "--quiet", "--locked", "--debug", "--version", LINKER_VERSION])
        .env("CARGO_PROFILE_DEV_DEBUG", "0") // LLVM does the work
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(into)
        .env("LLVM_PREFIX", llvm_prefix(llvm))
        .current_dir("/"))
}

/// For stealtrace's build script.
fn remember(toolchain: &Toolchain, linker: &Path) -> Result<()> {
    let file = cache::root()?.join(build::TOOLCHAIN);
    let text = format!(
        "cargo={}\nrustc={}\nlinker={}\n",
        toolchain.cargo.display(),
        toolchain.rustc.display(),
        linker.display()
    );
    if fs::read_to_string(&file).is_ok_and(|known| known == text) {
        return Ok(());
    }
    fs::create_dir_all(file.parent().context("target has no parent")?)?;
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}
