//! Colours, wherever text is for people.

use comfy_table::{Cell, Table};

use crate::{model::Severity, os::output::Output};

/// How good or bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Notable,
    Doubtful,
    Bad,
    /// Bold, in whatever colour.
    Marked,
    Plain,
}

impl From<Severity> for Tone {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Bad,
            Severity::Warning => Self::Doubtful,
            Severity::Notice => Self::Notable,
        }
    }
}

impl Tone {
    const fn color(self) -> Option<comfy_table::Color> {
        match self {
            Self::Good => Some(comfy_table::Color::DarkGreen),
            Self::Notable => Some(comfy_table::Color::DarkCyan),
            Self::Doubtful => Some(comfy_table::Color::DarkYellow),
            Self::Bad => Some(comfy_table::Color::DarkRed),
            Self::Marked | Self::Plain => None,
        }
    }

    /// `ECMA-48`, select graphic rendition.
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Notable => "36",
            Self::Doubtful => "33",
            Self::Bad => "1;31",
            Self::Marked => "1",
            Self::Plain => "0",
        }
    }
}

/// Paints, or does not.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    /// As is wanted for these results.
    #[must_use]
    pub fn of(out: &Output) -> Self {
        Self(out.is_colored())
    }

    pub(crate) fn text(self, text: &str, tone: Tone) -> String {
        match self {
            Self(true) if tone != Tone::Plain => format!("\x1b[{}m{text}\x1b[0m", tone.code()),
            _ => text.to_owned(),
        }
    }

    pub(crate) fn cell(self, text: &str, tone: Tone) -> Cell {
        let cell = Cell::new(text);
        match (self, tone.color()) {
            (Self(true), Some(color)) => cell.fg(color),
            _ => cell,
        }
    }

    /// Also where the table is not for a terminal.
    pub(crate) fn table(self, table: &mut Table) {
        if let Self(true) = self {
            table.enforce_styling();
        }
    }
}
