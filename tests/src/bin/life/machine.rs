//! The machine: QEMU with KVM, and the console of the Linux guest in it.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{qmp::Qmp, until};

const CONSOLE: &str = "/tmp/console";
const SOCKET: &str = "/tmp/qmp";
/// What QEMU itself says is no progress of the guest's, and shown if the lab hangs.
const SAID: &str = "/report/qemu";
const SECOND: &str = "host-x86_64-cpu,id=second,socket-id=1,core-id=0,thread-id=0";

/// QEMU, running.
pub(crate) struct Machine {
    qemu: Child,
    pub(crate) qmp: Qmp,
}

impl Machine {
    /// Start it, with these more arguments.
    pub(crate) fn start(more: &[&str]) -> Result<Self> {
        let _absent = fs::remove_file(SOCKET);
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-L",
            "/q",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-machine",
            "pc",
            "-m",
            "256",
            "-nodefaults",
        ])
        .args(["-display", "none", "-vga", "none", "-name", "guest=lab,debug-threads=on"])
        .args(["-smp", "1,sockets=2,cores=1,threads=1,maxcpus=2", "-device", SECOND])
        .args(["-kernel", "/q/vmlinuz", "-initrd", "/q/guest.cpio"])
        .args(["-append", "console=ttyS0 loglevel=0 panic=-1 mitigations=off"])
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
        self.qmp.monitor(&format!("device_add {SECOND}")).map(drop)
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
        let [low, high, version, _flags] = words[..] else { anyhow::bail!("xp says {said:?}") };
        Ok((high << 32 | low, version))
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

/// Whole lines only: the next look sees the rest.
fn times(words: &str) -> Result<usize> {
    let console = console()?;
    let (whole, _rest) = console.rsplit_once('\n').unwrap_or_default();
    Ok(whole.lines().filter(|line| line.contains(words)).count())
}

/// What the guest said of itself last: up to its last beat, from the one before.
pub(crate) fn last_beat() -> Result<String> {
    let (mut said, mut last) = (String::new(), String::new());
    for line in console()?.lines() {
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
