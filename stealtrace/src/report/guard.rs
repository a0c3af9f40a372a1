//! guard's repairs, a line each, and their sum.

use std::io::{self, Write as _};

use serde_json::json;
use stealtrace_common::{ring::Repair, source::here};

use super::{Format, Paint, SCHEMA, States, Tone, utc_now};
use crate::{
    model::{Pid, Thread},
    os::output::Output,
};

/// Prints them as they happen.
pub(crate) struct Repairs {
    format: Format,
    dry_run: bool,
    out: Output,
}

/// The area's, where it has any.
fn versions(before: u32) -> String {
    match before.wrapping_add(here::VERSIONS) {
        after if after == before => String::new(),
        after => format!(" version {before} -> {after},"),
    }
}

impl Repairs {
    pub(crate) const fn new(format: Format, dry_run: bool, out: Output) -> Self {
        Self { format, dry_run, out }
    }

    pub(crate) fn repair(&mut self, repair: &Repair) -> io::Result<()> {
        let line = self.line(repair);
        writeln!(self.out, "{line}")
    }

    fn line(&self, repair: &Repair) -> String {
        let written = repair.written != 0;
        let (verb, tone) = match (written, self.dry_run) {
            (true, _) => ("repaired", Tone::Good),
            (false, true) => ("would repair", Tone::Doubtful),
            (false, false) => ("FAILED to repair", Tone::Bad),
        };
        let delta = repair.delta().signed_ns();
        let caller = Thread { tid: repair.caller_tid, comm: Thread::name(&repair.comm).into_owned() };
        let Repair { corrupt_ns: corrupt, good_ns: good, version, vm_tgid, vcpu_id, .. } = *repair;
        match self.format.states() {
            States::Json => json!({
                "type": "repair",
                "schema": SCHEMA,
                "utc": utc_now(),
                "written": written,
                "vm_pid": vm_tgid,
                "vcpu_id": vcpu_id,
                "caller_tid": caller.tid,
                "caller": caller.comm,
                "delta_ns": delta,
                "steal_corrupt_ns": corrupt,
                "steal_good_ns": good,
                "version_corrupt": version,
                "version_good": version.wrapping_add(here::VERSIONS),
            })
            .to_string(),
            States::Text => format!(
                "{} vCPU {}/{vcpu_id} on {caller}: guest steal {corrupt} ns ({corrupt:#x}) -> {good} ns,{} \
                 the delta was {delta} ns",
                Paint::of(&self.out).text(verb, tone),
                Pid(vm_tgid),
                versions(version),
            ),
        }
    }

    pub(crate) fn sum(&mut self, repaired: u64, left: u64, lost: u64) -> io::Result<()> {
        let sum = match self.format.states() {
            States::Json => {
                json!({"type": "summary", "schema": SCHEMA, "repaired": repaired, "left": left, "lost": lost})
                    .to_string()
            }
            States::Text if self.dry_run => {
                format!("{left} to repair, lost: {lost}")
            }
            States::Text => {
                format!("{repaired} repaired, {left} not, lost: {lost}")
            }
        };
        writeln!(self.out, "{sum}")?;
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
