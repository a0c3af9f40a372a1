//! The only place that formats. A reporter sees events, findings and the summary, in that order of time.

pub(crate) mod board;
mod calls;
mod clock;
pub(crate) mod doctor;
pub(crate) mod guard;
pub(crate) mod guest;
pub(crate) mod inspect;
pub(crate) mod journal;
mod json;
pub(crate) mod metrics;
mod paint;
mod perfetto;
mod picture;
pub(crate) mod rules;
mod text;
mod units;
mod verify;

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use stealtrace_common::{event::Event, source::Source};

pub(crate) use self::paint::Tone;
pub use self::verify::VerifyReporter;
pub(crate) use self::{clock::utc_now, units::exact};
pub use self::{paint::Paint, units::Units};

use self::clock::Clock;
use crate::{
    backend::BackendKind,
    detect::{Ruling, steal_backwards, steal_over_charge, steal_underflow},
    model::{Finding, Summary},
    os::{output::Output, talk::remark},
    record::Header,
};

/// Of every JSON object that says so; raised where a field changes its meaning or goes away.
const SCHEMA: u32 = 2;

/// What a format makes of each thing that is shown; None: it has no place for it.
struct Shows {
    /// A run, live or from a file.
    run: Option<ShowsRun>,
    /// Verdicts.
    verdicts: Option<fn(Output) -> Box<dyn VerifyReporter>>,
    /// What scenarios there are.
    scenarios: Option<ShowsScenarios>,
    /// What doctor, inspect, guard and guest see.
    states: Option<States>,
}

/// How doctor, inspect, guard and guest show what they see.
#[derive(Clone, Copy)]
enum States {
    Text,
    Json,
}

type ShowsRun = for<'a> fn(Style, Clock, Box<dyn Write + 'a>) -> Box<dyn Reporter + 'a>;
type ShowsScenarios = fn(&mut dyn Write) -> io::Result<()>;

const NOTHING: Shows = Shows { run: None, verdicts: None, scenarios: None, states: None };

macro_rules! formats {
    ($($(#[$about:meta])+ $Format:ident => $shows:expr;)+) => {
        /// How to print.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        pub enum Format {
            $($(#[$about])+ $Format,)+
        }

        impl Format {
            fn shows(self) -> Shows {
                match self {
                    $(Self::$Format => $shows,)+
                }
            }
        }
    };
}

// Every format. To add one: write its file, add its module and its line.
formats! {
    /// For people.
    #[value(alias = "table")]
    Text => Shows {
        run: Some(|style, clock, out| Box::new(text::Text::new(clock, style.paint, style.units, out))),
        verdicts: Some(|out| Box::new(verify::table::Table { paint: Paint::of(&out), out })),
        scenarios: Some(verify::table::list),
        states: Some(States::Text),
    };
    /// One JSON object, or one a line.
    Json => Shows {
        run: Some(|_, clock, out| Box::new(json::Json::new(clock, out))),
        verdicts: Some(|out| Box::new(verify::json::Json(out))),
        scenarios: Some(verify::json::list),
        states: Some(States::Json),
    };
    /// One page, of a run with pictures.
    Html => Shows {
        run: Some(|style, clock, out| Box::new(picture::Html::new(clock, style.units, out))),
        verdicts: Some(|out| Box::new(verify::page::Page(out))),
        ..NOTHING
    };
    /// A binary trace for Perfetto's user interface.
    Perfetto => Shows { run: Some(|_, _, out| Box::new(perfetto::Perfetto::new(out))), ..NOTHING };
    /// One JUnit XML document.
    Junit => Shows { verdicts: Some(|out| Box::new(verify::junit::Junit(out))), ..NOTHING };
    /// Test Anything Protocol, version 13.
    Tap => Shows { verdicts: Some(|out| Box::new(verify::tap::Tap { out, played: 0 })), ..NOTHING };
}

impl Format {
    /// Can it show a run?
    pub(crate) fn shows_runs(self) -> bool {
        self.shows().run.is_some()
    }

    /// Is it none for people's eyes?
    pub(crate) const fn is_binary(self) -> bool {
        matches!(self, Self::Perfetto)
    }

    /// Verdicts?
    pub(crate) fn shows_verdicts(self) -> bool {
        self.shows().verdicts.is_some()
    }

    /// What doctor, inspect, guard and guest see?
    pub(crate) fn shows_states(self) -> bool {
        self.shows().states.is_some()
    }

    /// How; as text where it has no way of its own, which no command takes.
    fn states(self) -> States {
        self.shows().states.unwrap_or(States::Text)
    }
}

/// Prints a run as it happens.
pub trait Reporter {
    /// Does it look at events where only findings are wanted?
    fn draws(&self) -> bool {
        false
    }

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

/// Does it say what an update made of what an act (a restore, a hand-off) had put into last_steal?
fn is_of_consumed(finding: &Finding) -> bool {
    [steal_underflow::RULE.id, steal_over_charge::RULE.id, steal_backwards::RULE.id].contains(&finding.rule)
}

/// What was found, beside a picture of it.
fn beside(summary: &Summary) {
    for ((rule, severity), count) in &summary.findings {
        remark(&format!("{severity}: {rule} × {count}"));
    }
    remark(&text::outcome(summary));
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
    match style.format.shows().run {
        Some(show) if !style.calls => show(style, clock, Box::new(out)),
        _ => {
            let ioctls_only = header.backend == BackendKind::Tracepoint.to_string();
            let text = text::Text::new(clock, style.paint, style.units, out);
            Box::new(calls::Calls::new(text, &header.functions, ioctls_only))
        }
    }
}

/// A reporter of verdicts in this format.
///
/// # Errors
/// When the format has none.
pub(crate) fn verify_reporter(format: Format, out: Output) -> Result<Box<dyn VerifyReporter>> {
    let show = format.shows().verdicts.context("this format shows no verdicts")?;
    Ok(show(out))
}

/// What scenarios there are.
///
/// # Errors
/// When the output cannot be written, or the format has no lists.
pub(crate) fn list_scenarios(format: Format, mut out: impl Write) -> Result<()> {
    let list = format.shows().scenarios.context("--list has the formats text and json")?;
    Ok(list(&mut out)?)
}

/// Columns of a page of prose.
const PAGE: u16 = 160;
/// Columns of what an operator reads anywhere.
const NARROW: u16 = 80;

/// A value that enables steal time, and what it says.
fn enabling(value: u64) -> String {
    let source = Source::of(value);
    let enabled = if source.is_enabled(value) { "enabled" } else { "disabled" };
    format!("{:#x}: {enabled}, area at {:#x}", source.given(value), source.area(value))
}

/// Columns of prose wrap to the terminal's width, or to this one.
fn wrap(table: &mut comfy_table::Table, width: u16) {
    const LEAST: u16 = 60; // a serial line says that it has no columns
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    if table.width().is_none_or(|width| width < LEAST) {
        table.set_width(width);
    }
}

/// A table in the one style we use.
#[must_use]
pub fn table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}

#[cfg(test)]
mod tests {
    use super::enabling;

    #[test]
    fn the_msr_is_an_address_and_a_bit() {
        assert_eq!(enabling(0x3fc1_f041), "0x3fc1f041: enabled, area at 0x3fc1f040");
        assert_eq!(enabling(0), "0x0: disabled, area at 0x0");
    }
}
