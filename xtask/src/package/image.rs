//! A container image: the one static binary, and nothing else.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use super::Goods;
use crate::{
    peers,
    process::{output, run},
};

/// In a system of its own, which has buildah and forgets what it did.
const SCRIPT: &str = r#"
set -e
buildah="buildah --storage-driver vfs"
container=$($buildah from scratch)
$buildah copy --quiet --chmod 755 "$container" /mnt/stealtrace /usr/bin/stealtrace
$buildah config --entrypoint '["/usr/bin/stealtrace"]' --cmd '["--help"]' --created-by stealtrace --arch "$3" \
    --label org.opencontainers.image.title=stealtrace --label "org.opencontainers.image.version=$1" \
    --label org.opencontainers.image.licenses="MIT OR Apache-2.0" "$container"
$buildah commit --quiet --format oci --timestamp "$2" "$container" "oci:/mnt/image:stealtrace:$1"
"#;

pub(super) fn oci(goods: &Goods) -> Result<PathBuf> {
    let package = goods.into.join(format!("stealtrace-{}-{}.oci.tar", goods.version, goods.arch.name()));
    let folder = goods.into.join(format!("image-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    fs::copy(goods.tree.join("usr/bin/stealtrace"), folder.join("stealtrace"))?;
    let mut command = Command::new(peers::find("tools")?);
    command.arg(&folder).args([
        "sh",
        "-c",
        SCRIPT,
        "image",
        &goods.version,
        &goods.time,
        goods.arch.debian(),
    ]);
    let made = output(&mut command).and_then(|_| {
        run(goods.tar(&package).arg("--directory").arg(folder.join("image")).args([
            "blobs",
            "index.json",
            "oci-layout",
        ]))
    });
    fs::remove_dir_all(&folder)?;
    made.map(|()| package)
}
