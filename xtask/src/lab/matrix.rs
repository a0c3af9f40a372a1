//! The matrix that `lab verify` prints: scenarios down, kernels across, classes and precision below.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde_json::Value;

use super::row::{CANNOT_RUN, INCONCLUSIVE, Pass, Row};

/// Print it.
pub(super) fn print(rows: &[Row]) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", matrix(rows)).context("print the matrix")?;
    for line in rows.iter().flat_map(lines) {
        writeln!(out, "{line}").context("print the matrix")?;
    }
    Ok(())
}

fn matrix(rows: &[Row]) -> Table {
    let mut table = Table::new();
    let names = rows.iter().map(|row| row.name.as_str());
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(std::iter::once("scenario").chain(names));
    for scenario in scenarios(rows) {
        let cells = rows.iter().map(|row| cell(row, scenario));
        table.add_row(std::iter::once(scenario.to_owned()).chain(cells));
    }
    table
}

/// In the order of the first kernel that played them.
pub(super) fn scenarios(rows: &[Row]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for verdict in passes(rows).flat_map(|pass| &pass.verdicts) {
        let id = verdict["scenario"].as_str().unwrap_or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

pub(super) fn passes(rows: &[Row]) -> impl Iterator<Item = &Pass> {
    rows.iter().filter_map(|row| row.passes.as_ref().ok()).flatten()
}

/// What was observed, once if all backends' runs agree; `!` where it is not as expected.
pub(super) fn cell(row: &Row, scenario: &str) -> String {
    let Ok(passes) = &row.passes else { return "?".to_owned() };
    let mut seen: Vec<String> = Vec::new();
    for pass in passes {
        let word = match pass.verdict(scenario) {
            Some(verdict) => word(verdict),
            None => "not played".to_owned(),
        };
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen.join(" / ")
}

fn word(verdict: &Value) -> String {
    let status = verdict["status"].as_str().unwrap_or("?");
    match (status, verdict["observed"].as_str()) {
        ("passed", Some(observed)) => observed.to_owned(),
        (_, Some(observed)) => format!("! {observed}, {status}"),
        (_, None) => status.to_owned(),
    }
}

pub(super) fn lines(row: &Row) -> Vec<String> {
    let name = &row.name;
    match &row.passes {
        Err(why) => vec![format!("{name}: the lab failed: {why}")],
        Ok(passes) => {
            let mut lines = vec![class(row, passes)];
            lines.extend(passes.iter().map(|pass| format!("{name}: {}", witness(pass))));
            lines.extend(row.unable.iter().map(|why| format!("{name}: another backend cannot run: {why}")));
            let failed =
                passes.iter().flat_map(|pass| &pass.verdicts).filter(|verdict| verdict["status"] != "passed");
            lines.extend(failed.map(|verdict| {
                format!("{name}: {}: {}", plain(&verdict["scenario"]), plain(&verdict["why"]))
            }));
            let unable = passes.iter().filter(|pass| pass.code == CANNOT_RUN).map(|pass| pass.said.trim());
            lines.extend(unable.map(|said| format!("{name}: {said}")));
            lines
        }
    }
}

/// Text of a verdict.
pub(super) fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn class(row: &Row, passes: &[Pass]) -> String {
    let mut classes: Vec<_> = passes.iter().map(|pass| pass.class().unwrap_or("undecided")).collect();
    classes.dedup();
    let expected = match row.code() {
        0 => "as expected".to_owned(),
        INCONCLUSIVE => format!("inconclusive: {}", reason(passes)),
        _ => format!("NOT AS EXPECTED of {}", row.expect),
    };
    format!("{}: {}, {expected}", row.name, classes.join(" / "))
}

/// Why what was played proves nothing.
fn reason(passes: &[Pass]) -> &str {
    let mut reasons = passes.iter().filter_map(|pass| pass.summary.as_ref()?["inconclusive"].as_str());
    reasons.next_back().unwrap_or("it does not say why")
}

/// Who traced, and how its reports compare with what the VMM saw; or why nobody did.
fn witness(pass: &Pass) -> String {
    let summary = pass.summary.as_ref();
    match (pass.backend(), summary.and_then(|summary| summary["no_witness"].as_str())) {
        (Some(backend), _) => {
            let rounds = precision(pass).map(|[rounds, seen, recall, precision]| {
                format!(
                    "; {rounds} random hand-offs: {seen} corruptions, recall {recall}, precision {precision}"
                )
            });
            format!("{backend} backend: agrees on {}{}", tally(pass), rounds.unwrap_or_default())
        }
        (None, Some(why)) => format!("nobody traced: {why}"),
        (None, None) => "nobody traced to the end".to_owned(),
    }
}

/// On how many of the scenarios that were played the witnesses agree, and how many were not played.
pub(super) fn tally(pass: &Pass) -> String {
    let count = |name, value: Value| pass.verdicts.iter().filter(|verdict| verdict[name] == value).count();
    let skipped = count("status", "skipped".into());
    let agree = count("witnesses_agree", true.into());
    let played = pass.verdicts.len() - skipped;
    let beside = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
    format!("{agree} of {played}{beside}")
}

/// Of random hand-offs, which are compared one by one: how many, corruptions, recall, precision.
pub(super) fn precision(pass: &Pass) -> Option<[String; 4]> {
    let tally = pass.verdicts.iter().map(|verdict| &verdict["tally"]).find(|tally| !tally.is_null())?;
    let count = |name: &str| tally[name].as_u64().unwrap_or(0);
    let found = count("seen").saturating_sub(count("missed"));
    Some([
        count("hand_offs").to_string(),
        count("seen").to_string(),
        percent(found, count("seen")),
        percent(found, found + count("false_reports")),
    ])
}

fn percent(part: u64, whole: u64) -> String {
    (part * 100).checked_div(whole).map_or_else(|| "n/a".to_owned(), |percent| format!("{percent} %"))
}
