//! A page: what the kernel is, and of each scenario what the guest saw and what the two witnesses say.

use std::io::{self, Write};

use maud::{Markup, html};

use super::{VerifyReporter, class_sentence, not_played, table::outcome, witness_sentence};
use crate::{
    os::shown::shown,
    report::picture::{self, capital, frame},
    verify::{Agreement, Status, Verdict, Verified},
};

pub(in crate::report) struct Page<W>(pub(in crate::report) W);

impl<W: Write> VerifyReporter for Page<W> {
    fn end(&mut self, verified: &Verified) -> io::Result<()> {
        let Self(out) = self;
        out.write_all(page(verified).into_string().as_bytes())
    }
}

fn page(verified: &Verified) -> Markup {
    let class = class_sentence(verified).unwrap_or_else(|| "nothing was decided".to_owned());
    let bad = verified.count(Status::Failed) > 0;
    let sure = verified.class().is_some();
    frame(
        &format!("stealtrace verify: {class}"),
        &html! {
            header class=(if bad { "error" } else if sure { "ok" } else { "warning" }) {
                h1 { (capital(&class)) }
                p { (outcome(verified)) }
                @if let Some(missing) = not_played(verified) { p { (missing) } }
                p { (shown(&witness_sentence(verified))) }
            }
            @for verdict in &verified.verdicts { (scenario(verdict, verified)) }
        },
    )
}

/// A line that opens.
fn scenario(verdict: &Verdict, verified: &Verified) -> Markup {
    let status = verified.status(verdict);
    let observation = &verdict.observation;
    html! {
        details class=(format!("verdict {}", status.to_string().to_lowercase())) open[status == Status::Failed] {
            summary { b { (status) } " " (verdict.scenario.id) span.note { " " (verdict.scenario.property) } }
            dl {
                dt { "what it does" } dd { (verdict.scenario.about) }
                dt { "the guest saw" } dd { (shown(&observation.saw)) }
                dt { "the second witness" } dd { (witness(&verdict.agreement)) }
                dt { "expected at worst" } dd { (verified.expectation.worst(verdict.scenario)) }
                dt { "verdict" } dd { (status) ": " (shown(&verdict.why())) }
                dt { "played" } dd {
                    (verdict.played) " × in " (format!("{:.1} s", verdict.took.as_secs_f64())) ", harmful " (verdict.harmful) " ×"
                }
            }
            @if let Some(picture) = picture::scenario(&verdict.transcript) { (picture) }
        }
    }
}

fn witness(agreement: &Agreement) -> String {
    match agreement {
        Agreement::Agree => "says the same".to_owned(),
        Agreement::Nothing => "nothing to compare".to_owned(),
        Agreement::Blind => "saw nothing".to_owned(),
        Agreement::Disagree(how) => format!("says something else: {}", shown(how)),
    }
}
