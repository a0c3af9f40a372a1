//! Talk goes to stderr; results have stdout for themselves.

use std::io::{self, Write as _};

use crate::shown::shown;

/// Say something, in one line, to whoever runs this.
pub fn say(what: &str) {
    let _unheard = writeln!(io::stderr(), "stealtrace: {}", shown(what));
}
