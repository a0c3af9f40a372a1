//! Signals that tell a command to end: blocked from its first moment on, so that none is missed and none ends it half way.

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

/// Ctrl-C, `kill`, and a terminal that goes away; waited for instead of ending the process.
pub struct Interrupt(libc::sigset_t);

impl Interrupt {
    /// Block them for this thread and those it starts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn block() -> Result<Self> {
        let set = ours();
        // SAFETY: a valid set; the old one is not asked for.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } != 0 {
            bail!("cannot block signals: {}", io::Error::last_os_error());
        }
        Ok(Self(set))
    }

    /// Let a child of ours, between fork and exec, hear them again. Only makes system calls.
    pub(crate) fn unblock_in_child() {
        let set = ours();
        // SAFETY: a valid set; the old one is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
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

    /// Did a signal come since the last time?
    #[must_use]
    pub fn came(&self) -> bool {
        self.wait(Duration::ZERO)
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

fn ours() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in [libc::SIGINT, libc::SIGTERM].into_iter().chain(hang_up()) {
        // SAFETY: a valid set and valid signals.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// SIGHUP, unless whoever started us wants it ignored (`nohup`): a blocked signal is kept even so.
fn hang_up() -> Option<libc::c_int> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a valid pointer to fill; all zero is a value of the struct.
    let action = unsafe {
        libc::sigaction(libc::SIGHUP, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    (action.sa_sigaction != libc::SIG_IGN).then_some(libc::SIGHUP)
}
