//! A scenario of `verify`, as its second witness saw it: a picture of each vCPU that matters.

use std::cmp::Reverse;

use maud::{Markup, html};

use super::{Seen, axes::Window, lanes::Canvas, page::figure};
use crate::{report::Clock, verify::Transcript};

/// vCPUs that have a picture.
const MOST_PICTURES: usize = 2;
/// Points of a line.
const POINTS: usize = 200;

/// None where the witness saw no vCPU.
pub(in crate::report) fn scenario(transcript: &Transcript) -> Option<Markup> {
    let start_ns = transcript.moments.first()?.event.time_ns;
    let mut seen = Seen::new(Clock { start_ns, utc_offset_ns: None });
    for moment in &transcript.moments {
        seen.event(&moment.event, moment.vcpu);
        moment.findings.iter().for_each(|finding| seen.finding(finding));
    }
    let (from, to) = seen.span?;
    let window = Window { from, to };
    let canvas = Canvas { window, zero: start_ns, points: POINTS, gaps: true, is_order: false };
    let mut tracks: Vec<_> = seen.tracks.values().collect();
    tracks.sort_unstable_by_key(|track| (Reverse(track.found), track.name));
    let shown = tracks.iter().take(MOST_PICTURES);
    (!tracks.is_empty()).then(|| {
        html! {
            @for track in shown { (figure(track, canvas)) }
            @if transcript.left_out > 0 { p.note { (transcript.left_out) " further events are not drawn." } }
        }
    })
}
