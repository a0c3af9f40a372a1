//! What a host installs: the files, laid out once and packed in four ways. The same commit gives the same bytes.

mod image;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    build, cache, peers,
    process::{output, run, say},
};

/// What is packed.
struct Goods {
    /// What they are for.
    arch: Arch,
    /// The files, where they are to lie below `/`.
    tree: PathBuf,
    /// Where packages go.
    into: PathBuf,
    /// Of the workspace.
    version: String,
    /// When the commit was made, in seconds since 1970: every file's time.
    time: String,
}

/// One way to pack; the package.
type Pack = fn(&Goods) -> Result<PathBuf>;

/// The ways there are. To add one: a row.
const KINDS: [(&str, Pack); 4] = [("deb", deb), ("rpm", rpm), ("tar.gz", tarball), ("oci", image::oci)];

/// Their names.
pub(crate) fn kinds() -> Vec<&'static str> {
    KINDS.iter().map(|(name, _)| *name).collect()
}

/// Make these, or all, for a processor; where they are.
pub(crate) fn package(kinds: &[String], arch: Arch) -> Result<Vec<PathBuf>> {
    pack_into("package", kinds, arch, &build::dist(arch)?)
}

/// Make them once more from a build in another folder: it must be the same bytes.
pub(crate) fn twice(kinds: &[String]) -> Result<Vec<PathBuf>> {
    const AGAIN: &str = "package-again";
    let binary = build::dist(Arch::HERE)?;
    let first = pack_into("package", kinds, Arch::HERE, &binary)?;
    say("building and packing once more");
    let elsewhere = cache::target()?.join("elsewhere");
    let again = build::again(&binary, &elsewhere)?;
    for (one, other) in first.iter().zip(pack_into(AGAIN, kinds, Arch::HERE, &again)?) {
        let same = fs::read(one)? == fs::read(&other)?;
        ensure!(same, "{} and {} differ", one.display(), other.display());
    }
    fs::remove_dir_all(cache::target()?.join(AGAIN))?;
    fs::remove_dir_all(elsewhere)?;
    Ok(first)
}

fn pack_into(folder: &str, kinds: &[String], arch: Arch, binary: &Path) -> Result<Vec<PathBuf>> {
    let into = cache::target()?.join(folder);
    fs::create_dir_all(&into)?;
    let goods = Goods {
        arch,
        tree: cache::target()?.join(arch.target()).join("release/package"),
        into,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: git(&["log", "-1", "--format=%ct"])?,
    };
    tree::lay_out(&goods, binary)?;
    let wanted = |name: &str| kinds.is_empty() || kinds.iter().any(|kind| kind == name);
    KINDS
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, pack)| {
            say(&format!("packing {name}"));
            pack(&goods).with_context(|| format!("make the {name}"))
        })
        .collect()
}

fn git(arguments: &[&str]) -> Result<String> {
    let told = output(Command::new("git").args(arguments).current_dir(cache::root()?));
    Ok(told.context("packages bear the time of their commit")?.trim().to_owned())
}

/// As `[package.metadata.deb]` says.
fn deb(goods: &Goods) -> Result<PathBuf> {
    let package = goods.into.join(format!("stealtrace_{}-1_{}.deb", goods.version, goods.arch.debian()));
    let mut command = goods.packer("cargo-deb")?;
    command.args(["--quiet", "--package", "stealtrace", "--no-build", "--no-strip"]);
    output(command.args(["--target", goods.arch.target(), "--output"]).arg(&package))?;
    Ok(package)
}

/// As `[package.metadata.generate-rpm]` says.
fn rpm(goods: &Goods) -> Result<PathBuf> {
    let package = goods.into.join(format!("stealtrace-{}-1.{}.rpm", goods.version, goods.arch.name()));
    let mut command = goods.packer("cargo-generate-rpm")?;
    command.args(["generate-rpm", "--package", "stealtrace", "--target", goods.arch.target(), "--output"]);
    output(command.arg(&package).args(["--source-date", &goods.time]))?;
    Ok(package)
}

/// For `tar -xz -C /usr/local --strip-components=2`.
fn tarball(goods: &Goods) -> Result<PathBuf> {
    let name = format!("stealtrace-{}-{}-linux", goods.version, goods.arch.name());
    let package = goods.into.join(format!("{name}.tar.gz"));
    let mut tar = goods.tar(&package);
    tar.arg(format!("--transform=s,^usr,{name}/usr,")).arg("--use-compress-program=gzip --no-name --best");
    run(tar.arg("--directory").arg(&goods.tree).arg("usr"))?;
    Ok(package)
}

impl Goods {
    /// A program that packs what the workspace's metadata says.
    fn packer(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(peers::find(name)?);
        command.env("SOURCE_DATE_EPOCH", &self.time).current_dir(cache::root()?);
        Ok(command)
    }

    /// An archive that says nothing of who made it where and when.
    fn tar(&self, archive: &Path) -> Command {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"]);
        tar.arg(format!("--mtime=@{}", self.time)).arg("--file").arg(archive);
        tar
    }

    /// Where a file is to lie.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let file = self.tree.join(path);
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        Ok(file)
    }
}
