//! Load: vCPU ioctls flat out, for benchmarks of whatever watches them.

use std::{
    os::fd::RawFd,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use super::{Vcpu, Vm, memory::StealArea};

/// Calls between two looks at the clock.
const BATCH: u64 = 256;

/// KVM_GET_REGS for each KVM_RUN of [`Work::Mixed`].
const READS_A_RUN: usize = 64;

/// What is done all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// KVM_GET_REGS
    GetRegs,
    /// KVM_RUN, one port exit each
    Run,
    /// KVM_GET_REGS, and KVM_RUN now and then
    Mixed,
    /// KVM_RUN, while another thread reads the vCPU's state all the time
    Hounded,
    /// A VM with a vCPU that runs once and is destroyed
    Churn,
}

/// What guests are like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guest {
    /// Their counter is left as an underflow does.
    pub poisoned: bool,
    /// They are guests of Xen.
    pub of_xen: bool,
}

impl Guest {
    fn vm(self) -> Result<Vm> {
        if !self.of_xen {
            return Vm::new();
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(vm) = Vm::for_xen()? {
            return Ok(vm);
        }
        bail!("this host's KVM keeps no runstate for guests of Xen")
    }
}

/// How often one thread did it, in how long.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Calls.
    pub calls: u64,
    /// Time.
    pub time: Duration,
}

/// vCPUs that exist and ran once, and do nothing more.
pub struct Idle {
    _vcpus: Vec<Vcpu>,
}

/// vCPUs in a VM of idle ones: their steal areas lie between the first one's and the next thing in memory.
const IDLE_IN_A_VM: u64 = 32;

impl Idle {
    /// So many.
    ///
    /// # Errors
    /// When KVM refuses, or there are not enough file descriptors.
    pub fn new(count: usize) -> Result<Self> {
        allow_many_descriptors()?;
        let mut vcpus = Vec::new();
        while vcpus.len() < count {
            let vm = Vm::new()?;
            for id in 0..IDLE_IN_A_VM.min((count - vcpus.len()) as u64) {
                vcpus.push(ran_once(&vm, id)?);
            }
        }
        Ok(Self { _vcpus: vcpus })
    }
}

/// A vCPU takes one.
fn allow_many_descriptors() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid pointer to a valid struct, written.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: a valid pointer to a valid struct, read only.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(got == 0 && set == 0, "cannot raise the limit of file descriptors");
    Ok(())
}

/// One whose VMM says from another thread where its runstate lies, before it runs and once more under its runner.
fn ran_of_xen(vm: &Vm) -> Result<Vcpu> {
    let mut vcpu = vm.create_vcpu(0)?;
    for _ in 0..2 {
        let set = thread::scope(|scope| scope.spawn(|| vcpu.restore()).join());
        set.map_err(|_| anyhow!("a thread panicked"))??;
        vcpu.run()?;
    }
    Ok(vcpu)
}

fn ran_once(vm: &Vm, id: u64) -> Result<Vcpu> {
    let mut vcpu = vm.create_vcpu(id)?;
    vcpu.restore()?;
    vcpu.run()?; // from here on it has a runner, like any vCPU that is worth watching
    Ok(vcpu)
}

/// Do it on so many vCPUs at once, each of a VM and a thread of its own.
///
/// # Errors
/// When KVM refuses.
pub fn load(work: Work, vcpus: usize, guest: Guest, time: Duration) -> Result<Vec<Done>> {
    let start = Barrier::new(vcpus);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..vcpus)
            .map(|id| {
                let start = &start;
                let one = move || one(work, guest, time, start);
                thread::Builder::new().name(format!("vcpu{id}")).spawn_scoped(scope, one)
            })
            .collect::<Result<_, _>>()
            .context("start threads")?;
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    })
}

/// Eleven days below zero. A counter heals as its thread waits for a CPU: a second below zero was over on a busy host
/// before anybody had looked.
const POISON_NS: u64 = u64::MAX - 1_000_000_000_000_000;

fn one(work: Work, guest: Guest, time: Duration, start: &Barrier) -> Result<Done> {
    let made = guest.vm().and_then(|vm| if guest.of_xen { ran_of_xen(&vm) } else { ran_once(&vm, 0) });
    start.wait();
    let mut vcpu = made?;
    if guest.poisoned {
        let area = vcpu.steal_area();
        vcpu.set_steal_area(StealArea { steal_ns: POISON_NS, ..area });
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        if work == Work::Hounded {
            let (fd, done) = (vcpu.descriptor(), &done);
            scope.spawn(move || hound(fd, done));
        }
        let called = call_for(work, &mut vcpu, time);
        done.store(true, Ordering::Relaxed);
        called
    })
}

/// Read a vCPU's state until it is done.
fn hound(fd: RawFd, done: &AtomicBool) {
    const KVM_GET_MP_STATE: libc::c_ulong = 0x8004_ae98;
    while !done.load(Ordering::Relaxed) {
        let mut state = 0_u32; // struct kvm_mp_state
        // SAFETY: the descriptor is open as long as its vCPU, which outlives this thread; the buffer is valid.
        unsafe { libc::ioctl(fd, KVM_GET_MP_STATE, &raw mut state) };
    }
}

fn call_for(work: Work, vcpu: &mut Vcpu, time: Duration) -> Result<Done> {
    let batch = if matches!(work, Work::Churn | Work::Mixed) { 1 } else { BATCH };
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < time {
        for _ in 0..batch {
            call(work, vcpu)?;
        }
        calls += batch;
    }
    Ok(Done { calls, time: began.elapsed() })
}

fn call(work: Work, vcpu: &mut Vcpu) -> Result<()> {
    match work {
        Work::GetRegs => vcpu.read_registers(),
        Work::Run | Work::Hounded => vcpu.run(),
        Work::Mixed => (0..READS_A_RUN).try_for_each(|_| vcpu.read_registers()).and_then(|()| vcpu.run()),
        Work::Churn => ran_once(&Vm::new()?, 0)?.run(),
    }
}
