//! Pressure: makes the calling thread's run_delay grow, by sharing one CPU with busy competitors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::run_delay_ns;

/// Busy threads beside ours: it waits three quarters of the time.
const COMPETITORS: usize = 3;
/// A host on which run_delay does not grow is no host to test on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Wait, competing, until the calling thread's run_delay is at least `target`.
///
/// # Errors
/// When it does not grow.
pub fn accrue_run_delay(target: Duration) -> Result<()> {
    let target_ns = u64::try_from(target.as_nanos())?;
    if run_delay_ns()? >= target_ns {
        return Ok(());
    }
    contended(|| wait_for(target_ns))
}

/// Wait, competing, until the calling thread has waited this much more.
///
/// # Errors
/// When its run_delay does not grow.
pub fn wait_more(more: Duration) -> Result<()> {
    accrue_run_delay(Duration::from_nanos(run_delay_ns()?) + more)
}

/// Do this while competing for one CPU.
///
/// # Errors
/// What it returned, or that the CPU cannot be chosen.
pub fn contended<R>(act: impl FnOnce() -> Result<R>) -> Result<R> {
    on_one_cpu(|| {
        let _competitors = Competitors::start()?; // threads inherit the CPU
        act()
    })
}

/// Do this on the last CPU that the calling thread may use.
///
/// # Errors
/// What it returned, or that the CPU cannot be chosen.
pub fn on_one_cpu<R>(act: impl FnOnce() -> Result<R>) -> Result<R> {
    let allowed = CpuSet::of_this_thread()?;
    CpuSet::only(allowed.last()?).apply()?;
    let result = act();
    allowed.apply()?;
    result
}

/// Sleep until more time has passed than the calling thread ever waited for a CPU, so that the charge of its whole past
/// at the first run after enabling is no over-charge.
///
/// # Errors
/// When the kernel keeps no scheduler statistics.
pub fn outwait_past() -> Result<()> {
    thread::sleep(2 * Duration::from_nanos(run_delay_ns()?) + Duration::from_millis(5));
    Ok(())
}

fn wait_for(target_ns: u64) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while run_delay_ns()? < target_ns {
        ensure!(Instant::now() < give_up, "run_delay did not grow to {target_ns} ns within {PATIENCE:?}");
        spin(Duration::from_millis(1));
    }
    Ok(())
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Busy threads; end when dropped.
struct Competitors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Competitors {
    fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = |stop: Arc<AtomicBool>| move || while !stop.load(Ordering::Relaxed) {};
        let threads = (0..COMPETITORS)
            .map(|_| thread::Builder::new().name("competitor".to_owned()).spawn(busy(Arc::clone(&stop))))
            .collect::<Result<_, _>>()
            .context("start competitors")?;
        Ok(Self { stop, threads })
    }
}

impl Drop for Competitors {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// CPUs a thread may use.
struct CpuSet(libc::cpu_set_t);

impl CpuSet {
    fn empty() -> Self {
        // SAFETY: a cpu_set_t is an array of integers; all zero is the empty set.
        Self(unsafe { std::mem::zeroed() })
    }

    fn only(cpu: usize) -> Self {
        let mut set = Self::empty();
        // SAFETY: `cpu` comes from a set of the same size.
        unsafe { libc::CPU_SET(cpu, &mut set.0) };
        set
    }

    fn of_this_thread() -> Result<Self> {
        let mut set = Self::empty();
        // SAFETY: a valid pointer and its size; 0 is the calling thread.
        let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set.0) };
        ensure!(result == 0, "ask for the allowed CPUs: {}", std::io::Error::last_os_error());
        Ok(set)
    }

    fn apply(&self) -> Result<()> {
        // SAFETY: a valid pointer and its size; 0 is the calling thread.
        let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) };
        ensure!(result == 0, "choose CPUs: {}", std::io::Error::last_os_error());
        Ok(())
    }

    fn last(&self) -> Result<usize> {
        // SAFETY: indices below CPU_SETSIZE are inside the set.
        let is_set = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &self.0) };
        (0..libc::CPU_SETSIZE as usize).rev().find(is_set).context("no CPU allowed")
    }
}
