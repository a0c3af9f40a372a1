//! HTML: a run as one page with a picture of each vCPU that matters. Nothing is printed before the end.

mod axes;
mod bars;
mod closing;
mod lanes;
mod lines;
mod page;
mod scenario;
mod series;
mod track;

pub(super) use self::{
    page::{capital, frame},
    scenario::scenario,
};

use std::{
    collections::HashMap,
    io::{self, Write},
};

use stealtrace_common::event::Event;

use self::track::Track;
use super::{Clock, Reporter, Units};
use crate::{
    detect::Ruling,
    model::{Finding, Summary, VcpuName},
    record::Header,
};

/// vCPUs that are remembered; those with findings have pictures.
const MOST_VCPUS: usize = 4096;

pub(crate) struct Html<W> {
    out: W,
    units: Units,
    seen: Seen,
}

/// What the page will show.
struct Seen {
    header: Header,
    clock: Clock,
    tracks: HashMap<VcpuName, Track>,
    /// Findings that no event shows.
    loose: Vec<Finding>,
    notes: Vec<String>,
    events: u64,
    /// From the first event to the last.
    span: Option<(u64, u64)>,
    /// Does no event say when?
    is_order: bool,
    /// Events of vCPUs for which there was no room.
    left_out: u64,
}

impl<W: Write> Html<W> {
    pub(crate) fn new(clock: Clock, units: Units, out: W) -> Self {
        Self { out, units, seen: Seen::new(clock) }
    }
}

impl Seen {
    fn new(clock: Clock) -> Self {
        Self {
            header: Header::of_log(),
            clock,
            tracks: HashMap::new(),
            loose: Vec::new(),
            notes: Vec::new(),
            events: 0,
            span: None,
            is_order: false,
            left_out: 0,
        }
    }

    fn event(&mut self, event: &Event, vcpu: VcpuName) {
        self.events += 1;
        let x = self.place(event.time_ns);
        if event.vcpu != 0
            && let Some(track) = self.track(vcpu)
        {
            track.learn(event, x);
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let x = if self.is_order { self.events } else { finding.time_ns };
        if finding.vcpu.vm == 0 {
            self.loose.push(finding.clone());
        } else if let Some(track) = self.track(finding.vcpu) {
            track.find(finding, x);
        }
    }

    /// Where an event lies on the time axis; logs without times have the order of their lines.
    fn place(&mut self, time_ns: u64) -> u64 {
        self.is_order = time_ns == 0;
        let x = if self.is_order { self.events } else { time_ns };
        let (first, last) = self.span.unwrap_or((x, x));
        self.span = Some((first.min(x), last.max(x)));
        x
    }

    fn track(&mut self, name: VcpuName) -> Option<&mut Track> {
        if !self.tracks.contains_key(&name) && self.tracks.len() >= MOST_VCPUS {
            self.left_out += 1;
            return None;
        }
        Some(self.tracks.entry(name).or_insert_with(|| Track::new(name)))
    }
}

impl<W: Write> Reporter for Html<W> {
    fn draws(&self) -> bool {
        true
    }

    fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.seen.header = header.clone();
        Ok(())
    }

    fn event(&mut self, event: &Event, ruling: &Ruling) -> io::Result<()> {
        self.seen.event(event, ruling.vcpu);
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.seen.finding(finding);
        Ok(())
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        self.seen.notes.push(note.to_owned());
        Ok(())
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        self.out.write_all(page::page(&self.seen, summary, self.units).into_string().as_bytes())?;
        super::beside(summary);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
