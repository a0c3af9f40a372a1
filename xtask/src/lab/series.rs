//! Which version of a kernel series Debian has today, and its packages: the lab's own lists, the host's are not touched.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    kmod::{Modules, kvm},
    package::{KernelFiles, image_in},
};
use crate::{
    arch::Arch,
    cache,
    debian::{Archive, require_apt},
    process::{output, say},
};

/// A kernel series in suites of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Series {
    /// `6.1`; empty for the newest there is.
    pub(crate) number: &'static str,
    /// `amd64`, `rt-amd64` or `arm64`.
    pub(crate) flavour: &'static str,
    /// Must its source be there too, of the same version?
    pub(crate) with_source: bool,
    /// Where it is.
    pub(crate) suites: &'static [&'static str],
}

/// One version of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// `uname -r`: `6.1.0-56-amd64`
    pub(crate) release: String,
    /// Debian's version: `6.1.192-2`
    pub(crate) package: String,
}

/// How long a found version is good for: looking again takes seconds and changes with Debian's updates.
const FRESH: Duration = Duration::from_secs(24 * 3600);

impl Version {
    fn from_note(note: &str) -> Option<Self> {
        let (release, package) = note.trim().split_once(' ')?;
        Some(Self { release: release.to_owned(), package: package.to_owned() })
    }

    /// A folder name that no other version has.
    pub(crate) fn key(&self) -> String {
        format!("{}_{}", self.release, self.package)
    }

    /// Where its image and modules are: since Linux 7.2 in packages of their own; before in one, which is better unsigned:
    /// that one comes with headers and source.
    fn packages(&self, archive: &Archive) -> Result<Vec<String>> {
        let Self { release, package } = self;
        let [binary, unsigned] =
            [format!("linux-binary-{release}"), format!("linux-image-{release}-unsigned")];
        Ok(if versions(archive, &binary)?.contains(package) {
            vec![binary, format!("linux-modules-{release}")]
        } else if versions(archive, &unsigned)?.contains(package) {
            vec![unsigned]
        } else {
            vec![format!("linux-image-{release}")]
        })
    }

    fn has_source(&self, archive: &Archive) -> bool {
        let needed = [format!("linux-headers-{}", self.release), format!("linux-source-{}", self.series())];
        needed.iter().all(|name| versions(archive, name).is_ok_and(|found| found.contains(&self.package)))
    }

    /// `6.1` of `6.1.192-2`
    pub(crate) fn series(&self) -> String {
        self.package.split('.').take(2).collect::<Vec<_>>().join(".")
    }
}

impl Series {
    /// Its newest version.
    pub(crate) fn newest(self) -> Result<Version> {
        let note = cache::folder("lab")?.join(format!(
            "newest-{}{}-{}",
            self.number,
            self.flavour,
            self.suites.join("-")
        ));
        let known = fs::read_to_string(&note).ok().and_then(|text| Version::from_note(&text));
        if let Some(version) = known.clone()
            && cache::is_younger(&note, FRESH)
        {
            return Ok(version);
        }
        match self.look_up() {
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

    fn look_up(self) -> Result<Version> {
        let found = self.candidates(&self.archive()?)?.into_iter().next();
        found.with_context(|| {
            let number = if self.number.is_empty() { "at all" } else { self.number };
            format!("Debian's {} has no kernel {number}", self.suites.join(", "))
        })
    }

    /// Its packages, by lists of the lab's own.
    pub(crate) fn archive(self) -> Result<Archive> {
        require_apt()?;
        let arch = self.arch();
        let of_arch = if arch == Arch::HERE { "" } else { arch.name() };
        let folder = cache::folder(&format!("lab/apt/{}{of_arch}", self.suites.join("-")))?;
        Archive::of_suites(&folder, self.suites, arch)
    }

    /// The processor it is for.
    fn arch(self) -> Arch {
        if self.flavour.ends_with(Arch::Aarch64.debian()) { Arch::Aarch64 } else { Arch::X86_64 }
    }

    /// Newest first. The cloud's flavour has no kvm.
    fn candidates(self, archive: &Archive) -> Result<Vec<Version>> {
        let number =
            if self.number.is_empty() { "[0-9]+".to_owned() } else { self.number.replace('.', "[.]") };
        let pattern = format!("^linux-(image|binary)-{number}[.].*-{}(-unsigned)?$", self.flavour);
        let found = output(archive.command("apt-cache").args(["search", "--names-only", &pattern]))?;
        let mut candidates = Vec::new();
        for name in found.lines().filter_map(|line| line.split(' ').next()) {
            let Some(release) = self.release(name) else { continue };
            for package in versions(archive, name)? {
                candidates.push(Version { release: release.to_owned(), package });
            }
        }
        candidates.sort_by_key(|version| std::cmp::Reverse(numbers(&version.package)));
        if self.with_source {
            let is_whole = |version: &Version| version.has_source(archive);
            return Ok(candidates.into_iter().find(|version| is_whole(version)).into_iter().collect());
        }
        Ok(candidates)
    }

    /// `6.1.0-56-amd64` of a package with its image; None for other flavours.
    fn release(self, package: &str) -> Option<&str> {
        let release =
            package.strip_prefix("linux-image-").or_else(|| package.strip_prefix("linux-binary-"))?;
        let release = release.strip_suffix("-unsigned").unwrap_or(release);
        let version = release.strip_suffix(self.flavour)?.strip_suffix('-')?;
        (!version.ends_with("-rt") && !version.ends_with("-cloud")).then_some(release)
    }

    /// Image and modules of this version, from the cache or Debian.
    pub(crate) fn fetch(self, version: &Version) -> Result<KernelFiles> {
        let folder =
            cache::made(&format!("lab/{}-kernel", version.key()), |into| self.unpack(version, into))?;
        let order = fs::read_to_string(folder.join("order")).context("read the order of the modules")?;
        let modules = order.lines().map(|file| folder.join(file)).collect();
        Ok(KernelFiles::new(folder.join("vmlinuz"), modules))
    }

    fn unpack(self, version: &Version, into: &Path) -> Result<()> {
        let Version { release, package } = version;
        say(&format!("fetching the kernel {release} {package}"));
        let (archive, tree) = (self.archive()?, into.join("tree"));
        let names = version.packages(&archive)?;
        let packages: Vec<_> = names.iter().map(|name| format!("{name}={package}")).collect();
        archive.unpack_all(&packages, &tree)?;
        let Some(image) = image_in(&tree)? else { bail!("{} holds no kernel", names.join(" and ")) };
        fs::rename(image, into.join("vmlinuz"))?;
        let modules = Modules::below(&tree)?;
        let order = modules.unpack(kvm(self.arch()), into)?;
        if self.arch() == Arch::X86_64 {
            modules.unpack("msr", into)?; // for Linux guests of the lab guest
        }
        let names = order.iter().filter_map(|file| file.file_name()?.to_str());
        fs::write(into.join("order"), names.map(|name| format!("{name}\n")).collect::<String>())?;
        Ok(fs::remove_dir_all(tree)?)
    }
}

fn versions(archive: &Archive, package: &str) -> Result<Vec<String>> {
    let text = output(archive.command("apt-cache").args(["madison", package]))?;
    Ok(text.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned())).collect())
}

/// Good enough an order for versions of Linux.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Series, numbers};

    #[test]
    fn newer_versions_sort_higher() {
        assert!(numbers("6.1.192-2") > numbers("6.1.192-1"));
        assert!(numbers("6.1.192-1") > numbers("6.1.9-3"));
        assert!(numbers("6.12.117-1~deb12u1") > numbers("6.12.113-1~deb12u1"));
        assert!(numbers("7.3.4-1~bpo13+1") > numbers("7.2.13-1"));
    }

    #[test]
    fn an_image_is_in_one_package_or_the_other() {
        let plain = Series { number: "", flavour: "amd64", with_source: false, suites: &[] };
        let realtime = Series { flavour: "rt-amd64", ..plain };
        for (package, release, realtime_release) in [
            ("linux-image-6.1.0-56-amd64-unsigned", Some("6.1.0-56-amd64"), None),
            ("linux-image-6.18.15+deb13-amd64", Some("6.18.15+deb13-amd64"), None),
            ("linux-binary-7.3.4+deb13-amd64", Some("7.3.4+deb13-amd64"), None),
            ("linux-binary-7.3.4+deb13-rt-amd64", None, Some("7.3.4+deb13-rt-amd64")),
            ("linux-image-6.1.0-56-cloud-amd64", None, None),
        ] {
            assert_eq!(plain.release(package), release, "{package}");
            assert_eq!(realtime.release(package), realtime_release, "{package}");
        }
    }
}
