//! `stealtrace guard`: put the guest's counter back when KVM is about to let a corrupt one be seen. The judging and the
//! writing are done in the kernel, on the vCPU's own thread; this asks, attaches, and tells of every repair.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use stealtrace_common::{
    ring::Repair,
    target::{GuardOrders, Volume},
};

use super::{
    Run, Shared,
    options::{LINES, of},
};
use crate::{
    backend::{self, BackendKind, Plan, Processes, Task},
    exit::Exit,
    kernel::{Capability, KernelFacts, Lockdown},
    live::{Live, Sink},
    model::{Pid, Thread},
    os::{
        command::Orphaned,
        interrupt::Interrupt,
        output::Output,
        talk::{remark, say},
    },
    pipeline::Flow,
    report::{Format, Paint, Tone, utc_now},
};

const RING_BYTES: u32 = 1 << 20;

/// Put the guest's steal counter back when KVM's update corrupted it, before the guest runs
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Guard {
    /// Only VMs of this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
    /// Print what would be written; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before writing to guests' memory
    #[arg(long)]
    yes: bool,
    /// Also put back what an over-charge added
    #[arg(long)]
    over_charge: bool,
    /// Re-base, once per vCPU, a counter that was poisoned before guard began
    #[arg(long)]
    heal: bool,
    #[arg(long, default_value = "text", value_parser = of(&LINES))]
    format: Format,
    /// Run this command, guard it and its children, and end with it
    #[arg(last = true, value_name = "CMD", conflicts_with = "pids")]
    command: Vec<String>,
}

const HELP: &str = help!(
    "  stealtrace guard --dry-run                           what would be written, until Ctrl-C
  stealtrace guard --yes --pid 4711                    keep one VM's guest sound
  stealtrace guard --yes --heal                        re-base counters that were poisoned before",
    "  0  everything corrupt was repaired
  1  something was not, or would have been with --dry-run
  2  cannot run here, or bad usage
  3  inconclusive: an update was missed, or the command failed"
);

impl Run for Guard {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let facts = KernelFacts::gather(&[]);
        facts.require_traceable()?;
        let problem = if self.dry_run { unseen(&facts) } else { problem(&facts)? };
        if let Some(problem) = problem {
            bail!("guard cannot run here: {problem}");
        }
        if !self.dry_run && !self.yes {
            ask()?;
        }
        let interrupt = Interrupt::block()?;
        let command = (&*self.command, Orphaned::RunsOn);
        let mut live = Live::open(interrupt, &facts, self.plan(shared.verbose), command)?;
        drop(facts); // type information is large and has served
        live.release()?;
        let verb = if self.dry_run { "watching, nothing is written" } else { "guarding" };
        let until = if self.command.is_empty() { "Ctrl-C ends it" } else { "until the command ends" };
        remark(&format!("{verb}; {until}"));
        let mut repairs = Repairs::new(&self, shared.out.clone());
        live.follow(None, &mut repairs)?;
        let ended = live.end()?;
        live.drain_rest(&mut repairs)?;
        repairs.end(live.backend.losses()?.total(), ended.and_then(|ended| ended.failure()))
    }
}

impl Guard {
    fn plan(&self, verbose: bool) -> Plan {
        let orders = GuardOrders {
            write: u32::from(!self.dry_run),
            over_charge: u32::from(self.over_charge),
            heal: u32::from(self.heal),
            reserved: 0,
        };
        Plan {
            wanted: Some(BackendKind::Kprobe),
            task: Task::Guard(orders),
            verbose,
            ..Plan::of(Processes::named(&self.pids), Volume::Edges, RING_BYTES)
        }
    }
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

/// What was told so far.
struct Repairs {
    format: Format,
    dry_run: bool,
    repaired: u64,
    left: u64,
    /// Guests are guarded all the same where nobody reads it.
    out: Output,
}

/// Guests are guarded all the same where nobody reads it.
impl Sink for Repairs {
    fn repair(&mut self, repair: &Repair) -> Result<Flow> {
        let line = self.tell(repair);
        self.out.write_all(line.as_bytes()).context("write the repairs")?;
        Ok(Flow::Continue)
    }

    fn tick(&mut self) -> Result<Flow> {
        self.out.flush().context("write the repairs")?;
        Ok(Flow::Continue)
    }
}

impl Repairs {
    const fn new(options: &Guard, out: Output) -> Self {
        Self { format: options.format, dry_run: options.dry_run, repaired: 0, left: 0, out }
    }

    fn tell(&mut self, repair: &Repair) -> String {
        let repaired = repair.written != 0;
        *(if repaired { &mut self.repaired } else { &mut self.left }) += 1;
        let (verb, tone) = match (repaired, self.dry_run) {
            (true, _) => ("repaired", Tone::Good),
            (false, true) => ("would repair", Tone::Doubtful),
            (false, false) => ("FAILED to repair", Tone::Bad),
        };
        let delta = repair.delta().signed_ns();
        let caller = Thread { tid: repair.caller_tid, comm: Thread::name(&repair.comm).into_owned() };
        let Repair { corrupt_ns: corrupt, good_ns: good, version, vm_tgid, vcpu_id, .. } = *repair;
        let line = match self.format {
            Format::Json => json!({
                "type": "repair",
                "schema": 1,
                "utc": utc_now(),
                "written": repaired,
                "vm_pid": vm_tgid,
                "vcpu_id": vcpu_id,
                "caller_tid": caller.tid,
                "caller": caller.comm,
                "delta_ns": delta,
                "steal_corrupt_ns": corrupt,
                "steal_good_ns": good,
                "version_corrupt": version,
                "version_good": version.wrapping_add(2),
            })
            .to_string(),
            _ => format!(
                "{} vCPU {}/{vcpu_id} on {caller}: guest steal {corrupt} ns ({corrupt:#x}) -> {good} ns, version {version} -> {}, \
                 the delta was {delta} ns",
                Paint::of(&self.out).text(verb, tone),
                Pid(vm_tgid),
                version.wrapping_add(2),
            ),
        };
        line + "\n"
    }

    fn end(mut self, lost: u64, failure: Option<String>) -> Result<Exit> {
        let Self { repaired, left, .. } = self;
        let sum = match self.format {
            Format::Json => {
                let sum =
                    json!({"type": "summary", "schema": 1, "repaired": repaired, "left": left, "lost": lost});
                format!("{sum}\n")
            }
            _ if self.dry_run => format!("{left} to repair, lost: {lost}\n"),
            _ => format!("{repaired} repaired, {left} not, lost: {lost}\n"),
        };
        self.out.write_all(sum.as_bytes()).and_then(|()| self.out.flush()).context("write the repairs")?;
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
