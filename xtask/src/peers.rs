//! Programs of others that tests let stealtrace meet, in the cache and not installed, so that no service of theirs starts
//! here. To add one: a row.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cache, debian,
    process::{run, say},
};

/// Where a program comes from.
enum From {
    /// A package of Debian, and where the program lies in that.
    Debian(&'static str, &'static str),
    /// A package of Python's index; the program is a Python that has it.
    Python(&'static str),
}

const PEERS: &[(&str, From)] = &[
    ("prometheus", From::Debian("prometheus", "usr/bin/prometheus")),
    ("promtool", From::Debian("prometheus", "usr/bin/promtool")),
    ("alertmanager", From::Debian("prometheus-alertmanager", "usr/bin/prometheus-alertmanager")),
    ("systemd-analyze", From::Debian("systemd", "usr/bin/systemd-analyze")),
    ("node_exporter", From::Debian("prometheus-node-exporter", "usr/bin/prometheus-node-exporter")),
    ("duckdb", From::Python("duckdb==2.0.1")),
];

/// Where it is; fetched if need be.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let names = || PEERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let row = PEERS.iter().find(|(program, _)| *program == name);
    let (_, from) = row.with_context(|| format!("no program {name}; there are {}", names()))?;
    let (package, file) = match from {
        From::Debian(package, file) => (*package, *file),
        From::Python(package) => (*package, "python"),
    };
    let folder = cache::made(&format!("peers/{package}"), |into| {
        say(&format!("fetching {package}"));
        match from {
            From::Debian(..) => unpack(package, into),
            From::Python(_) => with_python(package, into),
        }
    })?;
    Ok(folder.join(file))
}

fn unpack(package: &str, into: &Path) -> Result<()> {
    debian::unpack(package, into).or_else(|_| {
        debian::refresh_lists()?;
        debian::unpack(package, into)
    })
}

/// The folder is renamed once it is whole, so the package lies beside a script that finds it there.
fn with_python(package: &str, into: &Path) -> Result<()> {
    const PYTHON: &str = "#!/bin/sh\nPYTHONPATH=\"$(dirname \"$0\")/packages\" exec python3 \"$@\"\n";
    let packages = into.join("packages");
    run(Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(packages)
        .arg(package))?;
    cache::script(&into.join("python"), PYTHON)
}
