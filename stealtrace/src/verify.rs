//! `stealtrace verify`: play scenarios on the running kernel, say what its steal accounting can be trusted with.

use std::io::Write;

use anyhow::{Result, bail};

use crate::{
    exit::Exit,
    report::table,
    vmm::{
        require_steal_time,
        scenario::{Class, SCENARIOS, Scenario, Verdict, classify},
    },
};

/// Play these scenarios (all if none are named) and print their verdicts.
///
/// # Errors
/// When a scenario is unknown or this host cannot play it.
pub fn verify(ids: &[String], expect: Class, mut out: impl Write) -> Result<Exit> {
    let scenarios = select(ids)?;
    require_steal_time()?;
    let verdicts: Vec<_> = scenarios.into_iter().map(Scenario::verdict).collect::<Result<_>>()?;
    writeln!(out, "{}", verdict_table(&verdicts, expect))?;
    if let Some(class) = classify(&verdicts) {
        writeln!(out, "this kernel is {}", class.sentence())?;
    }
    let as_expected = verdicts.iter().all(|verdict| verdict.as_expected(expect));
    if !as_expected {
        writeln!(out, "not what is expected of a kernel that is {expect}")?;
    }
    let conclusive = verdicts.iter().all(Verdict::is_conclusive);
    if !conclusive {
        writeln!(out, "inconclusive: the runner was rescheduled in every attempt; run on an idle host")?;
    }
    Ok(match (as_expected, conclusive) {
        (false, _) => Exit::Found,
        (true, false) => Exit::Inconclusive,
        (true, true) => Exit::Clean,
    })
}

/// Print what scenarios there are.
///
/// # Errors
/// When the output cannot be written.
pub fn list(mut out: impl Write) -> Result<Exit> {
    let mut rows = table(["scenario", "what it does and checks"]);
    for scenario in SCENARIOS {
        rows.add_row([scenario.id, scenario.about]);
    }
    writeln!(out, "{rows}")?;
    Ok(Exit::Clean)
}

fn select(ids: &[String]) -> Result<Vec<&'static Scenario>> {
    if ids.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    ids.iter()
        .map(|id| match Scenario::find(id) {
            Some(scenario) => Ok(scenario),
            None => {
                let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.id).collect();
                bail!("no scenario {id}; there are {}", known.join(", "))
            }
        })
        .collect()
}

fn verdict_table(verdicts: &[Verdict], expect: Class) -> comfy_table::Table {
    let mut rows = table(["scenario", "the guest saw", "verdict", "as expected"]);
    for verdict in verdicts {
        let result = match &verdict.observation.fault {
            None if verdict.is_conclusive() => "sound".to_owned(),
            None => format!("inconclusive after {} attempts", verdict.attempts),
            Some(fault) => format!("CORRUPT: {fault}"),
        };
        rows.add_row([
            verdict.scenario.to_owned(),
            verdict.observation.saw.clone(),
            result,
            if verdict.as_expected(expect) { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    rows
}
