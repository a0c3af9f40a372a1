//! Processes that somebody named: are they there?

use std::fs;

use anyhow::{Result, bail};

/// Does this process run? One that waits to be reaped does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Every one of them must run.
pub(crate) fn require_alive(pids: &[u32]) -> Result<()> {
    match pids.iter().find(|pid| !is_alive(**pid)) {
        Some(pid) => bail!("no process {pid}; `pgrep -l qemu` lists candidates"),
        None => Ok(()),
    }
}

/// Have all of them ended, if there are any?
pub(crate) fn all_ended(pids: &[u32]) -> bool {
    !pids.is_empty() && !pids.iter().any(|pid| is_alive(*pid))
}
