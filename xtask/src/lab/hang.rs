//! What a lab guest that hangs was doing: asked of itself, if it still answers, and of its emulator.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::watch::wait_for;
use crate::process::say;

/// How long the lab guest may take to list its threads.
const ANSWER: Duration = Duration::from_secs(60);

/// QEMU's monitor answers at once, if at all.
const MONITOR: Duration = Duration::from_secs(3);

/// Where the processor is: a few looks tell a loop from a halt.
const PROCESSOR: [&str; 5] =
    ["info registers -a", "info registers -a", "info registers -a", "info lapic", "info pic"];

/// The kernel's own list of what every thread does, for a guest that runs no programs any more.
const KERNELS_LIST: [&str; 3] = ["sendkey alt-sysrq-9", "sendkey alt-sysrq-l", "sendkey alt-sysrq-t"];

/// Whom to ask.
pub(super) struct Asked<'a> {
    /// What the lab guest says on its control port.
    pub(super) heard: &'a Receiver<String>,
    /// To speak to it.
    pub(super) control: UnixStream,
    /// The emulator's.
    pub(super) monitor: UnixStream,
    /// Where the answers come.
    pub(super) console: &'a Path,
}

/// Ask everybody, say it, and keep it in a file, since the next boot's console takes the place of this one's. How the
/// guest hung, and where that file is.
pub(super) fn tell(asked: Asked<'_>, name: &str, how: &str) -> String {
    let file = free_name(asked.console);
    let told = answers(asked).and_then(|answers| {
        let text = format!("{name} {how}\n{answers}");
        say(&text);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    });
    match told {
        Ok(()) => format!("{how}; what everybody did: {}", file.display()),
        Err(error) => format!("{how}; what everybody did is not known: {error:#}"),
    }
}

fn answers(Asked { heard, mut control, mut monitor, console }: Asked<'_>) -> Result<String> {
    let _greeting = answer(&mut monitor)?;
    let mut text = "\n== the processor, says QEMU's monitor\n".to_owned();
    for command in PROCESSOR {
        text += &ask(&mut monitor, command)?;
    }
    control.write_all(b"report\n").context("ask the lab guest")?;
    if wait_for(heard, "reported", ANSWER).is_err() {
        text += "\n(the lab guest does not answer; its kernel was asked)\n";
        for command in KERNELS_LIST {
            text += &ask(&mut monitor, command)?;
            thread::sleep(MONITOR);
        }
    }
    let log = fs::read(console).unwrap_or_default();
    Ok(format!("{text}\n== the lab guest's console\n{}", String::from_utf8_lossy(&log)))
}

fn ask(monitor: &mut UnixStream, command: &str) -> Result<String> {
    writeln!(monitor, "{command}").context("ask QEMU's monitor")?;
    let told = answer(monitor)?;
    thread::sleep(Duration::from_millis(200)); // the next look is another
    Ok(format!("\n-- {command}\n{}\n", readable(&told)))
}

/// What the monitor prints until it waits for the next command, or does not go on.
fn answer(monitor: &mut UnixStream) -> Result<String> {
    monitor.set_read_timeout(Some(MONITOR))?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !text.ends_with(b"(qemu) ")
        && let Ok(length @ 1..) = monitor.read(&mut buffer)
    {
        text.extend_from_slice(&buffer[..length]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Registers that say nothing of where a processor hangs, by how their lines begin.
const SAY_NOTHING: [&str; 5] = ["YMM", "XMM", "FPR", "FCW", "DR"];

/// Without those, and without the echo of what was typed, which the monitor edits with control sequences.
fn readable(text: &str) -> String {
    let is_noise = |line: &str| {
        line.contains('\u{1b}')
            || line.starts_with("(qemu)")
            || SAY_NOTHING.iter().any(|begin| line.starts_with(begin))
    };
    text.lines().map(str::trim_end).filter(|line| !is_noise(line)).collect::<Vec<_>>().join("\n")
}

fn free_name(console: &Path) -> PathBuf {
    let names = (1..).map(|number| console.with_extension(format!("hang-{number}")));
    names.into_iter().find(|name| !name.exists()).unwrap_or_else(|| console.with_extension("hang"))
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn the_monitors_echo_and_idle_registers_are_left_out() {
        let told = "i\u{1b}[K\u{1b}[Dinfo pic\r\npic0: irr=00\r\nXMM00=0 0\r\n(qemu) ";
        assert_eq!(readable(told), "pic0: irr=00");
    }
}
