//! The page: verdict, host, pictures with their evidence, what closes it.

use std::cmp::Reverse;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    Seen,
    axes::Window,
    bars::bars,
    closing::{how, table, without_findings},
    lanes::{Canvas, letter, picture, style},
    track::Track,
};
use crate::{
    detect::steal_underflow,
    model::{Finding, Severity, Summary, Value},
    os::shown::shown,
    report::{Units, is_of_consumed, text, units},
};

/// vCPUs that have a picture.
const MOST_PICTURES: usize = 50;
/// Points of all lines together: the page stays below three megabytes.
const MOST_POINTS: usize = 150_000;
/// Findings of one vCPU that are told in full.
const MOST_TOLD: usize = 20;

pub(super) fn page(seen: &Seen, summary: &Summary, units: Units) -> Markup {
    let mut tracks: Vec<_> = seen.tracks.values().collect();
    tracks.sort_unstable_by_key(|track| (Reverse(worst(track)), Reverse(track.found), track.name));
    let found = tracks.partition_point(|track| track.found > 0);
    let (found, sound) = tracks.split_at(found);
    let canvas = canvas(seen, summary, found);
    let worst = first_of_worst(seen, found);
    let headline = headline(worst, summary);
    frame(
        &format!("stealtrace: {headline}"),
        &html! {
            (verdict(seen, summary, worst, &headline, units))
            (facts(seen, summary))
            @for track in found.iter().take(MOST_PICTURES) { (section(track, canvas, units)) }
            @if found.len() > MOST_PICTURES {
                p.note { "and " (found.len() - MOST_PICTURES) " more vCPUs with findings: the table below" }
            }
            (loose(seen, units))
            (without_findings(sound, canvas))
            (table(seen, summary))
            (how(seen))
        },
    )
}

/// One file that needs no other.
pub(in crate::report) fn frame(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

fn worst(track: &Track) -> Option<Severity> {
    track.marks.iter().map(|mark| mark.finding.severity).max()
}

fn canvas(seen: &Seen, summary: &Summary, found: &[&Track]) -> Canvas {
    let (from, to) = seen.span.unwrap_or_default();
    let drawn = found.iter().take(MOST_PICTURES);
    let lines: usize = drawn.map(|track| 2 * (3 + track.threads.len())).sum();
    Canvas {
        window: Window { from, to },
        zero: if seen.is_order { 0 } else { seen.clock.start_ns.min(from) },
        points: (MOST_POINTS / lines.max(1)).clamp(40, 1200),
        gaps: summary.edges,
        is_order: seen.is_order,
    }
}

/// The worst of all findings, the first of its kind.
fn first_of_worst<'a>(seen: &'a Seen, found: &[&'a Track]) -> Option<&'a Finding> {
    let all = found.iter().flat_map(|track| track.marks.iter().map(|mark| &mark.finding)).chain(&seen.loose);
    all.min_by_key(|finding| rank(finding))
}

/// The worst come first; an underflow says more than the counter that it leaves behind.
fn rank(finding: &Finding) -> impl Ord + use<> {
    let weight = u8::from(is_of_consumed(finding)) + u8::from(finding.rule == steal_underflow::RULE.id);
    (Reverse(finding.severity), Reverse(weight), finding.time_ns)
}

fn headline(worst: Option<&Finding>, summary: &Summary) -> String {
    match worst {
        Some(finding) if finding.severity == Severity::Error => {
            format!("the steal time of {} is wrong", of_whom(finding))
        }
        Some(finding) => format!("{} on {}", finding.rule, of_whom(finding)),
        None if summary.inconclusive().is_some() => "nothing found, but that proves nothing".to_owned(),
        None => "no finding".to_owned(),
    }
}

fn of_whom(finding: &Finding) -> String {
    if finding.vcpu.vm == 0 { "the guest".to_owned() } else { format!("vCPU {}", finding.vcpu) }
}

fn verdict(seen: &Seen, summary: &Summary, worst: Option<&Finding>, headline: &str, units: Units) -> Markup {
    let class = worst.map_or("ok".to_owned(), |finding| finding.severity.to_string());
    html! {
        header class=(class) {
            h1 { (capital(headline)) }
            @if let Some(finding) = worst {
                p { (shown(&finding.what)) @if finding.vcpu.vm != 0 && finding.time_ns != 0 {
                    ", first " (units::seconds(seen.clock.since_start(finding.time_ns))) " after the start" } "." }
                p { (numbers(finding, units)) }
                p { strong { "What to do: " } (finding.advice) "." }
            } @else {
                p { (text::outcome(summary)) }
            }
            @if let Some(reason) = summary.inconclusive() { p { strong { "Inconclusive: " } (shown(&reason)) "." } }
        }
    }
}

/// The finding's evidence, in a line.
fn numbers(finding: &Finding, units: Units) -> String {
    let fields = finding.evidence.iter().filter(|(_, value)| *value != Value::Unknown);
    let shown: Vec<_> = fields
        .map(|(name, value)| format!("{}: {}", name.replace('_', " "), text::show(value, units)))
        .collect();
    shown.join(" · ")
}

pub(in crate::report) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn facts(seen: &Seen, summary: &Summary) -> Markup {
    let header = &seen.header;
    let lost = summary.losses.total();
    html! {
        dl.facts {
            @for (name, value) in [
                ("kernel", header.kernel.clone()),
                ("seen by", summary.source.clone()),
                ("steal code", header.era.clone()),
                ("CPUs", if header.cpus == 0 { String::new() } else { header.cpus.to_string() }),
                ("events", summary.events.to_string()),
                ("lost", lost.to_string()),
                ("time", if summary.duration_ns == 0 { String::new() } else { units::seconds(summary.duration_ns) }),
            ] {
                @if !value.is_empty() { div { dt { (name) } dd { (shown(&value)) } } }
            }
        }
        @if summary.edges {
            p.note { "Only what can change a judgement was recorded: dots are what is known, dotted lines are not." }
        }
        @if seen.left_out > 0 { p.note { (seen.left_out) " events of further vCPUs are not drawn." } }
        @for note in &seen.notes { p.note { (shown(note)) } }
    }
}

fn section(track: &Track, canvas: Canvas, units: Units) -> Markup {
    let told: Vec<_> = track.marks.iter().map(|mark| &mark.finding).take(MOST_TOLD).collect();
    html! {
        section {
            h2 { "vCPU " (track.name) }
            (figure(track, canvas))
            (self::told(&told, units))
            @if track.found > told.len() as u64 { p.note { "and " (track.found - told.len() as u64) " more" } }
        }
    }
}

/// A vCPU's picture, with its legend, and what matters from close by.
pub(super) fn figure(track: &Track, canvas: Canvas) -> Markup {
    html! {
        (legend(track))
        div.scroll { (picture(track, canvas)) }
        @if let Some(window) = close_up(track, canvas) {
            p.note { "The first of the worst, from close by:" }
            div.scroll { (picture(track, Canvas { window, ..canvas })) }
        }
    }
}

/// What happened around the worst finding, if the whole is too long to see it.
fn close_up(track: &Track, canvas: Canvas) -> Option<Window> {
    if canvas.is_order {
        return None; // what lies near in a log need not be near in time
    }
    let mark = track.marks.iter().min_by_key(|mark| rank(&mark.finding))?;
    let from = mark.act.map_or(mark.x, |act| act.x);
    let margin = (mark.x - from).max(canvas.window.length() / 400).max(1);
    let window = Window {
        from: from.saturating_sub(margin).max(canvas.window.from),
        to: (mark.x + margin).min(canvas.window.to),
    };
    (window.length() < canvas.window.length() / 4).then_some(window)
}

fn legend(track: &Track) -> Markup {
    html! {
        p.legend {
            span { i.k.steal {} "the guest's counter" }
            span { i.k.waited {} "what its runners waited" }
            span { i.k.last-steal {} "last_steal" }
            @for (n, thread) in track.threads.iter().enumerate() {
                span { i class=(format!("k {}", style(n))) {} b { (letter(n)) } " " (thread) }
            }
            @if !track.restores.is_empty() { span { "▲ steal time restored" } }
            @if !track.ioctls.is_empty() { span { "| ioctl of another thread" } }
            span { "① finding" }
        }
    }
}

fn told(findings: &[&Finding], units: Units) -> Markup {
    html! {
        div.scroll {
            table {
                tr { th { "" } th { "finding" } th { "by" } th { "what" } th { "evidence" } }
                @for (n, finding) in findings.iter().enumerate() {
                    tr class=(finding.severity) {
                        td { (n + 1) }
                        td { strong { (finding.severity) } br; (finding.rule) }
                        td { (finding.caller) br; (crate::ioctl::name(finding.ioctl)) }
                        td { (shown(&finding.what)) }
                        td { (numbers(finding, units)) }
                    }
                }
            }
        }
    }
}

/// Findings of logs that do not tell the vCPU.
fn loose(seen: &Seen, units: Units) -> Markup {
    let findings: Vec<_> = seen.loose.iter().take(MOST_PICTURES).collect();
    html! {
        @if !findings.is_empty() {
            h2 { "Findings" }
            @for finding in findings.iter().take(8) { (bars(finding)) }
            (told(&findings, units))
            @if seen.loose.len() > findings.len() { p.note { "and " (seen.loose.len() - findings.len()) " more" } }
        }
    }
}

const STYLE: &str = include_str!("style.css");
