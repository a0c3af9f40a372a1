//! JSON: one object a line; `stealtrace/docs/JSON.md` says what each field means.

use std::io::{self, Write};

use serde_json::json;

use super::VerifyReporter;

use crate::{
    report::{SCHEMA, picture::scenario},
    verify::{Agreement, Status, Verdict, Verified},
    vmm::scenario::{ABSENT, Class, Scenario, scenarios},
};

pub(in crate::report) struct Json<W>(pub(in crate::report) W);

/// None where there is nothing to compare.
const fn agree(agreement: &Agreement) -> Option<bool> {
    match agreement {
        Agreement::Agree => Some(true),
        Agreement::Disagree(_) => Some(false),
        Agreement::Nothing | Agreement::Blind => None,
    }
}

impl<W: Write> VerifyReporter for Json<W> {
    fn begin(&mut self, scenarios: &[&Scenario]) -> io::Result<()> {
        let ids: Vec<_> = scenarios.iter().map(|scenario| scenario.id).collect();
        let Self(out) = self;
        writeln!(out, "{}", json!({"type": "plan", "scenarios": ids})).and_then(|()| out.flush())
    }

    fn verdict(&mut self, verdict: &Verdict, so_far: &Verified) -> io::Result<()> {
        let observation = &verdict.observation;
        let tally = observation.tally.map(|tally| {
            json!({
                "hand_offs": tally.rounds,
                "seen": tally.seen,
                "missed": tally.missed,
                "false_reports": tally.false_reports,
                "disturbed": tally.disturbed,
            })
        });
        let mut object = json!({
            "type": "verdict",
            "scenario": verdict.scenario.id,
            "property": verdict.scenario.property,
            "guest_saw": observation.saw,
            "expected": so_far.expectation.worst(verdict.scenario).to_string(),
            "observed": observation.skipped.is_none().then(|| observation.harm().to_string()),
            "status": so_far.status(verdict).to_string().to_lowercase(),
            "why": verdict.why(),
            "witnesses_agree": agree(&verdict.agreement),
            "attempts": verdict.attempts,
            "played": verdict.played,
            "harmful": verdict.harmful,
            "tally": tally,
            "seconds": verdict.took.as_secs_f64(),
        });
        if let (Some(picture), Some(object)) = (scenario(&verdict.transcript), object.as_object_mut()) {
            object.insert("picture".to_owned(), picture.into_string().into());
        }
        let Self(out) = self;
        writeln!(out, "{object}").and_then(|()| out.flush()) // a kernel that panics next must not take it along
    }

    fn end(&mut self, verified: &Verified) -> io::Result<()> {
        let object = json!({
            "type": "summary",
            "schema": SCHEMA,
            "class": verified.class().map(|class| class.to_string()),
            "expected": verified.expectation.class.to_string(),
            "strict": verified.expectation.strict,
            "seed": verified.seed,
            "witness": verified.witness.as_ref().ok().map(ToString::to_string),
            "no_witness": verified.witness.as_ref().err().map(ToString::to_string),
            "lost": verified.lost,
            "passed": verified.count(Status::Passed),
            "failed": verified.count(Status::Failed),
            "skipped": verified.count(Status::Skipped),
            "not_played": verified.not_played.iter().map(|scenario| scenario.id).collect::<Vec<_>>(),
            "inconclusive": verified.inconclusive(),
        });
        let Self(out) = self;
        writeln!(out, "{object}")
    }
}

pub(in crate::report) fn list(out: &mut dyn Write) -> io::Result<()> {
    scenarios().try_for_each(|scenario| {
        let expected = |class| scenario.expects.on(class).to_string();
        let object = json!({
            "type": "scenario",
            "schema": SCHEMA,
            "scenario": scenario.id,
            "about": scenario.about,
            "property": scenario.property,
            "expected": {
                "affected": expected(Class::Affected),
                "fixed": expected(Class::Fixed),
                "sound": expected(Class::Sound),
            },
        });
        writeln!(out, "{object}")
    })?;
    ABSENT.iter().try_for_each(|(id, why)| {
        writeln!(out, "{}", json!({ "type": "absent", "schema": SCHEMA, "scenario": id, "why": why }))
    })
}
