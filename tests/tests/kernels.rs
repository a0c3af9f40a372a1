//! Kernels as distributions pack them, for `cargo xtask lab verify`: what is found in which layout, and what is said where
//! something is missing or does not load.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use stealtrace_tests::{
    Run,
    monitoring::{Folder, peer},
    run, xtask,
};

/// Enough for a class.
const DECIDING: [&str; 6] =
    ["--scenario", "same-thread", "--scenario", "restore-by-main-thread", "--scenario", "replug"];

/// A file below a folder, with the folders above.
fn file(folder: &Folder, name: &str) -> PathBuf {
    let (above, file) = name.rsplit_once('/').unwrap_or(("", name));
    folder.make(above).join(file)
}

/// Image and modules of a kernel of the lab, in load order.
fn files(kernel: &str) -> Vec<PathBuf> {
    let listed = run(xtask().args(["lab", "files", kernel]));
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    listed.stdout.lines().map(PathBuf::from).collect()
}

fn verify(arguments: impl FnOnce(&mut Command) -> &mut Command) -> Run {
    let mut command = xtask();
    command.args(["lab", "verify"]);
    arguments(&mut command);
    run(&mut command)
}

fn deb(folder: &Folder, name: &str, depends: &str) -> PathBuf {
    let control = format!(
        "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a\nDepends: {depends}\n"
    );
    fs::write(file(folder, &format!("{name}/DEBIAN/control")), control).expect("written");
    let built = run(Command::new("dpkg-deb").arg("--build").arg(folder.make("").join(name)));
    assert_eq!(built.code, 0, "{}", built.stderr);
    folder.make("").join(format!("{name}.deb"))
}

#[test]
fn a_metapackage_names_the_parts_that_are_missing() {
    let folder = Folder::new("kernels-meta");
    let depends = "linux-base-9.9, linux-binary-9.9 (= 1), linux-modules-9.9 (= 1)";
    let meta = deb(&folder, "linux-image-9.9", depends);
    let result = verify(|command| command.arg("--deb").arg(&meta));
    assert_eq!(result.code, 125, "{}", result.stderr);
    assert!(result.stderr.contains("add linux-binary-9.9 and linux-modules-9.9"), "{}", result.stderr);

    let image = file(&folder, "linux-binary-9.9/usr/lib/modules/9.9/vmlinuz");
    fs::write(image, "").expect("written");
    let binary = deb(&folder, "linux-binary-9.9", "linux-base-9.9");
    let result = verify(|command| command.arg("--deb").args([&meta, &binary]));
    assert_eq!(result.code, 125, "{}", result.stderr);
    assert!(result.stderr.contains("hold no kvm; add linux-modules-9.9"), "{}", result.stderr);
}

/// As Fedora has them: an image beside the modules, which are compressed; here each in another way.
const SPEC: &str = r"
Name: kernel
Version: 9.9
Release: 1
Summary: a kernel
License: GPL
%global __os_install_post %{nil}
%description
%package core
Summary: its image
%description core
%package modules-core
Summary: its modules
%description modules-core
%install
mkdir -p %{buildroot}
cp -r /mnt/lib %{buildroot}/
%files core
/lib/modules/9.9/vmlinuz
%files modules-core
/lib/modules/9.9/kernel
";

fn rpms(folder: &Folder) -> [PathBuf; 2] {
    let stock = files("stock-6.1");
    fs::copy(&stock[0], file(folder, "lib/modules/9.9/vmlinuz")).expect("copied");
    let packers: [&[&str]; 3] = [&["xz"], &["gzip"], &["zstd", "-q", "--rm"]];
    for (module, packer) in stock[1..].iter().zip(packers.iter().cycle()) {
        let name = module.file_name().and_then(|name| name.to_str()).expect("a name");
        let to = file(folder, &format!("lib/modules/9.9/kernel/{name}"));
        fs::copy(module, &to).expect("copied");
        assert_eq!(run(Command::new(packer[0]).args(&packer[1..]).arg(to)).code, 0, "{packer:?}");
    }
    fs::write(file(folder, "kernel.spec"), SPEC).expect("written");
    let script = "rpmbuild --quiet --define '_topdir /mnt/made' -bb /mnt/kernel.spec";
    let built = run(Command::new(peer("tools")).arg(folder.make("")).args(["sh", "-ec", script]));
    assert_eq!(built.code, 0, "{}{}", built.stdout, built.stderr);
    ["core", "modules-core"]
        .map(|part| folder.make("").join(format!("made/RPMS/x86_64/kernel-{part}-9.9-1.x86_64.rpm")))
}

#[test]
fn rpms_are_unpacked_and_a_part_that_is_missing_is_named() {
    let folder = Folder::new("kernels-rpm");
    let [core, modules] = rpms(&folder);
    let result = verify(|command| command.arg("--rpm").args([&core, &modules]).args(DECIDING));
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    assert!(result.stdout.contains("-amd64: fixed, as expected"), "{}", result.stdout);
    let result = verify(|command| command.arg("--rpm").arg(&core));
    assert_eq!(result.code, 125, "{}", result.stderr);
    assert!(result.stderr.contains("kernel-modules-core"), "{}", result.stderr);
}

/// The modules of one kernel beside another's image.
#[test]
fn a_module_that_does_not_load_is_the_labs_failure_in_the_kernels_words() {
    let (image, other) = (files("stock-6.1"), files("stock-6.12"));
    let modules = other[1].parent().unwrap_or(Path::new("/"));
    let result = verify(|command| command.arg("--image").arg(&image[0]).arg("--modules").arg(modules));
    assert_eq!(result.code, 125, "{}{}", result.stdout, result.stderr);
    assert!(result.stdout.contains("irqbypass: disagrees about version of symbol"), "{}", result.stdout);
    assert!(!result.stderr.contains("RETRY"), "{}", result.stderr);
}

#[test]
fn a_missing_image_is_said() {
    let result = verify(|command| command.args(["--image", "/no/such/vmlinuz"]));
    assert_eq!(result.code, 125);
    assert!(result.stderr.contains("no kernel image /no/such/vmlinuz"), "{}", result.stderr);
}

/// Debian 11's kvm carries no types: what the kernel's say of it is tried out first.
#[test]
fn the_oldest_kernel_is_seen_by_both_witnesses() {
    assert_seen("stock-5.10", &["kprobe", "tracepoint"]);
}

#[test]
fn the_newest_kernel_is_seen_in_every_way() {
    assert_seen("stock-newest", &["fentry", "kprobe", "tracepoint"]);
}

fn assert_seen(kernel: &str, backends: &[&str]) {
    let by_name: Vec<_> = backends.iter().flat_map(|backend| ["--backend", backend]).collect();
    let random = ["--scenario", "random-hand-offs", "--", "--rounds", "300"];
    let arguments = [&[kernel][..], &by_name, &DECIDING, &random];
    let result = verify(|command| command.args(arguments.concat()));
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    for backend in backends {
        let line = format!("{kernel}: {backend} backend: agrees on 4 of 4; ");
        let told = result.stdout.lines().find(|told| told.starts_with(&line)).unwrap_or_default();
        assert!(told.ends_with("recall 100 %, precision 100 %"), "{}", result.stdout);
    }
}
