//! The matrix of `lab verify` as a page: each cell opens on what the guest saw, what the witnesses say, and the second
//! one's picture of it.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::{
    matrix::{cell, lines, passes, plain, scenarios},
    row::{Pass, Row},
};

pub(super) fn page(rows: &[Row]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "stealtrace: which kernels' steal time can be trusted" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Which kernels' steal time can be trusted" }
                ul { @for line in rows.iter().flat_map(lines) { li { (line) } } }
                div.scroll { table.matrix {
                    tr { th { "scenario" } @for row in rows { th { (row.name) } } }
                    @for scenario in scenarios(rows) {
                        tr { th title=(property(rows, scenario)) { (scenario) } @for row in rows { (opening(row, scenario)) } }
                    }
                } }
            }
        }
    };
    page.into_string()
}

fn property<'a>(rows: &'a [Row], scenario: &str) -> &'a str {
    let verdict = passes(rows).find_map(|pass| pass.verdict(scenario));
    verdict.and_then(|verdict| verdict["property"].as_str()).unwrap_or_default()
}

/// What was observed; on a click how, by each backend.
fn opening(row: &Row, scenario: &str) -> Markup {
    let word = cell(row, scenario);
    let class = if word.starts_with('!') {
        "bad"
    } else if word == "sound" {
        "good"
    } else {
        ""
    };
    html! {
        td class=(class) { details {
            summary { (word) }
            div.opened {
                h2 { (scenario) " on " (row.name) }
                @for pass in row.passes.iter().flatten() {
                    @if let Some(verdict) = pass.verdict(scenario) {
                        (told(pass, verdict))
                    }
                }
            }
        } }
    }
}

fn told(pass: &Pass, verdict: &Value) -> Markup {
    let text = |name: &str| plain(&verdict[name]);
    let agree = match verdict["witnesses_agree"].as_bool() {
        Some(true) => "says the same",
        Some(false) => "says something else",
        None => "has nothing to compare",
    };
    html! {
        p { b { (pass.backend().unwrap_or("no second witness")) } br;
            "the guest saw: " (text("guest_saw")) br;
            "the second witness " (agree) br;
            (text("status")) ": " (text("why")) }
        @if let Some(picture) = verdict["picture"].as_str() { (PreEscaped(picture)) }
    }
}

/// Of the pictures, which stealtrace drew; and of the matrix, in which one cell at a time is looked at.
const STYLE: &str = concat!(
    include_str!("../../../stealtrace/src/report/picture/style.css"),
    "
body { max-width: none; }
.matrix td, .matrix th { padding: 4px 10px; white-space: nowrap; }
.good summary { color: var(--ok); } .bad summary { color: var(--bad); font-weight: 700; }
.opened { position: absolute; left: 20px; right: 20px; max-width: 1160px; z-index: 1; padding: 6px 20px 20px;
  white-space: normal; font-weight: 400; background: var(--paper); border: 1px solid var(--dim); box-shadow: 0 4px 24px #0006; }
@media print { .opened { position: static; } }
"
);
