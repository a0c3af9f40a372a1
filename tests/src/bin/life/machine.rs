//! The machine: QEMU with KVM, and the console of the Linux guest in it.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{arch, qmp::Qmp, until};

const CONSOLE: &str = "/tmp/console";
const SOCKET: &str = "/tmp/qmp";
/// What QEMU itself says is no progress of the guest's, and shown if the lab hangs.
const SAID: &str = "/report/qemu";

/// QEMU, running.
pub(crate) struct Machine {
    qemu: Child,
    pub(crate) qmp: Qmp,
}

impl Machine {
    /// Start it, with these more arguments.
    pub(crate) fn start(more: &[&str]) -> Result<Self> {
        let _absent = fs::remove_file(SOCKET);
        let mut qemu = Command::new(arch::PROGRAM);
        qemu.args(["-L", "/q", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults"])
            .args(arch::MACHINE)
            .args(["-display", "none", "-vga", "none", "-name", "guest=lab,debug-threads=on"])
            .args(["-kernel", "/q/vmlinuz", "-initrd", "/q/guest.cpio"])
            .args(["-append", &format!("console={} loglevel=0 panic=-1 mitigations=off", arch::CONSOLE)])
            .args(["-chardev", &format!("file,id=console,path={CONSOLE},append=on")])
            .args(["-serial", "chardev:console", "-qmp", &format!("unix:{SOCKET},server=on,wait=off")])
            .args(more)
            .stdout(File::create(SAID).context("keep what QEMU says")?)
            .stderr(File::options().append(true).open(SAID)?);
        let mut qemu = qemu.spawn().context("start QEMU")?;
        let mut qmp = None;
        until(|| {
            qmp = Qmp::connect(Path::new(SOCKET)).ok();
            Ok(qmp.is_some() || qemu.try_wait()?.is_some())
        })?;
        let said = || fs::read_to_string(SAID).unwrap_or_default();
        Ok(Self { qmp: qmp.with_context(said)?, qemu })
    }

    /// Write its state to a file, and end it.
    pub(crate) fn save(mut self, file: &str) -> Result<()> {
        self.qmp.tell("stop")?;
        self.qmp.ask("migrate", &json!({"uri": format!("exec:cat > {file}")}))?;
        until(|| Ok(self.qmp.tell("query-migrate")?["status"] == "completed"))?;
        self.end()
    }

    /// The same machine in another QEMU.
    pub(crate) fn restore(file: &str) -> Result<Self> {
        let mut machine = Self::start(&["-incoming", &format!("exec:cat {file}")])?;
        until(|| Ok(machine.qmp.tell("query-status")?["status"] == "paused"))?;
        machine.qmp.tell("cont")?;
        Ok(machine)
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.qmp.tell("quit")?;
        self.qemu.wait().context("wait for QEMU")?;
        Ok(())
    }

    pub(crate) fn unplug(&mut self) -> Result<()> {
        self.qmp.ask("device_del", &json!({"id": "second"})).map(drop)
    }

    pub(crate) fn plug(&mut self) -> Result<()> {
        let second = arch::SECOND.context("no CPU can be plugged in")?;
        self.qmp.monitor(&format!("device_add {second}")).map(drop)
    }

    /// Thread of a vCPU.
    pub(crate) fn thread(&mut self, vcpu: u64) -> Result<u64> {
        let cpus = self.qmp.tell("query-cpus-fast")?;
        let is_it = |cpu: &&Value| cpu["cpu-index"] == vcpu;
        let thread = cpus.as_array().and_then(|cpus| cpus.iter().find(is_it)?["thread-id"].as_u64());
        thread.with_context(|| format!("QEMU has no vCPU {vcpu}: {cpus}"))
    }

    /// Steal and version in the guest's area at this address.
    pub(crate) fn area(&mut self, address: u64) -> Result<(u64, u64)> {
        let said = self.qmp.monitor(&format!("xp /4xw {address:#x}"))?;
        let (_, words) = said.split_once(':').with_context(|| format!("xp says {said:?}"))?;
        let word = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        let words: Vec<_> = words.split_whitespace().filter_map(word).collect();
        let words = words.try_into().ok().with_context(|| format!("xp says {said:?}"))?;
        Ok(arch::area(words))
    }
}

/// Begin with an empty console.
pub(crate) fn clear_console() -> Result<()> {
    fs::write(CONSOLE, "").context("clear the console")
}

fn console() -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(CONSOLE).context("read the console")?).replace('\r', ""))
}

/// Wait for a line with this, from here on.
pub(crate) fn next_said(words: &str) -> Result<()> {
    let known = times(words)?;
    until(|| Ok(times(words)? > known))
}

/// Wait for one, or be content with one that was there before.
pub(crate) fn said(words: &str) -> Result<()> {
    until(|| Ok(times(words)? > 0))
}

/// Without a line that is not whole yet: the next look sees it.
fn whole_lines() -> Result<String> {
    let mut console = console()?;
    console.truncate(console.rfind('\n').map_or(0, |end| end + 1));
    Ok(console)
}

fn times(words: &str) -> Result<usize> {
    Ok(whole_lines()?.lines().filter(|line| line.contains(words)).count())
}

/// What the guest said of itself last: up to its last beat, from the one before.
pub(crate) fn last_beat() -> Result<String> {
    let (mut said, mut last) = (String::new(), String::new());
    for line in whole_lines()?.lines() {
        said += line;
        said.push('\n');
        if line.starts_with("beat") {
            last = std::mem::take(&mut said);
        }
    }
    Ok(last)
}

/// The end of everything that was said, for people.
pub(crate) fn last_words() -> Result<String> {
    Ok(console()? + &fs::read_to_string(SAID).unwrap_or_default())
}
