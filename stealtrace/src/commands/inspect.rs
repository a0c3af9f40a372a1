//! `stealtrace inspect`: every vCPU of every running VM, and whether its steal counter is sound. Changes nothing.

use std::{thread, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{
    Run, Shared,
    options::{parse_pause, parse_time, that},
};
use crate::{
    exit::Exit,
    kernel::KernelFacts,
    live::vcpus::Vcpus,
    model::{Judgement, Look},
    os::{interrupt::Interrupt, output::Output},
    report::{self, Format, Paint},
};

/// An update that has begun is over by then.
const MOMENT: Duration = Duration::from_millis(50);

/// Every vCPU of every running VM, and whether its steal counter is sound
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Inspect {
    /// Only VMs of this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
    /// Look again after this time, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = parse_pause)]
    watch: Option<Duration>,
    /// Time between the two looks that a judgement takes; 0s for one look
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    wait: Duration,
    #[arg(long, default_value = "text", value_parser = that(Format::shows_states))]
    format: Format,
}

const HELP: &str = help!(
    "  stealtrace inspect                                   every vCPU of every VM
  stealtrace inspect --pid 4711 --watch 1s             one VM, again and again
  stealtrace inspect --wait 0s --format json           one look, which tells only what is impossible",
    "  0  no counter is impossible or counts wrong
  1  one is poisoned or off
  2  cannot look here, or bad usage
  3  one cannot be read or was not seen, or the process has no vCPU"
);

impl Run for Inspect {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let interrupt = Interrupt::block()?;
        let facts = KernelFacts::gather(&[]);
        let vcpus = Vcpus::inspect(interrupt, &facts, &self.pids)?;
        self.inspect(vcpus, &shared.out)
    }
}

impl Inspect {
    fn inspect(&self, mut vcpus: Vcpus, out: &Output) -> Result<Exit> {
        let mut over = vcpus.no_iterator.is_some() && vcpus.rest(self.wait)?;
        if !self.wait.is_zero() {
            vcpus.look_closely()?;
            over |= vcpus.rest(self.wait)?;
        }
        let mut worst = Exit::Clean;
        loop {
            let look = self.look(&mut vcpus)?;
            worst = worst.worse(exit(&look, &self.pids));
            report::inspect::show(&look, self.format, Paint::of(out), &mut out.clone())?;
            match self.watch {
                Some(pause) if !over && !out.is_over() => over = vcpus.rest(pause)?,
                _ => return Ok(worst),
            }
            if vcpus.all_ended() {
                return Ok(worst);
            }
        }
    }

    /// What seems off must seem so a moment later, and once more after the time between two looks.
    fn look(&self, vcpus: &mut Vcpus) -> Result<Look> {
        let mut look = vcpus.look_closely()?;
        if vcpus.any_open() {
            thread::sleep(MOMENT);
            look = vcpus.look_closely()?;
        }
        if vcpus.any_open() {
            vcpus.rest(self.wait)?;
            look = vcpus.look_closely()?;
        }
        Ok(look)
    }
}

/// What a look says.
fn exit(look: &Look, pids: &[u32]) -> Exit {
    if look.any(|judgement| matches!(judgement, Judgement::Poisoned(_) | Judgement::Off(_))) {
        Exit::Found
    } else if look.any(|judgement| matches!(judgement, Judgement::Unknown))
        || !look.unseen.is_empty()
        || (look.none.is_some() && !pids.is_empty())
        || look.lost > 0
    {
        Exit::Inconclusive
    } else {
        Exit::Clean
    }
}
