//! What every fuzz target does: analyze bytes as if a user had them in a file, and drop what is said. Here, so that it is
//! built with everything else.

use std::io::Cursor;

use super::{AnalyzeOptions, analyze_content};
use crate::{
    evidence::Kind,
    input,
    model::Severity,
    os::output::Output,
    pipeline::{Filter, Selection},
    report::{Format, Paint, Style, Units},
};

/// Analyze a file of this kind, or of whichever it is.
pub fn analyze_made_up(kind: Option<Kind>, bytes: &[u8]) {
    let options = AnalyzeOptions {
        file: "input".into(),
        kind,
        filter: Filter { pids: Vec::new(), tid: None, vcpu_id: None, comm: None },
        selection: Selection::EVERYTHING,
        style: Style {
            format: Format::Json,
            calls: false,
            paint: Paint(false),
            units: Units::Human,
            utc: false,
        },
        fail_on: Severity::Error,
    };
    let _any = input::content(Box::new(Cursor::new(bytes.to_vec())))
        .and_then(|content| analyze_content(&options, content, &Output::nowhere()));
}
