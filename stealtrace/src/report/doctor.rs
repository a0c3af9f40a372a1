//! doctor's checks, as a table or as one JSON object.

use std::io::{self, Write as _};

use serde_json::json;

use super::{Format, NARROW, Paint, SCHEMA, States, Tone, table, wrap};
use crate::{model::Check, os::output::Output};

/// All of them, and the backend that can be used, or why there is none.
pub(crate) fn show(
    checks: &[Check],
    usable: &Result<String, String>,
    format: Format,
    out: &Output,
) -> io::Result<()> {
    match format.states() {
        States::Json => show_json(checks, usable, out.clone()),
        States::Text => show_table(checks, out.clone()),
    }
}

fn show_table(checks: &[Check], mut out: Output) -> io::Result<()> {
    let paint = Paint::of(&out);
    let mut rows = table(["", "", "found"]);
    for check in checks {
        let (mark, tone) = match check.good {
            Some(true) => ("ok", Tone::Good),
            Some(false) => ("NO", Tone::Bad),
            None => ("", Tone::Plain),
        };
        rows.add_row([check.item.as_str().into(), paint.cell(mark, tone), check.found.as_str().into()]);
    }
    paint.table(&mut rows);
    wrap(&mut rows, NARROW);
    writeln!(out, "{rows}")
}

fn show_json(checks: &[Check], usable: &Result<String, String>, mut out: Output) -> io::Result<()> {
    let list: Vec<_> = checks
        .iter()
        .map(|check| json!({"item": check.item, "good": check.good, "found": check.found}))
        .collect();
    let object = json!({
        "type": "doctor",
        "schema": SCHEMA,
        "usable": usable.is_ok(),
        "backend": usable.as_ref().ok(),
        "reason": usable.as_ref().err(),
        "checks": list,
    });
    writeln!(out, "{object}")
}
