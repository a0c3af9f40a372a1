//! A log: its reader says what it shows, line by line; the pipeline judges that.

use std::io;

use anyhow::Result;
use stealtrace_common::event::Event;

use super::{AnalyzeOptions, Bounds, finish, pipeline};
use crate::{
    evidence::{Kind, Lines, Missed, Reader, Sink, Tally},
    input::Input,
    model::{Finding, Losses, Summary, VcpuKey},
    os::output::Output,
    pipeline::{Filter, Flow, Pipeline},
    record::{End, Header},
};

pub(super) fn read_log(
    options: &AnalyzeOptions,
    kind: Kind,
    mut reader: Box<dyn Reader>,
    input: Input,
    out: &Output,
) -> Result<Summary> {
    let mut judge = Judge {
        pipeline: pipeline(options, &Header::of_log(), out),
        filter: &options.filter,
        out,
        bounds: Bounds::default(),
        missed: Missed::default(),
        enough: false,
    };
    let tally = read_lines(input, reader.as_mut(), &mut judge)?;
    let end = judge.end(&tally, kind);
    let made = Summary { source: format!("{} log", kind.word()), ..Summary::default() };
    finish(judge.pipeline, &options.filter, end, made, out)
}

fn read_lines(input: Input, reader: &mut dyn Reader, judge: &mut Judge<'_>) -> io::Result<Tally> {
    let (mut lines, mut tally) = (Lines::new(input), Tally::default());
    while !judge.enough && !judge.out.is_over() && tally.next_line(&mut lines, reader, judge)? {}
    if !judge.enough {
        reader.end(judge)?;
    }
    for note in judge.missed.notes() {
        judge.pipeline.note(&note)?;
    }
    judge.pipeline.note(&tally.note())?;
    Ok(tally)
}

/// Hands what a reader says to the pipeline.
struct Judge<'a> {
    pipeline: Pipeline,
    filter: &'a Filter,
    out: &'a Output,
    bounds: Bounds,
    missed: Missed,
    enough: bool,
}

impl Judge<'_> {
    fn end(&self, tally: &Tally, kind: Kind) -> End {
        End {
            losses: Losses { undecodable: self.missed.total(), ..Losses::default() },
            unproved: tally.unproved(kind).filter(|_| !self.enough),
            ..End::default()
        }
    }
}

/// What the bounds leave out.
const TOO_MANY: &str = "events or findings are about more vCPUs, threads and ioctls than are remembered";

impl Sink for Judge<'_> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if !self.filter.admits(event) || self.enough {
            return Ok(());
        }
        if self.bounds.admit(event) {
            self.enough = self.pipeline.event(event)? == Flow::Stop;
        } else {
            self.missed(TOO_MANY);
        }
        Ok(())
    }

    fn finding(&mut self, vcpu: VcpuKey, finding: Finding) -> io::Result<()> {
        if !self.filter.admits_finding(&finding) || self.enough {
            return Ok(());
        }
        if self.bounds.admit_finding(vcpu, &finding) {
            self.enough = self.pipeline.found(vcpu, finding)? == Flow::Stop;
        } else {
            self.missed(TOO_MANY);
        }
        Ok(())
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        self.pipeline.note(note)
    }

    fn missed(&mut self, why: &'static str) {
        self.missed.add(why);
    }
}
