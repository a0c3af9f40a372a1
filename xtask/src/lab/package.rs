//! Kernel images from Debian's packages. Image, headers and source are always of one version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache, debian,
    process::{output, run, say, which},
};

/// kvm and what it needs, in the order in which they load.
pub(crate) const MODULES: [&str; 4] = ["irqbypass", "kvm", "ccp", "kvm-amd"];

/// One version of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// `6.1`
    pub(crate) series: String,
    /// `uname -r`: `6.1.0-56-amd64`
    pub(crate) release: String,
    /// Debian's version: `6.1.192-2`
    pub(crate) package: String,
}

/// What QEMU boots.
#[derive(Clone)]
pub(crate) struct KernelFiles {
    /// The kernel image.
    pub(crate) image: PathBuf,
    /// Its modules, in load order.
    pub(crate) modules: Vec<PathBuf>,
}

/// How long a found version is good for: looking again takes seconds and changes with Debian's updates.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// The newest version of a series of which image, headers and source are all there.
pub(crate) fn newest(series: &str) -> Result<Version> {
    let note = cache::folder("lab")?.join(format!("newest-{series}"));
    let known = fs::read_to_string(&note).ok().and_then(|text| Version::from_note(series, &text));
    let fresh = fs::metadata(&note)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH));
    if let Some(version) = known.clone()
        && fresh
    {
        return Ok(version);
    }
    match look_up(series) {
        Ok(version) => {
            fs::write(&note, format!("{} {}\n", version.release, version.package))?;
            Ok(version)
        }
        Err(error) => match known {
            Some(version) => {
                say(&format!("{error:#}; using {} from the cache", version.package));
                Ok(version)
            }
            None => Err(error),
        },
    }
}

impl Version {
    fn from_note(series: &str, note: &str) -> Option<Self> {
        let (release, package) = note.trim().split_once(' ')?;
        Some(Self { series: series.to_owned(), release: release.to_owned(), package: package.to_owned() })
    }

    /// A folder name that no other version has.
    pub(crate) fn key(&self) -> String {
        format!("{}_{}", self.release, self.package)
    }
}

fn look_up(series: &str) -> Result<Version> {
    if which("apt-cache").is_none() {
        bail!("the lab takes its kernels from Debian's packages: apt-cache is missing");
    }
    if let Some(version) = candidates(series)?.into_iter().next() {
        return Ok(version);
    }
    debian::refresh_lists()?;
    candidates(series)?.into_iter().next().with_context(|| {
        format!("Debian's package lists have no kernel {series} with headers and source; run apt-get update")
    })
}

/// Newest first. Unsigned images: they always come with headers and source of the same version.
fn candidates(series: &str) -> Result<Vec<Version>> {
    let pattern = format!("^linux-image-{}[.].*-amd64-unsigned$", series.replace('.', "[.]"));
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let sources = versions(&format!("linux-source-{series}"))?;
    let mut candidates = Vec::new();
    for name in found.lines().filter_map(|line| line.split(' ').next()) {
        let Some(release) = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("-unsigned"))
        else {
            continue;
        };
        if release.contains("-cloud-") || release.contains("-rt-") {
            continue; // the cloud flavour has no kvm
        }
        let headers = versions(&format!("linux-headers-{release}"))?;
        for package in versions(name)? {
            if sources.contains(&package) && headers.contains(&package) {
                candidates.push(Version { series: series.to_owned(), release: release.to_owned(), package });
            }
        }
    }
    candidates.sort_by_key(|version| std::cmp::Reverse(numbers(&version.package)));
    Ok(candidates)
}

fn versions(package: &str) -> Result<Vec<String>> {
    let text = output(Command::new("apt-cache").args(["madison", package]))?;
    Ok(text.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned())).collect())
}

/// Good enough an order for versions of one series.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Image and modules of this version, from the cache or Debian.
pub(crate) fn fetch(version: &Version) -> Result<KernelFiles> {
    let folder = cache::made(&format!("lab/{}-msr", version.key()), |into| unpack_image(version, into))?;
    Ok(KernelFiles {
        image: folder.join("vmlinuz"),
        modules: MODULES.iter().map(|name| folder.join(format!("{name}.ko"))).collect(),
    })
}

fn unpack_image(version: &Version, into: &Path) -> Result<()> {
    let Version { release, package, .. } = version;
    say(&format!("fetching linux-image-{release} {package}"));
    let tree = into.join("tree");
    debian::unpack(&format!("linux-image-{release}-unsigned={package}"), &tree)?;
    fs::rename(image_in(&tree)?, into.join("vmlinuz"))?;
    let found = unpack_modules(&tree, into)?;
    if found.len() != MODULES.len() {
        bail!("linux-image-{release} lacks one of the modules {}", MODULES.join(", "));
    }
    let msr = find(&tree, "msr")?.with_context(|| format!("linux-image-{release} lacks the module msr"))?;
    unpack_module(&msr, &into.join("msr.ko"))?;
    fs::remove_dir_all(tree)?;
    Ok(())
}

/// `boot/vmlinuz-…` of an unpacked package.
fn image_in(tree: &Path) -> Result<PathBuf> {
    let is_image = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz"))
    };
    let boot = fs::read_dir(tree.join("boot")).context("no kernel image: the package has no boot folder")?;
    let mut paths = boot.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths.find(is_image).context("no kernel image: the package has no boot/vmlinuz")
}

/// Those of kvm's modules that are somewhere below a folder, unpacked; in load order.
fn unpack_modules(from: &Path, into: &Path) -> Result<Vec<PathBuf>> {
    let mut unpacked = Vec::new();
    for name in MODULES {
        if let Some(module) = find(from, name)? {
            let to = into.join(format!("{name}.ko"));
            unpack_module(&module, &to)?;
            unpacked.push(to);
        }
    }
    Ok(unpacked)
}

/// Any image, and the modules below a folder; those that are not there are taken for built in.
pub(crate) fn given(image: &Path, modules: Option<&Path>) -> Result<KernelFiles> {
    if !image.is_file() {
        bail!("no kernel image {}", image.display());
    }
    let into = cache::target()?.join("lab/given");
    fs::create_dir_all(&into)?;
    let modules = modules.map_or_else(|| Ok(Vec::new()), |folder| unpack_modules(folder, &into))?;
    if modules.len() < MODULES.len() {
        say(&format!(
            "{} of {} kvm modules found; the others are taken for built in",
            modules.len(),
            MODULES.len()
        ));
    }
    Ok(KernelFiles { image: image.to_owned(), modules })
}

/// Image and modules from Debian packages.
pub(crate) fn from_debs(debs: &[PathBuf]) -> Result<KernelFiles> {
    let tree = cache::target()?.join("lab/given-tree");
    let _absent = fs::remove_dir_all(&tree);
    for deb in debs {
        run(Command::new("dpkg").arg("-x").arg(deb).arg(&tree))?;
    }
    given(&image_in(&tree)?, Some(&tree))
}

/// A module's file, compressed or not, anywhere below a folder.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path
            .file_name()
            .and_then(|file| file.to_str()?.split_once('.'))
            .is_some_and(|(stem, _)| stem == name)
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn unpack_module(module: &Path, to: &Path) -> Result<()> {
    match module.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::copy(module, to).map(drop).with_context(|| format!("copy {}", module.display())),
        Some(packer @ ("xz" | "gz" | "zst")) => {
            let program = match packer {
                "gz" => "gzip",
                "zst" => "zstd",
                same => same,
            };
            run(Command::new(program).arg("-dc").arg(module).stdout(fs::File::create(to)?))
        }
        _ => bail!("{} is compressed in a way we do not know", module.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn newer_versions_sort_higher() {
        assert!(numbers("6.1.192-2") > numbers("6.1.192-1"));
        assert!(numbers("6.1.192-1") > numbers("6.1.9-3"));
        assert!(numbers("6.12.117-1~deb12u1") > numbers("6.12.113-1~deb12u1"));
    }
}
