//! What building and the lab need, found or installed. Quick when nothing is missing; asks nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache, debian,
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
    Tool { present: || which("qemu-system-x86_64").is_some(), package: "qemu-system-x86" },
    Tool { present: || which("xz").is_some(), package: "xz-utils" },
    Tool { present: || which("flex").is_some(), package: "flex" },
    Tool { present: || which("bison").is_some(), package: "bison" },
    Tool { present: || which("bc").is_some(), package: "bc" },
    Tool { present: || which("pahole").is_some(), package: "dwarves" },
    Tool { present: || which("depmod").is_some(), package: "kmod" },
    Tool { present: || Path::new("/usr/include/gelf.h").exists(), package: "libelf-dev" },
    Tool { present: || Path::new("/usr/include/openssl/opensslv.h").exists(), package: "libssl-dev" },
];

/// Find or install everything.
pub(crate) fn setup() -> Result<()> {
    let missing: Vec<_> = TOOLS.iter().filter(|tool| !(tool.present)()).map(|tool| tool.package).collect();
    debian::install(&missing)?;
    let toolchain = toolchain()?;
    let linker = linker(&toolchain)?;
    remember(&toolchain, &linker)
}

/// A cargo and rustc whose rust-src can be built for BPF.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    llvm: u32,
}

fn toolchain() -> Result<Toolchain> {
    if let Some(found) = rustup_nightly().or_else(distribution) {
        return Ok(found);
    }
    const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
    if which("apt-get").is_none() {
        bail!("missing: rust-src; run `rustup toolchain install nightly --component rust-src`");
    }
    debian::install(&PACKAGES)
        .context("an eBPF toolchain; or run `rustup toolchain install nightly --component rust-src`")?;
    distribution().context("Debian's rustc is older than the packages need; run `rustup toolchain install nightly --component rust-src`")
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
    let root = cache::made(&format!("bpf-linker-{LINKER_VERSION}-llvm{llvm}"), |into| install_linker(llvm, into))?;
    Ok(root.join("bin/bpf-linker"))
}

fn install_linker(llvm: u32, into: &Path) -> Result<()> {
    let package = format!("llvm-{llvm}-dev");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("include/llvm").exists() && !Path::new(&prefix).join("lib/cmake").exists() {
        debian::install(&[&package]).context("LLVM, to build bpf-linker; or put a bpf-linker on PATH")?;
    }
    say(&format!("building bpf-linker {LINKER_VERSION} with LLVM {llvm} (about a minute)"));
    run(Command::new("cargo")
        .args(["install", "bpf-linker", "--quiet", "--locked", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(into)
        .env("LLVM_PREFIX", prefix)
        .current_dir("/"))
}

/// For stealtrace's build script.
fn remember(toolchain: &Toolchain, linker: &Path) -> Result<()> {
    let file = cache::root()?.join("target/ebpf-toolchain");
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
