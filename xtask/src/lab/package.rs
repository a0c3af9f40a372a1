//! A kernel as packages have it: its image and kvm's modules, wherever a distribution keeps them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    image,
    kmod::{Modules, kvm},
    processor::Processor,
};
use crate::{
    cache, debian,
    process::{output, run, say, which},
};

/// What QEMU boots.
#[derive(Clone)]
pub(crate) struct KernelFiles {
    /// The kernel image.
    pub(crate) image: PathBuf,
    /// Its modules, in load order.
    pub(crate) modules: Vec<PathBuf>,
    /// What runs it.
    pub(crate) processor: Processor,
}

impl KernelFiles {
    /// For the first processor that it runs on.
    pub(super) fn new(image: PathBuf, modules: Vec<PathBuf>) -> Self {
        let processor = Processor::of(&image);
        Self { image, modules, processor }
    }
}

/// Any image, and the modules below a folder; those that are not there are taken for built in.
pub(crate) fn from_files(image: &Path, modules: Option<&Path>) -> Result<KernelFiles> {
    ensure!(image.is_file(), "no kernel image {}", image.display());
    let modules = match modules {
        Some(folder) => Modules::below(folder)?.unpack(kvm(image::arch(image)), &given_folder("modules")?)?,
        None => Vec::new(),
    };
    if modules.is_empty() {
        say("no kvm module found; kvm is taken for built in");
    }
    Ok(KernelFiles::new(image.to_owned(), modules))
}

/// Image and modules from Debian's or Ubuntu's packages.
pub(crate) fn from_debs(debs: &[PathBuf]) -> Result<KernelFiles> {
    let tree = given_folder("tree")?;
    for deb in debs {
        run(Command::new("dpkg").arg("-x").arg(deb).arg(&tree))?;
    }
    from_packages(&tree, || missing_of(debs))
}

/// From those of Fedora, RHEL, SUSE and others.
pub(crate) fn from_rpms(rpms: &[PathBuf]) -> Result<KernelFiles> {
    if which("bsdtar").is_none() {
        debian::install(&["libarchive-tools".to_owned()]).context("unpack rpms with bsdtar")?;
    }
    let tree = given_folder("tree")?;
    for rpm in rpms {
        ensure!(rpm.is_file(), "no package {}", rpm.display());
        run(Command::new("bsdtar").arg("-xf").arg(rpm).arg("-C").arg(&tree))?;
    }
    from_packages(&tree, || {
        "kernel-core (the image) and kernel-modules-core (kvm), or what holds them".to_owned()
    })
}

fn from_packages(tree: &Path, missing: impl Fn() -> String) -> Result<KernelFiles> {
    let Some(image) = image_in(tree)? else { bail!("these packages hold no kernel; add {}", missing()) };
    let modules = Modules::below(tree)?;
    let kvm = kvm(image::arch(&image));
    ensure!(modules.has(kvm) == Some(true), "these packages hold no kvm; add {}", missing());
    let modules = modules.unpack(kvm, &given_folder("modules")?)?;
    Ok(KernelFiles::new(image, modules))
}

/// Where given kernels are unpacked: others may be at it, too.
fn given() -> Result<PathBuf> {
    Ok(cache::target()?.join(format!("lab/given-{}", std::process::id())))
}

/// They have been tried.
pub(crate) fn forget_given() {
    if let Ok(folder) = given() {
        let _absent = fs::remove_dir_all(folder);
    }
}

/// An empty folder of our own.
fn given_folder(name: &str) -> Result<PathBuf> {
    let folder = given()?.join(name);
    let _absent = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// The image of an unpacked package: in `boot`, or beside the modules.
pub(super) fn image_in(tree: &Path) -> Result<Option<PathBuf>> {
    let named = |folder: PathBuf, begins: &'static str| {
        let is_named = move |file: &PathBuf| {
            file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins)) && file.is_file()
        };
        inside(&folder).filter(is_named).filter_map(|file| file.canonicalize().ok())
    };
    let releases =
        ["lib/modules", "usr/lib/modules"].into_iter().flat_map(|folder| inside(&tree.join(folder)));
    let beside_modules = releases.flat_map(|folder| named(folder, "vmlinuz"));
    let mut found: Vec<_> = named(tree.join("boot"), "vmlinuz-").chain(beside_modules).collect();
    found.sort();
    found.dedup(); // some packages have a link to it in boot
    ensure!(found.len() < 2, "more than one kernel: {} and {}", found[0].display(), found[1].display());
    Ok(found.pop())
}

/// What is in a folder; nothing if there is none.
fn inside(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Parts that these packages name and that are not among them.
fn missing_of(debs: &[PathBuf]) -> String {
    let field = |deb: &Path, field: &str| {
        output(Command::new("dpkg-deb").arg("-f").arg(deb).arg(field)).unwrap_or_default().trim().to_owned()
    };
    let given: Vec<_> = debs.iter().map(|deb| field(deb, "Package")).collect();
    let named: Vec<_> = debs.iter().flat_map(|deb| parts(&field(deb, "Depends"))).collect();
    let missing: Vec<_> = named.into_iter().filter(|part| !given.contains(part)).collect();
    if missing.is_empty() {
        "the kernel's linux-image and linux-modules".to_owned()
    } else {
        missing.join(" and ")
    }
}

/// `linux-binary-7.3.4` of `linux-base-7.3.4 (= 7.3.4-1), linux-binary-7.3.4 (= 7.3.4-1)`
fn parts(depends: &str) -> Vec<String> {
    const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
    let names = depends.split(',').filter_map(|one| one.split_ascii_whitespace().next());
    names.filter(|name| PARTS.iter().any(|part| name.starts_with(part))).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::{image_in, parts};

    #[test]
    fn a_metapackage_names_its_parts() {
        let depends = "dracut | initramfs-tools (>= 0.1), linux-base-7.3 (= 7.3-1), linux-binary-7.3 (= 7.3-1), \
                       linux-modules-7.3 (= 7.3-1)";
        assert_eq!(parts(depends), ["linux-binary-7.3", "linux-modules-7.3"]);
    }

    #[test]
    fn an_image_is_found_in_every_layout_and_two_are_refused() {
        let tree = env::temp_dir().join(format!("stealtrace-layout-{}", process::id()));
        for layout in ["boot/vmlinuz-6.1", "lib/modules/6.1/vmlinuz", "usr/lib/modules/6.1/vmlinuz"] {
            let image = tree.join(layout);
            fs::create_dir_all(image.parent().unwrap()).unwrap();
            fs::write(&image, "").unwrap();
            assert_eq!(image_in(&tree).unwrap(), Some(image.clone()));
            fs::create_dir_all(tree.join("boot")).unwrap();
            fs::write(tree.join("boot/vmlinuz-5.10"), "").unwrap();
            assert!(image_in(&tree).is_err());
            fs::remove_dir_all(&tree).unwrap();
        }
        assert_eq!(image_in(&tree).unwrap(), None);
    }
}
