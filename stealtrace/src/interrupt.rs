//! Ctrl-C and SIGTERM, for commands that look for them now and then: while they wait, or between two steps of work.

use std::{
    io,
    mem::MaybeUninit,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// SIGINT and SIGTERM, blocked so that they are waited for instead of ending the process.
pub struct Interrupt(libc::sigset_t);

impl Interrupt {
    /// Block them for this thread and those it starts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn block() -> Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: a valid set and valid signals.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: a valid set; the old one is not asked for.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } != 0 {
            bail!("cannot block signals: {}", io::Error::last_os_error());
        }
        Ok(Self(set))
    }

    /// Wait so long; true if a signal came.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let time = libc::timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        // SAFETY: valid pointers; what the signal carries is not asked for.
        unsafe { libc::sigtimedwait(&raw const self.0, ptr::null_mut(), &raw const time) > 0 }
    }

    /// Note the first of them while other work is done. The second ends the process at once.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn note(self) -> Result<Noted> {
        let came = Arc::new(AtomicBool::new(false));
        let noted = Noted(Arc::clone(&came));
        let watch = move || {
            let mut signal = 0;
            // SAFETY: valid pointers.
            unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
            came.store(true, Ordering::Relaxed);
            // SAFETY: a valid set; from here on this thread takes them as if nobody had blocked them.
            unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.0, ptr::null_mut()) };
            loop {
                thread::park();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(watch).context("start a thread")?;
        Ok(noted)
    }
}

/// Whether a signal came.
pub struct Noted(Arc<AtomicBool>);

impl Noted {
    /// Did one?
    #[must_use]
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
