//! The only place that formats. A reporter sees events, findings and the summary, in that order of time.

mod json;
mod text;
mod units;

use std::io::{self, Write};

use clap::ValueEnum;
use stealtrace_common::event::Event;

use crate::{
    detect::Judgement,
    model::{Finding, Summary},
};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Prints a run as it happens.
pub trait Reporter {
    /// An event, and whether a rule objects to it; its findings follow apart.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn event(&mut self, event: &Event, judgement: &Judgement) -> io::Result<()>;

    /// A finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    /// The end.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn summary(&mut self, summary: &Summary) -> io::Result<()>;

    /// Show what was printed so far.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn flush(&mut self) -> io::Result<()>;
}

/// What to print of a run.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// How.
    pub format: Format,
    /// Times are shown since then (ns of CLOCK_MONOTONIC).
    pub start_ns: u64,
}

/// A reporter for this view.
pub fn reporter<'a>(view: View, out: impl Write + 'a) -> Box<dyn Reporter + 'a> {
    match view.format {
        Format::Text => Box::new(text::Text::new(view, out)),
        Format::Json => Box::new(json::Json::new(view, out)),
    }
}

/// A table in the one style we use.
#[must_use]
pub fn table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}
