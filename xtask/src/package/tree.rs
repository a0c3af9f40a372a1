//! The files that a host gets, where they are to lie below `/`.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use super::{Goods, git};
use crate::{
    arch::Arch,
    build::{self, copy},
    cache,
    process::{output, run},
};

/// Files of the repository, and the folders they go to.
const FILES: &[(&str, &str)] = &[
    ("stealtrace/dist/stealtrace-export.service", "usr/lib/systemd/system"),
    ("stealtrace/dist/stealtrace-export.socket", "usr/lib/systemd/system"),
    ("stealtrace/dist/alerts.yaml", "usr/share/stealtrace"),
    ("stealtrace/dist/dashboard.json", "usr/share/stealtrace"),
    ("stealtrace/dist/copyright", "usr/share/licenses/stealtrace"),
    ("README.md", "usr/share/doc/stealtrace"),
];

/// What shells complete: the shell, and the file it looks for.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/stealtrace"),
    ("zsh", "usr/share/zsh/vendor-completions/_stealtrace"),
    ("fish", "usr/share/fish/vendor_completions.d/stealtrace.fish"),
];

/// Lay everything out anew.
pub(super) fn lay_out(goods: &Goods, binary: &Path) -> Result<()> {
    let _absent = fs::remove_dir_all(&goods.tree);
    copy(binary, &goods.place("usr/bin/stealtrace")?)?;
    for (file, folder) in FILES {
        let name = file.rsplit('/').next().unwrap_or(file);
        copy(&cache::root()?.join(file), &goods.place(&format!("{folder}/{name}"))?)?;
    }
    for page in fs::read_dir(cache::root()?.join("stealtrace/docs"))? {
        let page = page?.path();
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        copy(&page, &goods.place(&format!("usr/share/doc/stealtrace/docs/{name}"))?)?;
    }
    let runs_here = if goods.arch == Arch::HERE { binary.to_owned() } else { build::dist(Arch::HERE)? };
    for (shell, file) in COMPLETIONS {
        let text = output(Command::new(&runs_here).args(["completions", shell]))?;
        fs::write(goods.place(file)?, text)?;
    }
    manual(goods)?;
    changelogs(goods)
}

/// Pages are written by a program that the binary does without.
fn manual(goods: &Goods) -> Result<()> {
    let folder = goods.place("usr/share/man/man1/page")?.with_file_name("");
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--locked", "--package", "stealtrace", "--example", "man", "--"]);
    run(command.arg(&folder).current_dir(cache::root()?))?;
    for page in fs::read_dir(&folder)? {
        compress(&page?.path())?;
    }
    Ok(())
}

/// What changed, and the entry that Debian wants beside it.
fn changelogs(goods: &Goods) -> Result<()> {
    let changes = goods.place("usr/share/doc/stealtrace/changelog")?;
    copy(&cache::root()?.join("CHANGELOG.md"), &changes)?;
    compress(&changes)?;
    let debian = goods.place("usr/share/doc/stealtrace/changelog.Debian")?;
    let (version, day) = (&goods.version, git(&["log", "-1", "--format=%cD"])?);
    let entry = format!("stealtrace ({version}-1) unstable; urgency=medium\n\n  * See changelog.gz.\n");
    fs::write(&debian, format!("{entry}\n -- {MAINTAINER}  {day}\n"))?;
    compress(&debian)
}

/// As in stealtrace/Cargo.toml.
const MAINTAINER: &str = "The stealtrace developers <stealtrace@localhost>";

fn compress(file: &Path) -> Result<()> {
    run(Command::new("gzip").args(["--no-name", "--best"]).arg(file))
}
