//! What watching costs, measured side by side in one run; no test depends on it.

mod consumer;
mod count;
mod export;
mod loss;
mod scale;
mod start;
mod strace;
mod tax;
mod watch;
mod watcher;

use std::{path::Path, time::Instant};

use anyhow::Result;
use comfy_table::{Table, presets};

use crate::{arch::Arch, build, process::say};

/// One number, and what it should be.
pub(crate) struct Row {
    what: String,
    /// Median.
    measured: f64,
    /// Least and most.
    spread: (f64, f64),
    unit: &'static str,
    goal: Goal,
    /// Why there is no number, if so.
    absent: Option<String>,
}

/// What a number should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// For comparison.
    None,
}

impl Row {
    /// The median of several.
    fn of(what: impl Into<String>, mut numbers: Vec<f64>, unit: &'static str, goal: Goal) -> Self {
        numbers.sort_by(f64::total_cmp);
        let spread =
            (numbers.first().copied().unwrap_or(f64::NAN), numbers.last().copied().unwrap_or(f64::NAN));
        let measured = numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN);
        Self { what: what.into(), measured, spread, unit, goal, absent: None }
    }

    /// What could not be measured.
    fn absent(what: String, why: &str) -> Self {
        let why = Some(why.replace(['\n', '|'], " "));
        Self { what, measured: f64::NAN, spread: (0.0, 0.0), unit: "", goal: Goal::None, absent: why }
    }

    fn verdict(&self) -> &'static str {
        match self.goal {
            Goal::AtMost(most) if self.measured <= most => "pass",
            Goal::AtLeast(least) if self.measured >= least => "pass",
            Goal::AtMost(_) | Goal::AtLeast(_) => "SHORT",
            Goal::None => "",
        }
    }
}

/// A part: its name, whether it needs /dev/kvm, and how it is measured.
type Part = (&'static str, bool, fn(&Path) -> Result<Vec<Row>>);

/// Every part, in the order of the table. To add one: write its file, add its module and its row.
const PARTS: [Part; 9] = [
    ("tax", true, tax::rows),
    ("start", true, start::rows),
    ("loss", true, loss::rows),
    ("scale", true, scale::rows),
    ("consumer", true, consumer::rows),
    ("export", true, export::rows),
    ("watch", true, watch::rows),
    ("strace", false, strace::rows),
    ("count", false, count::rows),
];

/// The parts' names.
pub(crate) fn parts() -> Vec<&'static str> {
    PARTS.iter().map(|(name, ..)| *name).collect()
}

/// Measure these parts, or everything that can be measured here; print it.
pub(crate) fn bench(wanted: &[String]) -> Result<()> {
    let start = Instant::now();
    let binary = build::dist(Arch::HERE)?;
    let has_kvm = Path::new("/dev/kvm").exists();
    let mut rows = Vec::new();
    for (name, needs_kvm, measure) in PARTS {
        match (wanted.is_empty() || wanted.iter().any(|wanted| wanted == name), needs_kvm && !has_kvm) {
            (false, _) => {}
            (true, true) => say(&format!("NOT MEASURED: {name}: this machine has no /dev/kvm")),
            (true, false) => rows.extend(measure(&binary)?),
        }
    }
    print(&rows);
    say(&format!("measured in {} s", start.elapsed().as_secs()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["what", "median", "spread", "goal", ""]);
    for row in rows {
        let number = |number: f64| match number {
            whole if whole.fract() == 0.0 => format!("{whole}"),
            number => format!("{number:.2}"),
        };
        let spread = match row.spread {
            (least, most) if least.to_bits() == most.to_bits() => String::new(), // measured once
            (least, most) => format!("{} to {}", number(least), number(most)),
        };
        table.add_row([
            row.what.clone(),
            row.absent.as_ref().map_or_else(
                || format!("{} {}", number(row.measured), row.unit),
                |why| format!("not here: {why}"),
            ),
            spread,
            match row.goal {
                Goal::AtMost(most) => format!("<= {}", number(most)),
                Goal::AtLeast(least) => format!(">= {}", number(least)),
                Goal::None => String::new(),
            },
            row.verdict().to_owned(),
        ]);
    }
    println!("{table}");
}
