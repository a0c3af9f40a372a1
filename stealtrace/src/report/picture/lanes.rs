//! One vCPU's picture: flags of findings, the guest's counter, what its threads waited, and who ran it; one time axis.

use maud::{Markup, html};

use super::{
    axes::{LEFT, RIGHT, Scale, WIDTH, Window, short},
    lines::{between, labels, line, px, shown, steps},
    series::Point,
    track::{Act, Mark, Stay, Track},
};
use crate::{ioctl, os::shown::shown as harmless, report::is_of_consumed};

/// Where flags stand.
const FLAGS: f64 = 26.0;
/// How high a lane is, if it has something to show; and if not.
const COUNTER: f64 = 130.0;
const RUN_DELAY: f64 = 150.0;
const OWNER: f64 = 30.0;
const UNKNOWN: f64 = 22.0;
/// Between two lanes.
const GAP: f64 = 36.0;

/// Where a lane lies.
#[derive(Clone, Copy)]
struct Place {
    top: f64,
    height: f64,
}

impl Place {
    const fn bottom(self) -> f64 {
        self.top + self.height
    }
}

/// Where everything lies.
struct Layout {
    counter: Place,
    run_delay: Place,
    owner: Place,
}

impl Layout {
    fn of(track: &Track) -> Self {
        let height = |known, height| if known { height } else { UNKNOWN };
        let counter = Place { top: FLAGS + 22.0, height: height(!track.steal.is_empty(), COUNTER) };
        let is_known =
            !track.last_steal.is_empty() || track.run_delay.iter().any(|series| !series.is_empty());
        let run_delay = Place { top: counter.bottom() + GAP, height: height(is_known, RUN_DELAY) };
        let owner = Place { top: run_delay.bottom() + GAP, height: OWNER };
        Self { counter, run_delay, owner }
    }

    fn axis(&self) -> f64 {
        self.owner.bottom() + 6.0
    }
}

/// What all pictures of a page have in common.
#[derive(Clone, Copy)]
pub(super) struct Canvas {
    pub(super) window: Window,
    /// Where the time axis counts from.
    pub(super) zero: u64,
    /// Points that a line may have.
    pub(super) points: usize,
    /// Is it not known what was between two points?
    pub(super) gaps: bool,
    /// Is the axis the order of lines in a log, which tells no times?
    pub(super) is_order: bool,
}

pub(super) fn picture(track: &Track, canvas: Canvas) -> Markup {
    let layout = Layout::of(track);
    let title = format!("vCPU {}", track.name);
    let marks: Vec<_> =
        track.marks.iter().enumerate().filter(|(_, mark)| canvas.window.has(mark.x)).collect();
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", layout.axis() + 32.0)) role="img" aria-label=(title) {
            (time_axis(canvas, &layout))
            (counter(track, canvas, layout.counter))
            (run_delay(track, canvas, layout.run_delay))
            (owner(track, canvas, layout.owner))
            @for (n, mark) in &marks { (flag(*n, mark, canvas, layout.axis())) }
            @for (_, mark) in &marks { (arrow(mark, canvas, &layout)) }
        }
    }
}

fn time_axis(canvas: Canvas, layout: &Layout) -> Markup {
    let Canvas { window, zero, .. } = canvas;
    let (top, axis) = (layout.counter.top, layout.axis());
    html! {
        @for at in window.ticks(zero) {
            @let x = window.x(at);
            line.grid x1=(px(x)) x2=(px(x)) y1=(top) y2=(axis) {}
            text.tick x=(px(x)) y=(axis + 14.0) text-anchor="middle" {
                @if canvas.is_order { (at - zero) } @else { (short((at - zero).cast_signed())) }
            }
        }
        text.tick x=(LEFT - 8.0) y=(axis + 14.0) text-anchor="end" {
            @if canvas.is_order { "line of the log" } @else { "time since start" }
        }
    }
}

fn lane(title: &[&str], Place { top, height }: Place) -> Markup {
    html! {
        rect.lane x=(LEFT) y=(top) width=(RIGHT - LEFT) height=(height) {}
        @for (n, line) in title.iter().enumerate() {
            text.title x="4" y=(top + 12.0 + 14.0 * n as f64) { (line) }
        }
    }
}

/// A lane with values, or with the fact that there are none.
fn graded(title: &[&str], place: Place, scale: Option<Scale>) -> Markup {
    let title = if scale.is_some() { title } else { &title[..1] };
    html! {
        (lane(title, place))
        @if let Some(scale) = scale {
            @for value in scale.ticks() {
                line.grid x1=(LEFT) x2=(RIGHT) y1=(px(scale.y(value))) y2=(px(scale.y(value))) {}
                text.tick x=(LEFT - 6.0) y=(px(scale.y(value) + 4.0)) text-anchor="end" { (short(value)) }
            }
        } @else {
            text.unknown x=((LEFT + RIGHT) / 2.0) y=(place.top + 15.0) text-anchor="middle" { "not known" }
        }
    }
}

/// The guest's counter against what its runners waited: they are one line as long as nothing is wrong.
fn counter(track: &Track, canvas: Canvas, place: Place) -> Markup {
    let [steal, waited] = [&track.steal, &track.waited].map(|series| shown(series, canvas));
    let scale = Scale::of([&steal[..], &waited], place.top, place.height);
    html! {
        (graded(&["steal the", "guest reads"], place, scale))
        @if let Some(scale) = scale {
            path.gap d=(between(&steal, &waited, canvas.window, scale)) {}
            @if scale.least < 0 && scale.most >= 0 { (below_zero(&steal, scale, place)) }
            path.waited d=(steps(&waited, canvas.window, scale)) {
                title { "what its runners waited" }
            }
            (line("steal", &steal, canvas, scale, "the guest's counter"))
        }
    }
}

/// The guest's counter has no sign: below zero it reads 584 years.
fn below_zero(steal: &[Point], scale: Scale, place: Place) -> Markup {
    let zero = scale.y(0);
    let wrapped = steal.iter().rev().find(|point| point.y < 0).map(|point| point.y.cast_unsigned());
    let teeth = (0..=((RIGHT - LEFT) / 8.0) as u32).fold(String::new(), |path, n| {
        let y = zero + if n % 2 == 0 { -3.0 } else { 3.0 };
        path + &format!("{}{} {}", if n == 0 { "M" } else { "L" }, px(LEFT + f64::from(n) * 8.0), px(y))
    });
    html! {
        path.break d=(teeth) {}
        @if let Some(bits) = wrapped {
            text.warn x=(RIGHT - 6.0) y=(px(place.bottom() - 6.0)) text-anchor="end" {
                "wrapped below zero: the guest reads " (format!("{bits:#x}")) " ns, 584 years"
            }
        }
    }
}

/// last_steal against what each thread has waited: where it is above the line of the thread that runs the vCPU, the next
/// update underflows.
fn run_delay(track: &Track, canvas: Canvas, place: Place) -> Markup {
    let last_steal = shown(&track.last_steal, canvas);
    let threads: Vec<_> = track
        .run_delay
        .iter()
        .enumerate()
        .map(|(n, series)| (n, shown(series, canvas)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let lines = threads.iter().map(|(_, points)| &points[..]).chain([&last_steal[..]]);
    let scale = Scale::of(lines, place.top, place.height);
    html! {
        (graded(&["waited by", "each thread,", "last_steal"], place, scale))
        @if let Some(scale) = scale {
            (line("last-steal", &last_steal, canvas, scale, "last_steal: up to where KVM has charged"))
            @for (n, points) in &threads {
                (line(&format!("thread {}", style(*n)), points, canvas, scale, &track.threads[*n].to_string()))
            }
            @for (n, x, y) in labels(&threads, canvas.window, scale) {
                @let side = if x > (LEFT + RIGHT) / 2.0 { "end" } else { "start" };
                text.letter x=(px(x)) y=(px(y)) text-anchor=(side) { (letter(n)) " " (track.threads[n]) }
            }
        }
    }
}

/// Who was in KVM_RUN; other threads' ioctls as ticks below, restores as filled ones.
fn owner(track: &Track, canvas: Canvas, place: Place) -> Markup {
    let Canvas { window, .. } = canvas;
    let Place { top, height } = place;
    html! {
        (lane(&["who runs it"], place))
        @for stay in joined(&track.stays, window) {
            @let (from, to) = (window.x(stay.from), window.x(stay.to));
            @let style = stay.thread.map_or("several".to_owned(), style);
            @let name = stay.thread.map_or("several threads".to_owned(), |n| track.threads[n].to_string());
            rect class=(format!("stay {style}")) x=(px(from)) y=(top + 3.0) width=(px((to - from).max(1.5)))
                height=(height - 12.0) {
                title { "KVM_RUN by " (name) }
            }
            @if to - from > 24.0 {
                text.letter x=(px(from + 4.0)) y=(top + 16.0) {
                    (stay.thread.map_or("…".to_owned(), letter))
                    @if to - from > 9.0 * name.len() as f64 { " " (name) }
                }
            }
        }
        @for ioctl in apart(&track.ioctls, window) {
            line.ioctl x1=(px(window.x(ioctl.x))) x2=(px(window.x(ioctl.x))) y1=(top + height - 8.0) y2=(top + height) {
                title { (ioctl::name(ioctl.number)) " by " (track.threads[ioctl.thread]) }
            }
        }
        @for restore in track.restores.iter().filter(|act| window.has(act.x)) {
            @let x = window.x(restore.x);
            path.restore d=(format!("M{} {}l-5 9h10z", px(x), top + height - 9.0)) {
                title { "steal time restored by " (track.threads[restore.thread]) }
            }
        }
    }
}

fn flag(n: usize, mark: &Mark, canvas: Canvas, axis: f64) -> Markup {
    let x = canvas.window.x(mark.x);
    let class = format!("flag {}", mark.finding.severity);
    html! {
        g class=(class) {
            line x1=(px(x)) x2=(px(x)) y1=(FLAGS) y2=(axis) {}
            circle cx=(px(x)) cy=(FLAGS - 10.0) r="9" {}
            text x=(px(x)) y=(FLAGS - 6.0) text-anchor="middle" { (n + 1) }
            title { (mark.finding.severity) ": " (mark.finding.rule) ": " (harmless(&mark.finding.what)) }
        }
    }
}

/// From the act to the update that consumed it.
fn arrow(mark: &Mark, canvas: Canvas, layout: &Layout) -> Markup {
    let consumed = is_of_consumed(&mark.finding);
    let Some(Act { x, is_restore, .. }) = mark.act.filter(|act| consumed && canvas.window.has(act.x)) else {
        return html! {};
    };
    let (from, to, low) = (canvas.window.x(x), canvas.window.x(mark.x), layout.owner.top);
    let high = layout.run_delay.bottom();
    html! {
        path.arrow d=(format!("M{} {low}C{} {} {} {} {} {high}", px(from), px(from), low - 30.0, px(to), high + 40.0, px(to))) {
            title { (if is_restore { "the restore" } else { "the hand-off" }) " that this update consumed" }
        }
        path.head d=(format!("M{} {high}l-4 8h8z", px(to))) {}
    }
}

/// Of what lies closer than a screen shows, one piece.
fn joined(stays: &[Stay], window: Window) -> Vec<Stay> {
    let least = window.length() / 1000;
    let mut joined: Vec<Stay> = Vec::new();
    for stay in stays.iter().filter(|stay| stay.to >= window.from && stay.from <= window.to) {
        match joined.last_mut() {
            Some(last) if stay.from.saturating_sub(last.from) < least => {
                last.thread = last.thread.filter(|thread| Some(*thread) == stay.thread);
                last.to = stay.to;
            }
            _ => joined.push(*stay),
        }
    }
    joined
}

fn apart(ioctls: &[super::track::Ioctl], window: Window) -> Vec<super::track::Ioctl> {
    let least = window.length() / 500;
    let mut apart: Vec<super::track::Ioctl> = Vec::new();
    for ioctl in ioctls.iter().filter(|ioctl| window.has(ioctl.x)) {
        if apart.last().is_none_or(|last| ioctl.x - last.x >= least || ioctl.thread != last.thread) {
            apart.push(*ioctl);
        }
    }
    apart
}

/// A thread's letter: A to Z.
pub(super) fn letter(thread: usize) -> String {
    char::from_u32(u32::from(b'A') + thread as u32 % 26).map(String::from).unwrap_or_default()
}

/// How its line looks: the letter and the dashes tell lines apart where colours do not.
pub(super) fn style(thread: usize) -> String {
    const STYLES: usize = 8;
    format!("s{}", thread % STYLES)
}
