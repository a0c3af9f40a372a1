//! `stealtrace guard`: put the guest's counter back when KVM is about to let a corrupt one be seen. The judging and the
//! writing are done in the kernel, on the vCPU's own thread; this asks, attaches, and tells of every repair.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write},
    time::Duration,
};

use anyhow::{Result, bail};
use serde_json::json;
use stealtrace_common::{
    event::{Event, EventKind},
    steal::StealDelta,
    target::{GuardOrders, Volume},
};

use crate::{
    backend::{self, BackendKind, EbpfBackend, Plan, Processes},
    command::HeldCommand,
    exit::Exit,
    interrupt::Interrupt,
    kernel::{Capability, KernelFacts, Lockdown},
    model::Thread,
    report::Format,
};

/// Between two looks for repairs to tell of.
const TICK: Duration = Duration::from_millis(50);
const RING_BYTES: u32 = 1 << 20;

/// Whose counters to guard, and how.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// Only these processes; all if empty.
    pub pids: Vec<u32>,
    /// Say what would be written, write nothing.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
    /// Put back over-charges too.
    pub over_charge: bool,
    /// Re-base counters that were poisoned before.
    pub heal: bool,
    /// How to tell of repairs.
    pub format: Format,
    /// A command to run and guard; empty for none.
    pub command: Vec<String>,
    /// Show the kernel side's diagnostics?
    pub verbose: bool,
}

/// Guard until told to stop.
///
/// # Errors
/// When this kernel has no place for it or refuses it, or the user does.
pub fn guard(options: &GuardOptions) -> Result<Exit> {
    let facts = KernelFacts::gather(&[])?;
    facts.require_traceable()?;
    let problem = if options.dry_run { unseen(&facts) } else { problem(&facts)? };
    if let Some(problem) = problem {
        bail!("guard cannot run here: {problem}");
    }
    if !options.dry_run && !options.yes {
        ask()?;
    }
    let held = HeldCommand::hold(&options.command)?;
    let processes = match &held {
        Some(held) => Processes::Tree(held.pid()),
        None if options.pids.is_empty() => Processes::All,
        None => Processes::These(options.pids.clone()),
    };
    let mut backend = EbpfBackend::attach(&plan(options, processes), &facts)?;
    drop(facts);
    let mut command = held.map(HeldCommand::release).transpose()?;
    let interrupt = Interrupt::block()?;
    say(if options.dry_run { "watching; nothing is written" } else { "guarding; Ctrl-C ends it" });
    let mut told = Told { format: options.format, dry_run: options.dry_run, repaired: 0, left: 0 };
    loop {
        let over = interrupt.wait(TICK);
        told.drain(&mut backend)?;
        let ended = command.as_mut().map(|command| command.has_ended()).transpose()?.unwrap_or(false);
        if over || ended {
            break;
        }
    }
    if let Some(command) = command {
        command.end()?;
    }
    backend.detach();
    told.drain(&mut backend)?;
    told.end(backend.losses()?.total())
}

/// Why guard cannot write here.
pub(crate) fn problem(facts: &KernelFacts) -> Result<Option<String>> {
    if facts.lockdown == Lockdown::Integrity {
        let problem = "the kernel is locked down (integrity) and lets nobody write to a guest's memory; boot with lockdown=none";
        return Ok(Some(problem.to_owned()));
    }
    if !Capability::SysAdmin.is_held()? {
        return Ok(Some("writing to a guest's memory needs CAP_SYS_ADMIN; run as root".to_owned()));
    }
    Ok(unseen(facts))
}

/// Why it cannot even see what it would write.
fn unseen(facts: &KernelFacts) -> Option<String> {
    backend::guard_problem(facts)
        .map(|problem| format!("{problem}; it needs one right before and after KVM's write"))
}

fn ask() -> Result<()> {
    let question = "guard writes to guests' memory: 8 bytes of steal and 4 of version, where KVM's update corrupted them";
    if !io::stdin().is_terminal() {
        bail!("{question}; --yes says that this is wanted, --dry-run only shows it");
    }
    write!(io::stderr(), "stealtrace: {question}. Go on? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("not wanted");
    }
    Ok(())
}

fn plan(options: &GuardOptions, processes: Processes) -> Plan {
    Plan {
        kind: BackendKind::Kprobe,
        processes,
        tid: None,
        vcpu_id: None,
        comm: None,
        volume: Volume::Edges,
        functions: Vec::new(),
        ring_bytes: RING_BYTES,
        guard: Some(GuardOrders {
            write: u32::from(!options.dry_run),
            over_charge: u32::from(options.over_charge),
            heal: u32::from(options.heal),
            reserved: 0,
        }),
        floor: false,
        verbose: options.verbose,
    }
}

fn say(what: &str) {
    let _unheard = writeln!(io::stderr(), "stealtrace: {what}");
}

/// What was told so far.
struct Told {
    format: Format,
    dry_run: bool,
    repaired: u64,
    left: u64,
}

impl Told {
    fn drain(&mut self, backend: &mut EbpfBackend) -> Result<()> {
        let mut lines = String::new();
        backend.drain(usize::MAX, |event| {
            lines.push_str(&self.tell(event));
            true
        });
        Ok(io::stdout().write_all(lines.as_bytes())?)
    }

    fn tell(&mut self, event: &Event) -> String {
        let repaired = event.kind == EventKind::Repaired as u32;
        *(if repaired { &mut self.repaired } else { &mut self.left }) += 1;
        let verb = match (repaired, self.dry_run) {
            (true, _) => "repaired",
            (false, true) => "would repair",
            (false, false) => "FAILED to repair",
        };
        let delta = StealDelta::between(event.last_steal_before_ns, event.run_delay_ns).signed_ns();
        let (corrupt, good) = (event.steal_after_ns, event.steal_before_ns);
        let line = match self.format {
            Format::Text => format!(
                "{verb} vCPU {}/{} on {}: guest steal {corrupt} ns ({corrupt:#x}) -> {good} ns, the delta was {delta} ns",
                event.vm_tgid,
                event.vcpu_id,
                Thread::caller(event),
            ),
            Format::Json => json!({
                "type": "repair",
                "schema": 1,
                "written": repaired,
                "vm_pid": event.vm_tgid,
                "vcpu_id": event.vcpu_id,
                "caller_tid": event.caller_tid,
                "caller": Thread::caller(event).comm,
                "delta_ns": delta,
                "steal_corrupt_ns": corrupt,
                "steal_good_ns": good,
            })
            .to_string(),
        };
        line + "\n"
    }

    fn end(&self, lost: u64) -> Result<Exit> {
        let Self { repaired, left, .. } = self;
        match self.format {
            Format::Text if self.dry_run => writeln!(io::stdout(), "{left} to repair, lost: {lost}")?,
            Format::Text => writeln!(io::stdout(), "{repaired} repaired, {left} not, lost: {lost}")?,
            Format::Json => writeln!(
                io::stdout(),
                "{}",
                json!({"type": "summary", "schema": 1, "repaired": repaired, "left": left, "lost": lost})
            )?,
        }
        Ok(match (left, lost) {
            (0, 0) => Exit::Clean,
            (0, _) => Exit::Inconclusive,
            _ => Exit::Found,
        })
    }
}
