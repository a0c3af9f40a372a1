//! kvm modules with a change, built against a stock image: no kernel is built.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    package::KernelFiles,
    series::{Series, Version},
};
use crate::{
    cache,
    process::{output, run, run_logged, say},
};

/// What of the source no kvm build reads; leaving it packed saves a gigabyte.
const UNREAD: [&str; 6] = ["*.rst", "*/drivers/*.c", "*/drivers/*.h", "*/sound/*.c", "*/fs/*.c", "*/net/*.c"];
/// What all of kvm reads.
const HEADERS: &str = "/include/";
/// The modules that are built anew.
const REBUILT: [&str; 2] = ["kvm", "kvm-amd"];

/// A changed kernel: its name, and the patch to its source.
pub(crate) type Variant = (&'static str, &'static str);

/// The stock kernel with its kvm modules rebuilt from patched source. All variants are built at once, in one
/// tree: what it takes to prepare that is the longest part of it.
pub(crate) fn rebuilt(
    series: Series,
    version: &Version,
    stock: KernelFiles,
    name: &str,
    variants: &[Variant],
) -> Result<KernelFiles> {
    let folder = cache::made(&format!("lab/{}_{:016x}", version.key(), fingerprint(variants)), |into| {
        build(series, version, &stock.image, variants, into)
            .with_context(|| format!("rebuild kvm of linux {}", version.package))
    })?;
    let folder = folder.join(name);
    let modules = stock.modules.into_iter().map(|module| replaced(module, &folder)).collect();
    Ok(KernelFiles { modules, ..stock })
}

fn replaced(module: std::path::PathBuf, folder: &Path) -> std::path::PathBuf {
    let rebuilt = module.file_name().map(|name| folder.join(name)).filter(|path| path.exists());
    rebuilt.unwrap_or(module)
}

fn fingerprint(variants: &[Variant]) -> u64 {
    let mut hasher = DefaultHasher::new();
    variants.hash(&mut hasher);
    hasher.finish()
}

fn build(from: Series, version: &Version, image: &Path, variants: &[Variant], into: &Path) -> Result<()> {
    let (series, Version { release, package }) = (version.series(), version);
    say(&format!("fetching the source of linux {package}"));
    let packages = into.join("packages");
    let wanted = [format!("linux-source-{series}={package}"), format!("linux-headers-{release}={package}")];
    from.archive()?.unpack_all(&wanted, &packages)?;
    unpack_source(&packages.join(format!("usr/src/linux-source-{series}.tar.xz")), into)?;
    let source = into.join(format!("linux-source-{series}"));
    configure(&packages.join(format!("usr/src/linux-headers-{release}")), &source, release, into)?;
    give_types(&source, image)?;
    let mut variants = variants.to_vec();
    variants.sort_by_key(|(_, patch)| patch.contains(HEADERS)); // what changes them has all compiled anew, and the next again
    for (name, patch) in variants {
        say(&format!("building kvm of {name} (about a minute)"));
        apply(patch, &source, &[])?;
        if patch.contains("/Kconfig") {
            prepare(&source, release, into)?;
        }
        make_modules(&source, release, &into.join(name))?;
        apply(patch, &source, &["--reverse"])?;
        if patch.contains("/Kconfig") {
            prepare(&source, release, into)?; // as it was, for the next
        }
    }
    fs::remove_dir_all(source)?;
    fs::remove_dir_all(packages)?;
    Ok(())
}

fn make_modules(source: &Path, release: &str, into: &Path) -> Result<()> {
    fs::create_dir(into)?;
    let release = format!("KERNELRELEASE={release}");
    run_logged(make(source).arg(release).args(["M=arch/x86/kvm", "modules"]), &into.join("modules.log"))?;
    for name in REBUILT {
        let built = source.join(format!("arch/x86/kvm/{name}.ko"));
        let stripped = into.join(format!("{name}.ko"));
        run(Command::new("strip").args(["--strip-debug", "-o"]).arg(stripped).arg(built))?;
    }
    Ok(())
}

fn unpack_source(archive: &Path, into: &Path) -> Result<()> {
    let excluded = UNREAD.iter().map(|pattern| format!("--exclude={pattern}"));
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).args(excluded))
}

/// Since Linux 7.2 MSRs have a file of their own.
const OF_MSRS: [&str; 2] = ["arch/x86/kvm/msrs.c", "arch/x86/kvm/x86.c"];

fn apply(patch: &str, source: &Path, options: &[&str]) -> Result<()> {
    let [newer, older] = OF_MSRS;
    let patch = if source.join(newer).exists() { patch } else { &patch.replace(newer, older) };
    let mut child = Command::new("patch")
        .args(["--silent", "-p1"])
        .args(options)
        .current_dir(source)
        .stdin(Stdio::piped())
        .spawn()
        .context("run patch")?;
    child.stdin.take().context("patch has no input")?.write_all(patch.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "the lab's patch does not apply: {status}");
    Ok(())
}

/// The stock kernel's configuration and symbol versions, so that its image accepts our modules.
fn configure(headers: &Path, source: &Path, release: &str, into: &Path) -> Result<()> {
    for file in [".config", "Module.symvers"] {
        fs::copy(headers.join(file), source.join(file))
            .with_context(|| format!("the headers have no {file}"))?;
    }
    // The lab's machine is an AMD; half of kvm's code is for the other.
    run(Command::new(source.join("scripts/config")).args(["--disable", "KVM_INTEL"]).current_dir(source))?;
    prepare(source, release, into)
}

fn prepare(source: &Path, release: &str, into: &Path) -> Result<()> {
    run_logged(make(source).args(["olddefconfig", "modules_prepare"]), &into.join("prepare.log"))?;
    let release = format!("#define UTS_RELEASE \"{release}\"\n");
    fs::write(source.join("include/generated/utsrelease.h"), release).context("set the release")
}

/// The image's own type information, from which pahole makes the modules' (`vmlinux` at the tree's top).
fn give_types(source: &Path, image: &Path) -> Result<()> {
    let vmlinux = fs::File::create(source.join("vmlinux"))?;
    run(Command::new(source.join("scripts/extract-vmlinux")).arg(image).stdout(vmlinux))?;
    let sections = output(Command::new("readelf").args(["-SW"]).arg(source.join("vmlinux")))?;
    ensure!(sections.contains(".BTF"), "the kernel image carries no BTF");
    Ok(())
}

fn make(source: &Path) -> Command {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.arg("-s").arg(format!("-j{jobs}")).current_dir(source);
    // Neither the caller's build flags nor cargo's belong into a kernel build.
    for name in ["CFLAGS", "LDFLAGS", "MAKEFLAGS", "ARCH", "CROSS_COMPILE"] {
        make.env_remove(name);
    }
    make
}
