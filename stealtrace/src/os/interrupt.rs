//! Signals that tell a command to end: blocked from its first moment on, so that none is missed and none ends it half way.
//! The first is noted, and the command ends by itself; who tells it again later does not want to wait for that.

use std::{
    io,
    mem::MaybeUninit,
    ptr,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::privileges;

/// What comes so soon after the first signal belongs to it: a terminal that goes away, `timeout` and service managers
/// send several.
const ONE_STORY: Duration = Duration::from_secs(1);

/// Ctrl-C, `kill`, and a terminal that goes away: whether one came.
pub struct Interrupt(Arc<Noted>);

#[derive(Default)]
struct Noted {
    came: Mutex<bool>,
    comes: Condvar,
}

impl Interrupt {
    /// Block them for this thread and those it starts, but for one that waits for them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn block() -> Result<Self> {
        let set = ours();
        // SAFETY: a valid set; the old one is not asked for.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } != 0 {
            bail!("cannot block signals: {}", io::Error::last_os_error());
        }
        let noted = Arc::new(Noted::default());
        let tell = Arc::clone(&noted);
        let watch = move || watch(&set, &tell);
        thread::Builder::new().name("signals".to_owned()).spawn(watch).context("start a thread")?;
        Ok(Self(noted))
    }

    /// Let a child of ours, between fork and exec, hear them again. Only makes system calls.
    pub(crate) fn unblock_in_child() {
        let set = ours();
        // SAFETY: a valid set, the old one is not asked for; a valid signal.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
            libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
        }
    }

    /// Wait so long, or until one came; true if one did.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let Self(noted) = self;
        let came = noted.came.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = noted.comes.wait_timeout_while(came, time, |came| !*came);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Did one come?
    #[must_use]
    pub fn came(&self) -> bool {
        self.wait(Duration::ZERO)
    }
}

/// A terminal that goes away is none of our business: who stays on has no file to read again.
pub(crate) fn ignore_hang_ups() {
    // SAFETY: a valid signal.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// A file that may not grow is an error of whoever writes it, and no end.
pub(crate) fn outlive_file_limits() {
    // SAFETY: a valid signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

impl Noted {
    fn note(&self) {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.comes.notify_all();
    }
}

/// Note the first; end the process with one that comes later, as if nobody had blocked it.
fn watch(set: &libc::sigset_t, noted: &Noted) {
    privileges::drop_all();
    next_of(set);
    noted.note();
    let first = Instant::now();
    let mut signal = next_of(set);
    while first.elapsed() < ONE_STORY {
        signal = next_of(set);
    }
    // SAFETY: a valid set, and a signal of it.
    unsafe {
        libc::signal(signal, libc::SIG_DFL); // a shell's background job ignores SIGINT
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set, ptr::null_mut());
        libc::raise(signal);
    }
}

fn next_of(set: &libc::sigset_t) -> libc::c_int {
    let mut signal = 0;
    // SAFETY: valid pointers.
    unsafe { libc::sigwait(set, &raw mut signal) };
    signal
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
