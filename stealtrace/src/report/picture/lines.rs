//! Lines: how points become paths, and where their names stand.

use maud::{Markup, html};

use super::{
    axes::{Scale, Window},
    lanes::Canvas,
    series::{Point, Series},
};

/// A line; points and a dotted line where it is not known what was between.
pub(super) fn line(class: &str, points: &[Point], canvas: Canvas, scale: Scale, title: &str) -> Markup {
    let window = canvas.window;
    html! {
        path class=(format!("line {class} {}", if canvas.gaps { "gaps" } else { "" }))
            d=(steps(points, window, scale)) { title { (title) } }
        @if canvas.gaps {
            @for point in points.iter().filter(|point| window.has(point.x)) {
                circle class=(format!("dot {class}")) cx=(px(window.x(point.x))) cy=(px(scale.y(point.y))) r="2" {}
            }
        }
    }
}

/// Values stay until the next one.
pub(super) fn steps(points: &[Point], window: Window, scale: Scale) -> String {
    let mut path = String::new();
    for (n, point) in points.iter().enumerate() {
        let (x, y) = (px(window.x(point.x)), px(scale.y(point.y)));
        path += &if n == 0 { format!("M{x} {y}") } else { format!("H{x}V{y}") };
    }
    path
}

/// The area between two lines.
pub(super) fn between(one: &[Point], other: &[Point], window: Window, scale: Scale) -> String {
    let (Some(_), Some(last)) = (one.first(), other.last()) else { return String::new() };
    let mut path = steps(one, window, scale);
    path += &format!("H{}V{}", px(window.x(last.x)), px(scale.y(last.y)));
    for points in other.windows(2).rev() {
        path += &format!("V{}H{}", px(scale.y(points[0].y)), px(window.x(points[0].x)));
    }
    path + "Z"
}

/// A sound counter and what was waited are drawn from the same points.
pub(super) fn shown(series: &Series, canvas: Canvas) -> Vec<Point> {
    series.within(canvas.window.from, canvas.window.to, canvas.points)
}

/// Where the names of lines stand: above their ends, and above each other.
pub(super) fn labels(
    threads: &[(usize, Vec<Point>)],
    window: Window,
    scale: Scale,
) -> Vec<(usize, f64, f64)> {
    const HIGH: f64 = 13.0;
    const LONG: f64 = 140.0;
    let mut labels: Vec<(usize, f64, f64)> = Vec::new();
    for (n, points) in threads {
        let Some(end) = points.iter().rev().find(|point| window.has(point.x)) else { continue };
        let (x, mut y) = (window.x(end.x), scale.y(end.y) - 5.0);
        while labels.iter().any(|(_, other, height)| (x - other).abs() < LONG && (y - height).abs() < HIGH) {
            y -= HIGH;
        }
        labels.push((*n, x, y));
    }
    labels
}

/// To a tenth.
pub(super) fn px(at: f64) -> String {
    let text = format!("{at:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
