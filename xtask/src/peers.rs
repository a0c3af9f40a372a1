//! Programs of others that tests let stealtrace meet: Debian's, unpacked into the cache and not installed, so that no
//! service of theirs starts here. To add one: a row.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{cache, debian, process::say};

/// A program, Debian's package, and where it lies in that.
const PEERS: &[(&str, &str, &str)] = &[
    ("prometheus", "prometheus", "usr/bin/prometheus"),
    ("promtool", "prometheus", "usr/bin/promtool"),
    ("alertmanager", "prometheus-alertmanager", "usr/bin/prometheus-alertmanager"),
    ("systemd-analyze", "systemd", "usr/bin/systemd-analyze"),
    ("node_exporter", "prometheus-node-exporter", "usr/bin/prometheus-node-exporter"),
];

/// Where it is; fetched if need be.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let names = || PEERS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
    let row = PEERS.iter().find(|(program, ..)| *program == name);
    let (_, package, file) = row.with_context(|| format!("no program {name}; there are {}", names()))?;
    let folder = cache::made(&format!("peers/{package}"), |into| {
        say(&format!("fetching {package}"));
        debian::unpack(package, into).or_else(|_| {
            debian::refresh_lists()?;
            debian::unpack(package, into)
        })
    })?;
    Ok(folder.join(file))
}
