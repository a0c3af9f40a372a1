//! `stealtrace load`: what bench and tests watch.

use std::{io::Write as _, time::Duration};

use anyhow::Result;
use clap::{Args, builder::RangedU64ValueParser};

use super::{Run, Shared, options::parse_time};
use crate::{
    exit::Exit,
    vmm::{self, Work},
};

/// Issue vCPU ioctls flat out and say how long one takes, to measure what watching costs
#[derive(Args, Debug)]
#[command(hide = true)]
pub(super) struct Load {
    #[arg(value_enum)]
    work: Work,
    /// vCPUs at once
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    vcpus: usize,
    /// vCPUs that exist beside them and do nothing
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(..=1_000_000))]
    idle: usize,
    /// Leave the guest's counter as an underflow does: a second below 2^64
    #[arg(long)]
    poison: bool,
    /// Guests of Xen
    #[arg(long)]
    xen: bool,
    #[arg(long, default_value = "1s", value_parser = parse_time)]
    duration: Duration,
}

impl Run for Load {
    /// Nanoseconds per call, the mean of all vCPUs, and how many calls there were.
    fn run(self, shared: &Shared) -> Result<Exit> {
        let _idle = vmm::Idle::new(self.idle)?;
        let guest = vmm::Guest { poisoned: self.poison, of_xen: self.xen };
        let done = vmm::load(self.work, self.vcpus, guest, self.duration)?;
        let per_call = |done: &vmm::Done| done.time.as_secs_f64() * 1e9 / done.calls as f64;
        let mean = done.iter().map(per_call).sum::<f64>() / done.len() as f64;
        let calls: u64 = done.iter().map(|done| done.calls).sum();
        writeln!(shared.out.clone(), "{mean:.1} {calls}")?;
        Ok(Exit::Clean)
    }
}
