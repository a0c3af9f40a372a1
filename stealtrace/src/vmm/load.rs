//! Load: vCPU ioctls flat out, for benchmarks of whatever watches them.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;

use super::{Vcpu, Vm};

/// Calls between two looks at the clock.
const BATCH: u64 = 256;

/// What is done all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// KVM_GET_REGS
    GetRegs,
    /// KVM_RUN, one port exit each
    Run,
}

/// How often one thread did it, in how long.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Calls.
    pub calls: u64,
    /// Time.
    pub time: Duration,
}

/// Do it on so many vCPUs at once, each of a VM and a thread of its own.
///
/// # Errors
/// When KVM refuses.
pub fn load(work: Work, vcpus: usize, time: Duration) -> Result<Vec<Done>> {
    let start = Barrier::new(vcpus);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..vcpus)
            .map(|id| {
                let start = &start;
                let one = move || one(work, time, start);
                thread::Builder::new().name(format!("vcpu{id}")).spawn_scoped(scope, one)
            })
            .collect::<Result<_, _>>()
            .context("start threads")?;
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    })
}

fn one(work: Work, time: Duration, start: &Barrier) -> Result<Done> {
    let made = Vm::new().and_then(|vm| vm.create_vcpu(0));
    start.wait();
    let mut vcpu = made?;
    vcpu.restore_steal_msr()?;
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < time {
        for _ in 0..BATCH {
            call(work, &mut vcpu)?;
        }
        calls += BATCH;
    }
    Ok(Done { calls, time: began.elapsed() })
}

fn call(work: Work, vcpu: &mut Vcpu) -> Result<()> {
    match work {
        Work::GetRegs => vcpu.read_registers(),
        Work::Run => vcpu.run(),
    }
}
