//! What stands below the pictures: vCPUs without findings, the summary, how it was made.

use std::env;

use maud::{Markup, html};

use super::{
    Seen,
    axes::Scale,
    lanes::Canvas,
    lines::{shown as points, steps},
    track::Track,
};
use crate::{
    model::Summary,
    os::shown::shown,
    report::{text, units},
};

/// vCPUs without findings that have a line.
const MOST_LINES: usize = 50;

pub(super) fn without_findings(sound: &[&Track], canvas: Canvas) -> Markup {
    let (shown, folded) = sound.split_at(sound.len().min(MOST_LINES));
    let row = |track: &&Track| html! { div.row { span { "vCPU " (track.name) } (small(track, Canvas { points: 60, ..canvas })) } };
    html! {
        @if !sound.is_empty() {
            h2 { "Without findings" }
            @for track in shown { (row(track)) }
            @if !folded.is_empty() {
                details { summary { "and " (folded.len()) " more" } @for track in folded { div.row { span { "vCPU " (track.name) } } } }
            }
        }
    }
}

pub(super) fn table(seen: &Seen, summary: &Summary) -> Markup {
    html! {
        @if !summary.vcpus.is_empty() {
            h2 { "All vCPUs" }
            details open[summary.vcpus.len() <= MOST_LINES] {
                summary { (count(summary.vcpus.len(), "vCPU")) @if summary.unlisted > 0 { ", and " (summary.unlisted) " that ended before" } }
                div.scroll {
                    table {
                        tr { @for title in text::titles(summary) { th { (title) } } }
                        @for vcpu in summary.vcpus.iter().take(1000) {
                            tr {
                                td { (vcpu.name) }
                                td { (text::thread(vcpu.creator.as_ref())) }
                                td { (text::thread(vcpu.runner.as_ref())) }
                                td { @for (thread, count) in vcpu.ioctls.iter().take(16) { (thread) " " (count) br; }
                                     @if vcpu.ioctls.len() > 16 { "and " (vcpu.ioctls.len() - 16) " more threads" } }
                                td { (vcpu.updates) }
                                td { (vcpu.findings) }
                            }
                        }
                    }
                }
            }
        }
        @if !summary.findings.is_empty() {
            h2 { "All findings" }
            ul { @for ((rule, severity), count) in &summary.findings { li { (severity) ": " (rule) " × " (count) } } }
        }
        p.note { (text::outcome(summary)) @if seen.tracks.is_empty() { ". No vCPU was seen." } }
    }
}

/// `1 vCPU`, `2 vCPUs`
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn how(seen: &Seen) -> Markup {
    let words = env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy()));
    let command: Vec<_> = ["stealtrace".to_owned()].into_iter().chain(words).collect();
    html! {
        footer {
            p { "Made by " code { (shown(&command.join(" "))) } @if let Some(utc) = seen.clock.utc(seen.clock.start_ns) { ", of a run that began at " (utc) } "." }
            p { "What each finding means, and how sure it is: " code { "stealtrace rules" } "." }
        }
    }
}

/// As a shell would take it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A vCPU without findings: its counter, a line high.
fn small(track: &Track, canvas: Canvas) -> Markup {
    let line = points(&track.steal, canvas);
    let scale = Scale::of([&line[..]], 2.0, 20.0);
    html! {
        svg.small viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label=(format!("vCPU {}", track.name)) {
            @if let Some(scale) = scale { path.line.steal d=(steps(&line, canvas.window, scale)) {} }
        }
        @if let Some(last) = line.last() { span { "steal " (units::exact(last.y.unsigned_abs())) } }
    }
}
