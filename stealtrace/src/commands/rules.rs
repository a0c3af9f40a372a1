//! `stealtrace rules`: what each rule finds, why it matters, and what to do.

use anyhow::Result;
use clap::Args;

use super::{Run, Shared, options::rule_ids};
use crate::{
    detect::{self, RULES},
    exit::Exit,
    report,
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
            Some(rule) => report::rules::explain(rule, &mut out)?,
            None => report::rules::list(RULES, &mut out)?,
        }
        Ok(Exit::Clean)
    }
}
