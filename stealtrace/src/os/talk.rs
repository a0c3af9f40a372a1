//! Talk goes to stderr; results have stdout for themselves.

use std::{
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::os::shown::shown;

static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// From here on say only what went wrong.
pub fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Is only told what went wrong?
pub(crate) fn is_quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}

/// Say what went wrong, in one line, to whoever runs this.
pub fn say(what: &str) {
    let _unheard = writeln!(io::stderr(), "stealtrace: {}", shown(what));
}

/// Say what is good to know.
pub(crate) fn remark(what: &str) {
    if !is_quiet() {
        say(what);
    }
}
