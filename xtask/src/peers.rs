//! Programs of others that packages are made with, that tests let stealtrace meet or that it is measured against, in the cache and not installed, so
//! that no service of theirs starts here. To add one: a row.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    arch::Arch,
    cache, debian, elf,
    process::{run, say},
};

/// Where a program comes from.
enum From {
    /// A package of Debian, and where the program lies in that.
    Debian(&'static str, &'static str),
    /// The same, with all that the package needs and the system lacks.
    WithNeeds(&'static str, &'static str),
    /// A package of Python's index; the program is a Python that has it.
    Python(&'static str),
    /// The version of a crate, which has the program's name.
    Crate(&'static str),
    /// A Debian of its own with these packages; the program, `enter FOLDER COMMAND`, runs a command there as root, with
    /// the folder at /mnt and without network. What it changes elsewhere is gone when it ends.
    System(&'static [&'static str]),
}

const PEERS: &[(&str, From)] = &[
    ("prometheus", From::Debian("prometheus", "usr/bin/prometheus")),
    ("promtool", From::Debian("prometheus", "usr/bin/promtool")),
    ("alertmanager", From::Debian("prometheus-alertmanager", "usr/bin/prometheus-alertmanager")),
    ("systemd-analyze", From::Debian("systemd", "usr/bin/systemd-analyze")),
    ("node_exporter", From::Debian("prometheus-node-exporter", "usr/bin/prometheus-node-exporter")),
    ("duckdb", From::Python("duckdb==2.0.1")),
    ("perfetto", From::Python("perfetto==0.59.1")),
    ("cargo-auditable", From::Crate("0.7.7")),
    ("cargo-deb", From::Crate("3.8.0")),
    ("cargo-deny", From::Crate("0.20.2")),
    ("cargo-generate-rpm", From::Crate("0.21.1")),
    ("mmdebstrap", From::Debian("mmdebstrap", "usr/bin/mmdebstrap")),
    ("bpftrace", From::WithNeeds("bpftrace", "usr/bin/bpftrace")),
    ("perf", From::WithNeeds("linux-perf", "usr/bin/perf")),
    ("strace", From::WithNeeds("strace", "usr/bin/strace")),
    ("debian", From::System(&[])),
    ("tools", From::System(&["buildah", "chromium", "fonts-dejavu-core", "lintian", "rpm", "rpmlint"])),
];

/// Those that tests need: of the network, and of a compiler.
pub(crate) fn for_tests() -> [Vec<&'static str>; 2] {
    let needed = PEERS.iter().filter(|(_, from)| !matches!(from, From::WithNeeds(..)));
    let (compiled, fetched): (Vec<_>, Vec<_>) = needed.partition(|(_, from)| matches!(from, From::Crate(_)));
    [fetched, compiled].map(|rows| rows.into_iter().map(|(name, _)| *name).collect())
}

/// Where it is; fetched if need be.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let (_, from) = row(name)?;
    let (package, file) = match from {
        From::Debian(package, file) => ((*package).to_owned(), (*file).to_owned()),
        From::WithNeeds(package, _) => (format!("{package}-with-needs"), name.to_owned()),
        From::Python(package) => ((*package).to_owned(), "python".to_owned()),
        From::Crate(version) => (format!("{name}-{version}"), format!("bin/{name}")),
        From::System(_) => (format!("system-{name}"), "enter".to_owned()),
    };
    let folder = cache::made(&format!("peers/{package}"), |into| {
        say(&format!("fetching {package}"));
        match from {
            From::Debian(..) => unpack(&package, into),
            From::WithNeeds(package, file) => unpack_with_needs(name, package, file, into),
            From::Python(_) => with_python(&package, into),
            From::Crate(version) => install(name, version, into),
            From::System(packages) => bootstrap(packages, into),
        }
    })?;
    Ok(folder.join(file))
}

/// A program and what it is linked with, for a machine that lacks both.
pub(crate) fn with_libraries(name: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (found, (_, from)) = (find(name)?, row(name)?);
    let From::WithNeeds(_, file) = from else { bail!("{name} is no program by itself") };
    let root = found.with_file_name("root");
    let program = root.join(file);
    let libraries = elf::libraries(&program, Arch::HERE, &root)?;
    Ok((program, libraries))
}

fn row(name: &str) -> Result<&'static (&'static str, From)> {
    let all = || PEERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let row = PEERS.iter().find(|(program, _)| *program == name);
    row.with_context(|| format!("no program {name}; there are {}", all()))
}

fn unpack(package: &str, into: &Path) -> Result<()> {
    debian::unpack(Arch::HERE, package, into).or_else(|_| {
        debian::refresh_lists()?;
        debian::unpack(Arch::HERE, package, into)
    })
}

/// The program is a script that knows where its libraries lie.
fn unpack_with_needs(name: &str, package: &str, file: &str, into: &Path) -> Result<()> {
    debian::refresh_lists()?;
    debian::Archive::system().unpack_with_needs(&[package], &into.join("root"))?;
    let script = format!(
        "#!/bin/sh\nroot=$(dirname \"$(readlink -f \"$0\")\")/root\n\
         export LD_LIBRARY_PATH=\"{}\"\nexec \"$root/{file}\" \"$@\"\n",
        debian::library_path(Path::new("$root")).display()
    );
    cache::script(&into.join(name), &script)
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

/// Optimised as little as it can be: it takes longer to build than it will ever run. In one folder, since they share much.
fn install(program: &str, version: &str, into: &Path) -> Result<()> {
    run(Command::new("cargo")
        .args(["install", program, "--quiet", "--locked", "--debug", "--version", version, "--root"])
        .arg(into)
        .arg("--target-dir")
        .arg(cache::target()?.join("peers"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .current_dir("/"))
}

/// Debian's essential packages and these, by the system's own sources.
fn bootstrap(packages: &[&str], into: &Path) -> Result<()> {
    for folder in ["root", "over"] {
        fs::create_dir_all(into.join(folder))?;
    }
    let sources = into.join("sources.list");
    fs::write(&sources, debian::sources()?)?;
    let mut command = Command::new(find("mmdebstrap")?);
    command.args(["--quiet", "--variant=essential", "--include", &packages.join(",")]);
    run(command.arg(debian::release()?).arg(into.join("root")).arg(&sources))?;
    cache::script(&into.join("enter"), ENTER)
}

/// The system lies below a file system in memory, in a mount namespace that ends with the command, and has no network.
const ENTER: &str = r#"#!/bin/sh
set -e
here=$(dirname "$(readlink -f "$0")")
folder=$(readlink -f "$1")
shift
[ "$(id -u)" = 0 ] || user=--map-root-user
exec unshare $user --mount --net --pid --fork --kill-child sh -ec '
here=$1 folder=$2
shift 2
mount -t tmpfs none "$here/over"
mkdir "$here/over/upper" "$here/over/work" "$here/over/all"
mount -t overlay -o "lowerdir=$here/root,upperdir=$here/over/upper,workdir=$here/over/work" none "$here/over/all"
mount -t proc proc "$here/over/all/proc"
mount --bind "$folder" "$here/over/all/mnt"
exec chroot "$here/over/all" env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
' enter "$here" "$folder" "$@"
"#;
