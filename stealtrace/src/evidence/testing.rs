//! Reads a text in tests and keeps what came out.

use std::io;

use stealtrace_common::event::Event;

use super::{Kind, Line, Sink, reader};
use crate::{
    detect::Engine,
    model::{Finding, VcpuKey},
};

/// What came out of a text.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) engine: Engine,
    pub(crate) findings: Vec<Finding>,
    pub(crate) notes: Vec<String>,
    pub(crate) not_understood: usize,
}

impl Sink for Kept {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.findings.extend(self.engine.judge(event).told);
        Ok(())
    }

    fn finding(&mut self, vcpu: VcpuKey, finding: Finding) -> io::Result<()> {
        self.findings.extend(self.engine.admit(vcpu, finding));
        Ok(())
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        self.notes.push(note.to_owned());
        Ok(())
    }
}

pub(crate) fn read(kind: Kind, text: &str) -> Kept {
    let mut kept = Kept::default();
    let mut reader = reader(kind).expect("a kind of text");
    for line in text.lines() {
        if reader.line(line, &mut kept).expect("nothing is written") == Line::NotUnderstood {
            kept.not_understood += 1;
        }
    }
    reader.end(&mut kept).expect("nothing is written");
    let waited = kept.engine.finish();
    kept.findings.extend(waited);
    kept
}
