//! What every fuzz target does: analyze a file as a user would, and drop what is said.

use std::io::Cursor;

use stealtrace::{
    analyze::{AnalyzeOptions, analyze_content},
    evidence::Kind,
    input,
    model::Severity,
    output::Output,
    pipeline::{Filter, Selection},
    report::{Format, Style, Units},
};

/// Analyze a file of this kind, or of whichever it is.
pub fn analyze(kind: Option<Kind>, bytes: &[u8]) {
    let options = AnalyzeOptions {
        file: "input".into(),
        kind,
        filter: Filter { pids: Vec::new(), tid: None, vcpu_id: None, comm: None },
        selection: Selection::EVERYTHING,
        style: Style { format: Format::Json, calls: false, color: false, units: Units::Human, utc: false },
        fail_on: Severity::Error,
    };
    let _any = input::content(Box::new(Cursor::new(bytes.to_vec())))
        .and_then(|content| analyze_content(&options, content, &Output::nowhere()));
}
