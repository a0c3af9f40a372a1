//! stealtrace beside the machine: traces that run until they are told to end, and looks.

use std::{
    fs::{self, File},
    process::{Child, Command},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::until;

/// A stealtrace that runs.
pub(crate) struct Witness {
    child: Child,
    /// What it prints.
    file: String,
}

impl Witness {
    /// Start it, and wait until it says that it began. What it prints goes to this file.
    pub(crate) fn start(arguments: &str, begun: &str, file: &str) -> Result<Self> {
        let says = format!("{file}.says");
        let child = Command::new("stealtrace")
            .args(arguments.split(' '))
            .stdout(File::create(file).with_context(|| format!("create {file}"))?)
            .stderr(File::create(&says).with_context(|| format!("create {says}"))?)
            .spawn()
            .context("start stealtrace")?;
        let mut witness = Self { child, file: file.to_owned() };
        until(|| Ok(fs::read_to_string(&says)?.contains(begun) || witness.child.try_wait()?.is_some()))?;
        ensure!(witness.child.try_wait()?.is_none(), "stealtrace {arguments}: {}", fs::read_to_string(says)?);
        Ok(witness)
    }

    /// End it as Ctrl-C does; its exit code, and what it printed.
    pub(crate) fn end(mut self) -> Result<(i32, String)> {
        // SAFETY: a system call without memory; the child is ours and not reaped yet.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGINT) };
        let code = self.child.wait()?.code().unwrap_or(-1);
        Ok((code, fs::read_to_string(&self.file)?))
    }
}

/// What inspect says, for people.
pub(crate) fn inspect() -> Result<String> {
    look(&["inspect", "--wait", "100ms"])
}

/// Its vCPUs.
pub(crate) fn inspected() -> Result<Vec<Value>> {
    let look: Value = serde_json::from_str(&look(&["inspect", "--wait", "100ms", "--format", "json"])?)?;
    Ok(look["vcpus"].as_array().cloned().unwrap_or_default())
}

fn look(arguments: &[&str]) -> Result<String> {
    let output = Command::new("stealtrace").args(arguments).output().context("run stealtrace")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last update of a vCPU in a trace.
pub(crate) fn last_update(trace: &str, vcpu: u64) -> Option<Value> {
    let is_it = |line: &Value| line["type"] == "update" && line["vcpu_id"] == vcpu;
    trace.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).find(is_it)
}
