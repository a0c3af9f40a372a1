//! `stealtrace rules`: what each rule finds, why it matters, and what to do.

use std::io::{self, Write};

use crate::{
    detect::{self, RULES, Rule},
    exit::Exit,
    report::table,
};

/// Explain one rule, or list them all.
///
/// # Errors
/// When the output cannot be written.
pub fn rules(id: Option<&str>, mut out: impl Write) -> io::Result<Exit> {
    match id.and_then(detect::rule) {
        Some(rule) => explain(rule, &mut out)?,
        None => list(&mut out)?,
    }
    Ok(Exit::Clean)
}

fn list(out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["rule", "what it finds"]);
    for rule in RULES {
        rows.add_row([rule.id, rule.explanation.what]);
    }
    writeln!(out, "{rows}\n`stealtrace rules ID` explains one.")
}

fn explain(rule: &Rule, out: &mut impl Write) -> io::Result<()> {
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
