//! `stealtrace rules`: what each rule finds, why it matters, and what to do.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;

use super::{Run, Shared, options::rule_ids};
use crate::{
    detect::{self, RULES, Rule},
    exit::Exit,
    report::table,
};

/// Explain the rules
#[derive(Args, Debug)]
pub(super) struct Rules {
    /// Only this one
    #[arg(value_parser = rule_ids())]
    id: Option<String>,
}

impl Run for Rules {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let mut out = shared.out.clone();
        match self.id.as_deref().and_then(detect::rule) {
            Some(rule) => explain(rule, &mut out)?,
            None => list(&mut out)?,
        }
        Ok(Exit::Clean)
    }
}

fn list(out: &mut impl Write) -> io::Result<()> {
    let mut rows = table(["rule", "what it finds"]);
    for rule in RULES {
        rows.add_row([rule.id.as_str(), rule.explanation.what]);
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
