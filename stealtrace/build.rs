//! Builds the kernel object with the eBPF toolchain that `cargo xtask setup` chose.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Written by `cargo xtask setup`: `cargo=`, `rustc=`, `linker=`, one a line.
const TOOLCHAIN: &str = "target/ebpf-toolchain";
/// One for all profiles: the kernel object is the same in each.
const TARGET_DIR: &str = "target/ebpf";
const TARGET: &str = "bpfel-unknown-none";

fn main() {
    if let Err(error) = build() {
        for line in format!("{error:#}").lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace root")?;
    for source in ["stealtrace-ebpf", "stealtrace-common", "Cargo.lock", TOOLCHAIN] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let toolchain = Toolchain::read(&root.join(TOOLCHAIN))?;
    let target_dir = root.join(TARGET_DIR);
    let built = toolchain.cargo(root, &target_dir).output().context("run the eBPF toolchain's cargo")?;
    if !built.status.success() {
        bail!("the kernel side did not build:\n{}", String::from_utf8_lossy(&built.stderr));
    }
    let object = PathBuf::from(env::var("OUT_DIR")?).join("stealtrace.o");
    let made = target_dir.join(TARGET).join("release/stealtrace");
    fs::copy(&made, &object).with_context(|| format!("copy {}", made.display()))?;
    println!("cargo::rustc-env=STEALTRACE_OBJECT={}", object.display());
    Ok(())
}

struct Toolchain {
    cargo: String,
    rustc: String,
    linker: String,
}

impl Toolchain {
    fn read(file: &Path) -> Result<Self> {
        let Ok(text) = fs::read_to_string(file) else {
            bail!("no eBPF toolchain chosen yet; run `cargo xtask setup`");
        };
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
                .with_context(|| format!("{} lacks {key}; run `cargo xtask setup`", file.display()))
        };
        Ok(Self { cargo: value("cargo")?, rustc: value("rustc")?, linker: value("linker")? })
    }

    /// What aya-build does, for any cargo and rustc: a stable one is told to accept `-Z build-std`.
    fn cargo(&self, root: &Path, target_dir: &Path) -> Command {
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
        let flags = [
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker),
        ];
        let mut cargo = Command::new(&self.cargo);
        for (inherited, _) in
            env::vars().filter(|(name, _)| name.starts_with("CARGO") || name.starts_with("RUST"))
        {
            cargo.env_remove(inherited);
        }
        if let Ok(home) = env::var("CARGO_HOME") {
            cargo.env("CARGO_HOME", home);
        }
        cargo
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .current_dir(root.join("stealtrace-ebpf"))
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "-Zbuild-std=core",
                "--target",
                TARGET,
                "--target-dir",
            ])
            .arg(target_dir);
        cargo
    }
}
