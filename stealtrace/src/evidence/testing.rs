//! Reads a text in tests and keeps what came out.

use std::io;

use stealtrace_common::event::Event;

use super::{Kind, Lines, Sink, Tally, reader};
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
    pub(crate) not_understood: u64,
    pub(crate) missed: Vec<&'static str>,
    pub(crate) tally: Tally,
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

    fn missed(&mut self, why: &'static str) {
        self.missed.push(why);
    }
}

pub(crate) fn read(kind: Kind, text: &str) -> Kept {
    let (mut kept, mut tally) = (Kept::default(), Tally::default());
    let mut reader = reader(kind).expect("a kind of text");
    let mut lines = Lines::new(text.as_bytes());
    while tally.next_line(&mut lines, reader.as_mut(), &mut kept).expect("nothing is written") {}
    reader.end(&mut kept).expect("nothing is written");
    let waited = kept.engine.finish();
    kept.findings.extend(waited);
    kept.not_understood = tally.not_understood();
    kept.tally = tally;
    kept
}
