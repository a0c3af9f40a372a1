//! How verdicts are printed: for people, for scripts, and for CI systems.

pub(super) mod json;
pub(super) mod junit;
pub(super) mod page;
pub(super) mod table;
pub(super) mod tap;

use std::io;

use crate::{
    verify::{Agreement, Verdict, Verified},
    vmm::scenario::Scenario,
};

/// Prints verdicts as they come.
pub trait VerifyReporter {
    /// These will be played.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn begin(&mut self, _scenarios: &[&Scenario]) -> io::Result<()> {
        Ok(())
    }

    /// One has been played; `so_far` knows what was expected.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn verdict(&mut self, _verdict: &Verdict, _so_far: &Verified) -> io::Result<()> {
        Ok(())
    }

    /// All have been played.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn end(&mut self, verified: &Verified) -> io::Result<()>;
}

/// The kernel's class in one sentence, or why it has none.
fn class_sentence(verified: &Verified) -> Option<String> {
    match verified.class() {
        Some(class) => Some(format!("this kernel is {}", class.sentence())),
        None => verified.inconclusive().map(|reason| format!("inconclusive: {reason}")),
    }
}

/// The scenarios that were not played, if there are any.
fn not_played(verified: &Verified) -> Option<String> {
    let ids: Vec<_> = verified.not_played.iter().map(|scenario| scenario.id).collect();
    (!ids.is_empty()).then(|| format!("interrupted; not played: {}", ids.join(", ")))
}

/// The second witness in one sentence.
fn witness_sentence(verified: &Verified) -> String {
    match &verified.witness {
        Ok(backend) => {
            let count = |is: fn(&Agreement) -> bool| {
                verified.verdicts.iter().filter(|verdict| is(&verdict.agreement)).count()
            };
            let agree = count(|agreement| *agreement == Agreement::Agree);
            let silent = count(|agreement| matches!(agreement, Agreement::Nothing | Agreement::Blind));
            let silent = if silent > 0 { format!(", nothing to compare in {silent}") } else { String::new() };
            format!(
                "second witness: the {backend} backend; agrees on {agree} of {}{silent}",
                verified.verdicts.len()
            )
        }
        Err(why) => format!("no second witness: {why}"),
    }
}
