//! `stealtrace guard`: put the guest's counter back when KVM is about to let a corrupt one be seen. The judging and the
//! writing are done in the kernel, on the vCPU's own thread; this asks, attaches, and tells of every repair.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use stealtrace_common::{
    ring::Repair,
    source::here,
    target::{GuardOrders, Volume},
};

use super::{
    Run, Shared,
    options::{BackendChoice, that},
};
use crate::{
    backend::{self, Plan, Processes, Task},
    exit::Exit,
    kernel::{Capability, KernelFacts, Lockdown},
    live::{Live, Sink},
    os::{
        command::Orphaned,
        interrupt::Interrupt,
        talk::{remark, say},
    },
    pipeline::Flow,
    report::{self, Format},
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
    /// How to see KVM's updates
    #[arg(long, default_value = "auto", value_parser = that(BackendChoice::sees_functions))]
    backend: BackendChoice,
    #[arg(long, default_value = "text", value_parser = that(Format::shows_states))]
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
        live.release()?;
        let verb = if self.dry_run { "watching, nothing is written" } else { "guarding" };
        let until = if self.command.is_empty() { "Ctrl-C ends it" } else { "until the command ends" };
        let spared = if facts.shows_xen() { "; guests of Xen are left alone" } else { "" };
        remark(&format!("{verb}{spared}; {until}"));
        let report = report::guard::Repairs::new(self.format, self.dry_run, shared.out.clone());
        let mut repairs = Repairs { report, repaired: 0, left: 0 };
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
            wanted: self.backend.into(),
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
    let and_version = if here::VERSIONS == 0 { "" } else { " and 4 of version" };
    let question = format!(
        "guard writes to guests' memory: 8 bytes of steal{and_version}, where KVM's update corrupted them"
    );
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

/// Guests are guarded all the same where nobody reads it.
impl Sink for Repairs {
    fn repair(&mut self, repair: &Repair) -> Result<Flow> {
        *(if repair.written != 0 { &mut self.repaired } else { &mut self.left }) += 1;
        self.report.repair(repair).context("write the repairs")?;
        Ok(Flow::Continue)
    }

    fn tick(&mut self) -> Result<Flow> {
        self.report.flush().context("write the repairs")?;
        Ok(Flow::Continue)
    }
}

/// What was told so far.
struct Repairs {
    report: report::guard::Repairs,
    repaired: u64,
    left: u64,
}

impl Repairs {
    fn end(mut self, lost: u64, failure: Option<String>) -> Result<Exit> {
        let Self { repaired, left, .. } = self;
        self.report.sum(repaired, left, lost).context("write the repairs")?;
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
