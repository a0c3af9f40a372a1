//! QEMU's machine protocol: one command at a time, events passed over (`docs/interop/qmp-spec.rst`).

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// A connection to a QEMU.
pub(crate) struct Qmp {
    replies: BufReader<UnixStream>,
    commands: UnixStream,
}

impl Qmp {
    /// Connect to this socket and agree on the protocol; fails while nobody listens.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let commands = UnixStream::connect(socket).context("connect to QEMU")?;
        let mut qmp = Self { replies: BufReader::new(commands.try_clone()?), commands };
        let _greeting = qmp.line()?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// What QEMU returns to a command.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        writeln!(self.commands, "{}", json!({"execute": command, "arguments": arguments}))?;
        loop {
            let mut reply = self.line()?;
            if !reply["error"].is_null() {
                bail!("QEMU refuses {command}: {}", reply["error"]["desc"]);
            }
            if let Some(answer) = reply.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// A command without arguments.
    pub(crate) fn tell(&mut self, command: &str) -> Result<Value> {
        self.ask(command, &json!({}))
    }

    /// What the monitor for people says.
    pub(crate) fn monitor(&mut self, line: &str) -> Result<String> {
        let answer = self.ask("human-monitor-command", &json!({"command-line": line}))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.replies.read_line(&mut line).context("read what QEMU says")? == 0 {
            bail!("QEMU ended");
        }
        serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))
    }
}
