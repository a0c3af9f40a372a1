//! The rules, explained.

use std::io::{self, Write};

use super::table;
use crate::detect::Rule;

/// What each finds.
pub(crate) fn list(rules: &[Rule], out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["rule", "what it finds"]);
    for rule in rules {
        rows.add_row([rule.id.as_str(), rule.explanation.what]);
    }
    writeln!(out, "{rows}\n`stealtrace rules ID` explains one.")
}

/// All about one.
pub(crate) fn explain(rule: &Rule, out: &mut impl Write) -> io::Result<()> {
    let about = rule.explanation;
    writeln!(out, "{}: {}\n", rule.id, about.what)?;
    for (title, text) in
        [("Why it matters", about.why), ("Evidence", about.evidence), ("What to do", about.advice)]
    {
        writeln!(out, "{title}\n  {text}")?;
    }
    if !about.references.is_empty() {
        writeln!(out, "References")?;
        about.references.iter().try_for_each(|reference| writeln!(out, "  {reference}"))?;
    }
    Ok(())
}
