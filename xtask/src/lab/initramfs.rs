//! The lab guest's root: busybox, kvm's modules, stealtrace, and an init that runs one command.
//! Written as a "newc" archive by ourselves, since device nodes need no root there.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::package::KernelFiles;
use crate::{arch::Arch, cache, debian};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Mounts, loads kvm, does `action`, powers off. Serial ports beside the console: 1 stdout, 2 stderr, 3 control.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/ TERM=vt100
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
mount -t tmpfs tmp /tmp
for port in 1 2 3; do stty -F /dev/ttyS$port raw -echo; done
BEATS
for module in $(cat /modules/order); do
    dmesg -c > /dev/null
    insmod /modules/$module.ko 2> /tmp/why && continue
    echo "the module $module does not load: $(cat /tmp/why); the kernel says: $(dmesg | tail -n 3 | tr '\n' ';')" | tee -a /tmp/refused
done
rm -f /tmp/why
if [ ! -c /dev/kvm ]; then
    echo "refused $(cat /tmp/refused || echo 'kvm is neither built in nor among the modules')" | tr '\n' ' ' > /dev/ttyS3
    echo > /dev/ttyS3
    sleep 1
    poweroff -f
fi
rm -f /tmp/refused
ACTION
poweroff -f
"#;

const RUN: &str = r#"COLOR
echo booted > /dev/ttyS3
sh /command < /dev/null > /dev/ttyS1 2> /dev/ttyS2
code=$?
sync
echo "exit $code" > /dev/ttyS3
sleep 1"#;

/// Says now and then that it lives and what was written, and what everybody does when asked. The kernel's threads are
/// many and mostly idle: of those only a line.
const BEATS: &str = r#"echo 1 > /proc/sys/kernel/sysrq
report() {
    echo "== threads: id, name, state, ns run and waited, where it sleeps, system call"
    for task in /proc/[0-9]*/task/[0-9]*; do
        echo "${task##*/} $(sed 's/.*(\(.*\)) \(.\).*/\1 \2/' $task/stat) $(cut -d' ' -f1-2 $task/schedstat)"             "$(cat $task/wchan) $(cat $task/syscall)"
        [ -z "$(tr -d '\000' < $task/cmdline)" ] || sed 's/^/        /' $task/stack
    done
    echo "== interrupts and files"
    cat /proc/uptime /proc/loadavg /proc/interrupts
    ls -l /tmp /report 2> /dev/null
    for file in /tmp/console /report/*; do
        [ -f "$file" ] && echo "== the end of $file" && tail -n 30 "$file"
    done
}
(while sleep 3; do echo "alive $(stat -c '%n %s' /tmp/* | cksum)"; done > /dev/ttyS3 2> /dev/null) &
(while read -r ask; do [ "$ask" != report ] || { report > /dev/CONSOLE 2>&1; echo reported > /dev/ttyS3; }; done < /dev/ttyS3) &"#;

const SHELL: &str = "setsid -c sh < /dev/CONSOLE > /dev/CONSOLE 2>&1";

/// What the lab guest does once it is up.
pub(crate) enum Action {
    /// Run this shell script.
    Script(String),
    /// Give the user a shell.
    Shell,
}

/// A file of this machine, and where it lies in the archive.
pub(crate) struct Extra {
    pub(crate) file: PathBuf,
    pub(crate) at: String,
}

/// Write the archive.
pub(crate) fn write(
    file: &Path,
    kernel: &KernelFiles,
    stealtrace: &Path,
    action: &Action,
    beats: bool,
    extras: &[Extra],
) -> Result<()> {
    let mut archive = Archive::with_busybox(file, kernel.processor.arch())?;
    archive.add("modules", FOLDER, &[], (0, 0))?;
    add_extras(&mut archive, extras)?;
    archive.add("bin/stealtrace", PROGRAM, &read(stealtrace)?, (0, 0))?;
    add_modules(&mut archive, kernel)?;
    let (script, action) = match action {
        Action::Script(script) => (script.as_str(), RUN),
        Action::Shell => ("", SHELL),
    };
    // The lab guest's serial line is a terminal; what it leads to may not be.
    let color = if io::stdout().is_terminal() { "" } else { "export NO_COLOR=1" };
    let beats = if beats { BEATS } else { "" };
    archive.add("command", PROGRAM, script.as_bytes(), (0, 0))?;
    archive.add(
        "init",
        PROGRAM,
        INIT.replace("ACTION", action)
            .replace("COLOR", color)
            .replace("BEATS", beats)
            .replace("CONSOLE", kernel.processor.console())
            .as_bytes(),
        (0, 0),
    )?;
    archive.finish()
}

/// An archive with busybox, these files and this init, for a guest of the lab guest.
pub(crate) fn write_bare(file: &Path, arch: Arch, init: &str, extras: &[Extra]) -> Result<()> {
    let mut archive = Archive::with_busybox(file, arch)?;
    add_extras(&mut archive, extras)?;
    archive.add("init", PROGRAM, init.as_bytes(), (0, 0))?;
    archive.finish()
}

fn add_extras(archive: &mut Archive<impl Write>, extras: &[Extra]) -> Result<()> {
    let mut folders = BTreeSet::new();
    for Extra { file, at } in extras {
        let above =
            Path::new(at).ancestors().skip(1).filter_map(Path::to_str).filter(|name| !name.is_empty());
        let missing: Vec<_> =
            above.take_while(|folder| !folders.contains(*folder)).map(str::to_owned).collect();
        for folder in missing.into_iter().rev() {
            archive.add(&folder, FOLDER, &[], (0, 0))?;
            folders.insert(folder);
        }
        archive.add(at, PROGRAM, &read(file)?, (0, 0))?;
    }
    Ok(())
}

const APPLETS: &[&str] = &[
    "sh",
    "mount",
    "stty",
    "insmod",
    "cat",
    "echo",
    "sleep",
    "sync",
    "poweroff",
    "setsid",
    "ls",
    "head",
    "tail",
    "grep",
    "sed",
    "kill",
    "ps",
    "dmesg",
    "wc",
    "test",
    "true",
    "false",
    "timeout",
    "rmmod",
    "mkdir",
    "rm",
    "id",
    "umount",
    "nproc",
    "taskset",
    "top",
    "vi",
    "less",
    "find",
    "sort",
    "uniq",
    "dd",
    "mknod",
    "chmod",
    "cut",
    "env",
    "printf",
    "su",
    "adduser",
    "setuidgid",
    "uname",
    "seq",
    "awk",
    "tr",
    "tee",
    "pidof",
    "date",
    "cp",
    "mv",
    "ln",
    "touch",
    "mkfifo",
    "stat",
    "cksum",
    "xargs",
    "unshare",
];

fn add_modules(archive: &mut Archive<impl Write>, kernel: &KernelFiles) -> Result<()> {
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_stem().and_then(|stem| stem.to_str()).context("a module without name")?;
        order.push_str(name);
        order.push('\n');
        archive.add(&format!("modules/{name}.ko"), PROGRAM, &read(module)?, (0, 0))?;
    }
    archive.add("modules/order", PROGRAM, order.as_bytes(), (0, 0))
}

/// A shell and its tools, in one file.
pub(super) fn busybox(arch: Arch) -> Result<PathBuf> {
    const PACKAGE: &str = "busybox-static";
    let other = if arch == Arch::HERE { String::new() } else { format!("-{}", arch.name()) };
    let folder = cache::made(&format!("lab/{PACKAGE}{other}"), |into| debian::unpack(arch, PACKAGE, into))?;
    let file = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| folder.join(path))
        .into_iter()
        .find(|path| path.exists());
    file.context("busybox-static has no busybox")
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// A "newc" cpio archive (`Documentation/driver-api/early-userspace/buffer-format.rst`).
struct Archive<W> {
    out: W,
    next_inode: u32,
}

impl Archive<io::BufWriter<fs::File>> {
    fn with_busybox(file: &Path, arch: Arch) -> Result<Self> {
        let out = fs::File::create(file).with_context(|| format!("create {}", file.display()))?;
        let mut archive = Self { out: io::BufWriter::new(out), next_inode: 1 };
        for folder in ["bin", "dev", "proc", "sys", "tmp"] {
            archive.add(folder, FOLDER, &[], (0, 0))?;
        }
        archive.add("dev/console", CHARACTER_DEVICE, &[], (5, 1))?;
        archive.add("bin/busybox", PROGRAM, &read(&busybox(arch)?)?, (0, 0))?;
        for applet in APPLETS {
            archive.add(&format!("bin/{applet}"), LINK, b"busybox", (0, 0))?;
        }
        Ok(archive)
    }
}

impl<W: Write> Archive<W> {
    fn add(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) -> Result<()> {
        let header = [
            self.next_inode,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // time
            u32::try_from(content.len())?,
            0, // device of the file system
            0,
            device.0,
            device.1,
            u32::try_from(name.len() + 1)?,
            0, // checksum, unused in this format
        ];
        self.next_inode += 1;
        write!(self.out, "070701")?;
        header.iter().try_for_each(|field| write!(self.out, "{field:08x}"))?;
        self.padded(&[name.as_bytes(), &[0]].concat(), 110)?;
        self.padded(content, 0)
    }

    /// Write, then fill up to a multiple of four, counting `before` bytes already written.
    fn padded(&mut self, bytes: &[u8], before: usize) -> Result<()> {
        self.out.write_all(bytes)?;
        let end = before + bytes.len();
        self.out.write_all(&[0; 3][..end.next_multiple_of(4) - end])?;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.add("TRAILER!!!", 0, &[], (0, 0))?;
        Ok(self.out.flush()?)
    }
}
