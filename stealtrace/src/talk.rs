//! Talk goes to stderr; results have stdout for themselves.

use std::io::{self, Write as _};

/// Say something to whoever runs this.
pub(crate) fn say(what: &str) {
    let _unheard = writeln!(io::stderr(), "stealtrace: {what}");
}
