//! Builds the kernel object with the eBPF toolchain that `cargo xtask setup` chose; when clippy checks us, it checks that, too.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// Written by `cargo xtask setup`: `cargo=`, `rustc=`, `linker=`, one a line.
const TOOLCHAIN: &str = "target/ebpf-toolchain";
/// One for all profiles, in which the kernel object is the same; below it one for each processor, for which it is not.
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
    let made = PathBuf::from(env::var("OUT_DIR")?);
    let built = toolchain.cargo(root, &made).output().context("run the eBPF toolchain's cargo")?;
    if !built.status.success() {
        bail!("the kernel side did not build:\n{}", String::from_utf8_lossy(&built.stderr));
    }
    let (object, made) = (made.join("stealtrace.o"), made.join("stealtrace"));
    let bytes = fs::read(&made).with_context(|| format!("read {}", made.display()))?;
    fs::write(&object, without_dwarf(&bytes)?).with_context(|| format!("write {}", object.display()))?;
    println!("cargo::rustc-env=STEALTRACE_OBJECT={}", object.display());
    println!("cargo::rustc-env=STEALTRACE_COMMIT={}", commit(root));
    Ok(())
}

/// What the kernel is not given: three quarters of the object. BTF stays.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        section.delete = name.starts_with(".debug_") || name.starts_with(".rel.debug_");
    }
    builder.delete_orphans();
    let names = builder.sections.add(); // LLVM keeps them among the symbols' names
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut bytes = Vec::new();
    builder.write(&mut bytes)?;
    Ok(bytes)
}

/// Commit and its day: the same however often it is built. Whoever builds without git says it, or it is not known.
fn commit(root: &Path) -> String {
    println!("cargo::rerun-if-env-changed=STEALTRACE_COMMIT");
    let git = |arguments: &[&str]| {
        let told = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        told.status.success().then(|| String::from_utf8_lossy(&told.stdout).trim().to_owned())
    };
    let moves = git(&["rev-parse", "--git-path", "logs/HEAD"]).map(|log| root.join(log));
    if let Some(log) = moves.filter(|log| log.exists()) {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    let told = || git(&["log", "-1", "--format=%h %cs", "--abbrev=12"]);
    env::var("STEALTRACE_COMMIT").ok().or_else(told).unwrap_or_else(|| "commit not known".to_owned())
}

/// What `cargo clippy` compiles a workspace's crates with.
const CLIPPY: &str = "clippy-driver";

fn is_checked_by_clippy() -> bool {
    env::var_os("RUSTC_WORKSPACE_WRAPPER").is_some_and(|wrapper| Path::new(&wrapper).ends_with(CLIPPY))
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
    /// The object is put into a folder of this build's own: others may build at the same time.
    fn cargo(&self, root: &Path, into: &Path) -> Command {
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
        // Paths that BTF names, and by which cargo knows what it built: the same on every machine.
        let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")).unwrap_or_default();
        let home = env::var_os("CARGO_HOME").map_or(home, PathBuf::from);
        let flags = [
            format!("--remap-path-prefix={}=/cargo", home.display()),
            "-Zremap-cwd-prefix=..".to_owned(),
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=2".to_owned(),
            "-Ctarget-cpu=v3".to_owned(), // 32 bits at once, since Linux 5.1
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
        if is_checked_by_clippy() {
            cargo.env("RUSTC_WORKSPACE_WRAPPER", Path::new(&self.rustc).with_file_name(CLIPPY));
        }
        cargo
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .current_dir(root.join("stealtrace-ebpf"))
            .args(["build", "--quiet", "--locked", "--release", "-Zbuild-std=core", "-Zunstable-options"])
            .args(["--target", TARGET, "--target-dir"])
            .arg(root.join(TARGET_DIR).join(&arch))
            .arg("--artifact-dir")
            .arg(into);
        cargo
    }
}
