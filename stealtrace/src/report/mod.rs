//! The only place that formats. A reporter sees events, findings and the summary, in that order of time.

mod calls;
mod clock;
pub(crate) mod doctor;
pub(crate) mod guard;
pub(crate) mod guest;
pub(crate) mod inspect;
mod json;
mod paint;
pub(crate) mod rules;
mod text;
mod units;
mod verify;

use std::io::{self, Write};

use clap::ValueEnum;
use stealtrace_common::event::Event;

pub(crate) use self::paint::Tone;
pub use self::verify::{VerifyReporter, list_scenarios, verify_reporter};
pub(crate) use self::{clock::utc_now, units::exact};
pub use self::{paint::Paint, units::Units};

use self::clock::Clock;
use crate::{
    backend::BackendKind,
    detect::Ruling,
    model::{Finding, Summary},
    record::Header,
};

/// Of every JSON object that says so; raised where a field changes its meaning or goes away.
const SCHEMA: u32 = 2;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[value(alias = "table")]
    Text,
    /// One JSON object, or one a line.
    Json,
    /// One JUnit XML document.
    Junit,
    /// Test Anything Protocol, version 13.
    Tap,
}

impl Format {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Text, Self::Json, Self::Junit, Self::Tap];
}

/// Prints a run as it happens.
pub trait Reporter {
    /// Where and how what follows was made; logs do not tell.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn begin(&mut self, _header: &Header) -> io::Result<()> {
        Ok(())
    }

    /// An event, and whether a rule objects to it; its findings follow apart.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn event(&mut self, event: &Event, ruling: &Ruling) -> io::Result<()>;

    /// A finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    /// Something worth saying that is no finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn note(&mut self, note: &str) -> io::Result<()>;

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

/// How to show a run.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Text or JSON.
    pub format: Format,
    /// The view of calls instead of lines per event.
    pub calls: bool,
    /// Of text.
    pub paint: Paint,
    /// How text shows times.
    pub units: Units,
    /// UTC beside the time since the start?
    pub utc: bool,
}

/// A reporter in this style for a run with this header.
pub fn reporter<'a>(style: Style, header: &Header, out: impl Write + 'a) -> Box<dyn Reporter + 'a> {
    let utc_offset_ns = Some(header.utc_offset_ns).filter(|offset_ns| style.utc && *offset_ns != 0);
    let clock = Clock { start_ns: header.start_ns, utc_offset_ns };
    match style.format {
        Format::Json => Box::new(json::Json::new(clock, out)),
        _ if style.calls => {
            let ioctls_only = header.backend == BackendKind::Tracepoint.to_string();
            Box::new(calls::Calls::new(
                text::Text::new(clock, style.paint, style.units, out),
                &header.functions,
                ioctls_only,
            ))
        }
        _ => Box::new(text::Text::new(clock, style.paint, style.units, out)),
    }
}

/// Columns of prose wrap to the terminal's width, or to a page's.
pub fn wrap(table: &mut comfy_table::Table) {
    const PAGE: u16 = 160;
    const LEAST: u16 = 60; // a serial line says that it has no columns
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    if table.width().is_none_or(|width| width < LEAST) {
        table.set_width(PAGE);
    }
}

/// A table in the one style we use.
#[must_use]
pub fn table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}
