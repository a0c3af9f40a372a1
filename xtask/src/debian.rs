//! Debian's packages: install them as root, fetch them without.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    arch::Arch,
    cache::{self, is_younger},
    process::{output, run, say, which},
};

/// Install these packages, or say how. Removes nothing: what conflicts with them is named instead.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if which("apt-get").is_none() {
        bail!("missing: {list} (names of Debian's packages); install what provides them here");
    }
    if !is_root() {
        bail!("missing: {list}; run as root: apt-get install {list}");
    }
    say(&format!("installing {list}"));
    refresh_lists()?;
    let plan = Plan::of(&Archive::system(), packages)?;
    if !plan.removes.is_empty() {
        bail!("{list} would remove {}, which this never does; install them by hand", plan.removes.join(", "));
    }
    for change in &plan.upgrades {
        say(&format!("this changes the version of {change}"));
    }
    run(apt_get().args(INSTALL).args(packages))
}

/// How packages are installed.
const INSTALL: [&str; 5] = ["install", "-y", "-q", "--no-install-recommends", "--no-remove"];

/// What installing would do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// `name=version` of packages that are not here.
    brings: Vec<String>,
    /// `name: old to new` of those that are.
    upgrades: Vec<String>,
    removes: Vec<String>,
}

impl Plan {
    fn of(archive: &Archive, packages: &[String]) -> Result<Self> {
        let simulated = ["install", "-s", "-q", "--no-install-recommends"];
        Ok(Self::read(&output(archive.command("apt-get").args(simulated).args(packages))?))
    }

    /// `Inst libssl3 [3.0.19-1] (3.0.22-1 Debian-Security:12 [amd64])`, `Remv qemu-utils [1:10.0.2]`
    fn read(simulation: &str) -> Self {
        let mut plan = Self::default();
        for line in simulation.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["Inst", name, old, new, ..] if old.starts_with('[') => {
                    plan.upgrades.push(format!("{name}: {} to {}", bare(old), bare(new)));
                }
                ["Inst", name, new, ..] => plan.brings.push(format!("{name}={}", bare(new))),
                ["Remv", name, ..] => plan.removes.push(name.to_owned()),
                _ => {}
            }
        }
        plan
    }
}

fn bare(version: &str) -> &str {
    version.trim_matches(['(', ')', '[', ']'])
}

/// Bring the package lists up to date, if we may.
pub(crate) fn refresh_lists() -> Result<()> {
    if is_root() { run(apt_get().args(["update", "-q"])) } else { Ok(()) }
}

/// Fetch `name=version` (or just `name`) and unpack it into a folder. Needs no root; apt checks the content.
pub(crate) fn unpack(arch: Arch, package: &str, into: &Path) -> Result<()> {
    Archive::of(arch)?.unpack_all(&[package.to_owned()], into)
}

/// Where packages put libraries below a folder, for the dynamic linker.
pub(crate) fn library_path(root: &Path) -> OsString {
    let folders = ["usr/lib", "lib"].map(|folder| root.join(folder).join(Arch::HERE.gnu()));
    env::join_paths(folders).unwrap_or_default()
}

/// Where packages come from: the system's own sources, or also its release's backports.
pub(crate) struct Archive {
    options: Vec<String>,
    /// Its lists are ours alone until this is closed.
    _lock: Option<fs::File>,
}

impl Archive {
    /// The system's own.
    pub(crate) const fn system() -> Self {
        Self { options: Vec::new(), _lock: None }
    }

    /// The system's own, or of its release for another processor.
    pub(crate) fn of(arch: Arch) -> Result<Self> {
        if arch == Arch::HERE {
            return Ok(Self::system());
        }
        let release = release()?;
        let suites = ["", "-updates", "-security"].map(|suffix| format!("{release}{suffix}"));
        let folder = cache::folder(&format!("lab/apt/{release}-{}", arch.debian()))?;
        Self::of_suites(&folder, &suites.each_ref().map(String::as_str), arch)
    }

    /// The release's backports before its own packages.
    pub(crate) fn backports(folder: &Path) -> Result<Self> {
        let release = release()?;
        let names = ["", "-updates", "-security", "-backports"].map(|suffix| format!("{release}{suffix}"));
        let mut archive = Self::of_suites(folder, &names.each_ref().map(String::as_str), Arch::HERE)?;
        archive.options.extend(["-o".to_owned(), format!("APT::Default-Release={release}-backports")]);
        Ok(archive)
    }

    /// These suites of Debian, by lists kept in a folder: the system's are not touched.
    pub(crate) fn of_suites(folder: &Path, suites: &[&str], arch: Arch) -> Result<Self> {
        for lists in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(lists))?;
        }
        let lock = fs::File::create(folder.join("lock"))?;
        lock.lock()?;
        let list = folder.join("sources.list");
        let release = release()?;
        let own = own_sources(&release)?;
        let lines = suites.iter().map(|suite| source(suite, &release, &own)).collect::<Result<String>>()?;
        fs::write(&list, lines)?;
        let updated = folder.join("updated");
        let nothing_installed = folder.join("status");
        let folder = folder.display();
        let mut options = vec![
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(), // containers have none: a second for each question
            "Dir::Cache::srcpkgcache=srcpkgcache.bin".to_owned(),
            "APT::Sandbox::User=root".to_owned(), // the folder is the user's
        ];
        if arch != Arch::HERE {
            fs::write(&nothing_installed, "")?;
            options.push(format!("APT::Architecture={}", arch.debian()));
            options.push(format!("APT::Architectures={}", arch.debian()));
            options.push(format!("Dir::State::status={}", nothing_installed.display()));
        }
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect();
        let archive = Self { options, _lock: Some(lock) };
        if !is_younger(&updated, FRESH) {
            output(archive.command("apt-get").args(["update", "-q"]))?;
            fs::write(&updated, "")?;
        }
        Ok(archive)
    }

    /// One of apt's programs, with what it has to offer.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// For a system of its own below this folder, not for the one that runs.
    pub(crate) fn for_system(mut self, root: &Path) -> Self {
        let status = format!("Dir::State::status={}/var/lib/dpkg/status", root.display());
        self.options.extend(["-o".to_owned(), status]);
        self
    }

    /// The version that it has to offer: `1:10.0.2+ds-2`.
    pub(crate) fn candidate(&self, package: &str) -> Result<Option<String>> {
        let policy = output(self.command("apt-cache").args(["policy", package]))?;
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(candidate.filter(|version| *version != "(none)").map(str::to_owned))
    }

    /// Packages, and all that they need and the system lacks, unpacked into a folder: nothing is installed, and nothing
    /// of the system's can be in conflict with it.
    pub(crate) fn unpack_with_needs(&self, packages: &[&str], into: &Path) -> Result<()> {
        let packages: Vec<_> = packages.iter().map(|package| (*package).to_owned()).collect();
        let mut wanted = Plan::of(self, &packages)?.brings;
        let is_new = |package: &String| wanted.iter().any(|one| one.starts_with(&format!("{package}=")));
        let installed: Vec<_> = packages.iter().filter(|package| !is_new(package)).cloned().collect();
        wanted.extend(installed);
        self.unpack_all(&wanted, into)
    }

    /// Packages, `name=version` each, unpacked into a folder.
    pub(crate) fn unpack_all(&self, packages: &[String], into: &Path) -> Result<()> {
        require_apt()?;
        let folder = into.join("deb");
        fs::create_dir_all(&folder)?;
        output(self.command("apt-get").args(["download", "-q"]).args(packages).current_dir(&folder))?;
        for deb in debs(&folder)? {
            run(Command::new("dpkg").arg("-x").arg(deb).arg(into))?;
        }
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}

/// So long lists need not be looked up again: it takes seconds, and many ask at once.
const FRESH: Duration = Duration::from_secs(600);

/// Without it there is nothing to fetch.
pub(crate) fn require_apt() -> Result<()> {
    ensure!(
        which("apt-get").is_some(),
        "the lab takes its kernels and QEMU from Debian's packages: apt-get is missing"
    );
    Ok(())
}

/// The system's release: `bookworm`.
pub(crate) fn release() -> Result<String> {
    let about = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(codename.context("/etc/os-release names no release")?.trim_matches('"').to_owned())
}

/// The system's sources of its release, as lines of a `sources.list`.
pub(crate) fn sources() -> Result<String> {
    Ok(own_sources(&release()?)?.iter().map(|source| line(source)).collect())
}

/// A suite of Debian, where the system finds its own release among its sources; as a line of a `sources.list`.
fn source(suite: &str, release: &str, sources: &[String]) -> Result<String> {
    let own = if suite.ends_with("-security") { format!("{release}-security") } else { release.to_owned() };
    let uri = sources.iter().find_map(|source| {
        let [uri, name, "main"] = source.split(' ').collect::<Vec<_>>()[..] else { return None };
        (name == own).then_some(uri)
    });
    let uri = uri.with_context(|| format!("apt's sources of this system name no {own} main"))?;
    Ok(line(&format!("{uri} {suite} main")))
}

/// `URI bookworm-updates main`
fn own_sources(release: &str) -> Result<Vec<String>> {
    let format = "$(REPO_URI) $(CODENAME) $(COMPONENT)";
    let known =
        output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let is_own = |line: &&str| line.split(' ').nth(1).is_some_and(|name| name.starts_with(release));
    Ok(known.lines().filter(is_own).map(str::to_owned).collect())
}

fn line(source: &str) -> String {
    format!("deb [signed-by={KEYRING}] {source}\n")
}

/// Of `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .stdout(std::io::stderr());
    command
}

fn is_root() -> bool {
    // SAFETY: the call has no arguments and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn a_simulation_says_what_comes_changes_and_goes() {
        let plan = Plan::read(
            "Reading package lists...\n\
             Inst libssl3 [3.0.19-1~deb12u2] (3.0.22-1~deb12u2 Debian-Security:12 [amd64])\n\
             Remv qemu-utils [1:10.0.2+ds-2]\n\
             Inst m4 (1.4.19-3 Debian:12.15/oldstable [amd64])\n\
             Conf m4 (1.4.19-3 Debian:12.15/oldstable [amd64])\n",
        );
        assert_eq!(plan.brings, ["m4=1.4.19-3"]);
        assert_eq!(plan.upgrades, ["libssl3: 3.0.19-1~deb12u2 to 3.0.22-1~deb12u2"]);
        assert_eq!(plan.removes, ["qemu-utils"]);
    }
}
