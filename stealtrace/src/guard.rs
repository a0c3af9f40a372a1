//! `stealtrace guard`: put the guest's counter back when KVM is about to let a corrupt one be seen. The judging and the
//! writing are done in the kernel, on the vCPU's own thread; this asks, attaches, and tells of every repair.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use stealtrace_common::{
    event::{Event, EventKind},
    target::{GuardOrders, Volume},
};

use crate::{
    backend::{self, BackendKind, EbpfBackend, Plan, Processes, Task},
    exit::Exit,
    kernel::{Capability, KernelFacts, Lockdown},
    model::{Pid, Thread},
    os::{
        command::{HeldCommand, Orphaned, RunningCommand},
        interrupt::Interrupt,
        output::Output,
        process,
        talk::{remark, say},
    },
    report::{Format, Paint, Tone, utc_now},
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
pub fn guard(options: &GuardOptions, out: Output) -> Result<Exit> {
    let facts = KernelFacts::gather(&[]);
    facts.require_traceable()?;
    let problem = if options.dry_run { unseen(&facts) } else { problem(&facts)? };
    if let Some(problem) = problem {
        bail!("guard cannot run here: {problem}");
    }
    if !options.dry_run && !options.yes {
        ask()?;
    }
    process::require_alive(&options.pids, None)?;
    let interrupt = Interrupt::block()?;
    let held = HeldCommand::hold(&options.command, Orphaned::RunsOn)?;
    let processes = match &held {
        Some(held) => Processes::Tree(held.pid()),
        None => Processes::named(&options.pids),
    };
    let mut backend = EbpfBackend::attach(&plan(options, processes), &facts)?;
    drop(facts);
    let mut interrupted = interrupt.came();
    let mut command = held.filter(|_| !interrupted).map(HeldCommand::release).transpose()?;
    let verb = if options.dry_run { "watching, nothing is written" } else { "guarding" };
    let until = if command.is_some() { "until the command ends" } else { "Ctrl-C ends it" };
    remark(&format!("{verb}; {until}"));
    let mut told = Told::new(options, out);
    while !interrupted {
        interrupted |= interrupt.wait(TICK);
        told.drain(&mut backend)?;
        let ended = match &mut command {
            Some(command) => command.has_ended()?,
            None => process::all_ended(&options.pids),
        };
        if interrupted || ended {
            break;
        }
    }
    backend.detach();
    told.drain(&mut backend)?;
    // A terminal's Ctrl-C reaches the command too; it may be the first to end.
    interrupted |= interrupt.wait(TICK);
    let failure = command.and_then(RunningCommand::failure_so_far).filter(|_| !interrupted);
    told.end(backend.losses()?.total(), failure)
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
    let orders = GuardOrders {
        write: u32::from(!options.dry_run),
        over_charge: u32::from(options.over_charge),
        heal: u32::from(options.heal),
        reserved: 0,
    };
    Plan {
        task: Task::Guard(orders),
        verbose: options.verbose,
        ..Plan::of(BackendKind::Kprobe, processes, Volume::Edges, RING_BYTES)
    }
}

/// What was told so far.
struct Told {
    format: Format,
    dry_run: bool,
    repaired: u64,
    left: u64,
    /// Guests are guarded all the same where nobody reads it.
    out: Output,
}

impl Told {
    const fn new(options: &GuardOptions, out: Output) -> Self {
        Self { format: options.format, dry_run: options.dry_run, repaired: 0, left: 0, out }
    }

    fn drain(&mut self, backend: &mut EbpfBackend) -> Result<()> {
        let mut lines = String::new();
        backend.drain(usize::MAX, |event| {
            lines.push_str(&self.tell(event));
            true
        });
        self.print(&lines)
    }

    fn print(&mut self, lines: &str) -> Result<()> {
        self.out.write_all(lines.as_bytes()).and_then(|()| self.out.flush()).context("write the repairs")
    }

    fn tell(&mut self, event: &Event) -> String {
        let repaired = event.kind == EventKind::Repaired as u32;
        *(if repaired { &mut self.repaired } else { &mut self.left }) += 1;
        let (verb, tone) = match (repaired, self.dry_run) {
            (true, _) => ("repaired", Tone::Good),
            (false, true) => ("would repair", Tone::Doubtful),
            (false, false) => ("FAILED to repair", Tone::Bad),
        };
        let delta = event.delta().signed_ns();
        let (corrupt, good) = (event.steal_after_ns, event.steal_before_ns);
        let version = event.version_after;
        let line = match self.format {
            Format::Text => format!(
                "{} vCPU {}/{} on {}: guest steal {corrupt} ns ({corrupt:#x}) -> {good} ns, version {version} -> {}, \
                 the delta was {delta} ns",
                Paint::of(&self.out).text(verb, tone),
                Pid(event.vm_tgid),
                event.vcpu_id,
                Thread::caller(event),
                version.wrapping_add(2),
            ),
            Format::Json => json!({
                "type": "repair",
                "schema": 1,
                "utc": utc_now(),
                "written": repaired,
                "vm_pid": event.vm_tgid,
                "vcpu_id": event.vcpu_id,
                "caller_tid": event.caller_tid,
                "caller": Thread::caller(event).comm,
                "delta_ns": delta,
                "steal_corrupt_ns": corrupt,
                "steal_good_ns": good,
                "version_corrupt": version,
                "version_good": version.wrapping_add(2),
            })
            .to_string(),
        };
        line + "\n"
    }

    fn end(mut self, lost: u64, failure: Option<String>) -> Result<Exit> {
        let Self { repaired, left, .. } = self;
        let sum = match self.format {
            Format::Text if self.dry_run => format!("{left} to repair, lost: {lost}\n"),
            Format::Text => format!("{repaired} repaired, {left} not, lost: {lost}\n"),
            Format::Json => {
                let sum =
                    json!({"type": "summary", "schema": 1, "repaired": repaired, "left": left, "lost": lost});
                format!("{sum}\n")
            }
        };
        self.print(&sum)?;
        if let Some(failure) = &failure {
            say(&format!("the command failed: {failure}"));
        }
        Ok(match left {
            0 if lost > 0 || failure.is_some() => Exit::Inconclusive,
            0 => Exit::Clean,
            _ => Exit::Found,
        })
    }
}
