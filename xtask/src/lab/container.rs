//! The lab as a container image: a small Debian with QEMU, stealtrace, and this program; no Rust, no network, no root.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{emulator, initramfs};
use crate::{
    arch::Arch,
    build::{self, copy},
    cache,
    debian::Archive,
    peers,
    process::{run, say},
};

/// Beside QEMU: what unpacks modules and packages.
const PACKAGES: [&str; 4] = [emulator::package(Arch::HERE), "xz-utils", "zstd", "libarchive-tools"];

/// In the small Debian: add the rest to it, and take all of it along.
const TREE: &str = "\
tar --directory /mnt/add --create . | tar --directory / --extract --keep-directory-symlink --no-same-owner
tar --directory / --exclude ./mnt --exclude ./proc --exclude ./dev --exclude ./sys --create --file /mnt/tree.tar .";

/// In the system that has buildah. The cache holds what the lab fetches else.
const IMAGE: &str = r#"
buildah="buildah --storage-driver vfs"
container=$($buildah from scratch)
$buildah add --quiet "$container" /mnt/tree.tar /
$buildah config --entrypoint '["/usr/bin/xtask", "lab"]' --cmd '["--help"]' --created-by stealtrace \
    --env STEALTRACE_BUILT=/usr/bin/stealtrace --env CARGO_TARGET_DIR=/tmp/lab --env XDG_CACHE_HOME=/var/cache \
    --label org.opencontainers.image.title=stealtrace-lab \
    --label org.opencontainers.image.licenses="MIT OR Apache-2.0" "$container"
$buildah commit --quiet --format oci "$container" "oci:/mnt/image:stealtrace-lab:latest"
tar --directory /mnt/image --create --file /mnt/lab.oci.tar blobs index.json oci-layout"#;

/// Make it; where it is.
pub(super) fn image() -> Result<PathBuf> {
    let packages = cache::target()?.join("package");
    let folder = cache::target()?.join(format!("lab/image-{}", std::process::id()));
    fs::create_dir_all(&packages)?;
    let package = packages.join("stealtrace-lab-x86_64.oci.tar");
    let made = make_in(&folder).and_then(|()| {
        let made = fs::rename(folder.join("lab.oci.tar"), &package);
        made.with_context(|| format!("write {}", package.display()))
    });
    let _gone = fs::remove_dir_all(&folder);
    made.map(|()| package)
}

fn make_in(folder: &Path) -> Result<()> {
    let add = folder.join("add");
    fs::create_dir_all(&add)?;
    copy(&build::dist(Arch::HERE)?, &add.join("usr/bin/stealtrace"))?;
    copy(&env::current_exe().context("find xtask itself")?, &add.join("usr/bin/xtask"))?;
    copy(&initramfs::busybox(Arch::HERE)?, &add.join("var/cache/stealtrace/lab/busybox-static/bin/busybox"))?;
    let debian = peers::find("debian")?;
    let root = debian.with_file_name("root");
    say("unpacking QEMU for the image");
    Archive::backports(&folder.join("apt"))?.for_system(&root).unpack_with_needs(&PACKAGES, &add)?;
    run(Command::new(debian).arg(folder).args(["sh", "-ec", TREE]))?;
    run(Command::new(peers::find("tools")?).arg(folder).args(["sh", "-ec", IMAGE]).stdout(std::io::stderr()))
}
