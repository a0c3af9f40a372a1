//! Where a moment and a value lie on the page, and what is written beside an axis.

use super::series::Point;

/// Where lanes begin and end, in the units of the drawing.
pub(super) const LEFT: f64 = 118.0;
pub(super) const RIGHT: f64 = 980.0;
pub(super) const WIDTH: f64 = 1000.0;

/// Moments that are shown, from the left to the right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Window {
    pub(super) fn x(self, at: u64) -> f64 {
        let length = self.to.saturating_sub(self.from).max(1) as f64;
        let from = self.from as f64;
        LEFT + ((at as f64 - from) / length).clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    pub(super) fn has(self, at: u64) -> bool {
        (self.from..=self.to).contains(&at)
    }

    pub(super) fn length(self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// Values from the bottom of a lane to its top.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) least: i64,
    pub(super) most: i64,
    pub(super) top: f64,
    pub(super) height: f64,
}

impl Scale {
    /// That holds all of these.
    pub(super) fn of<'a>(
        lines: impl IntoIterator<Item = &'a [Point]>,
        top: f64,
        height: f64,
    ) -> Option<Self> {
        let mut range: Option<(i64, i64)> = None;
        for point in lines.into_iter().flatten() {
            let (least, most) = range.unwrap_or((point.y, point.y));
            range = Some((least.min(point.y), most.max(point.y)));
        }
        range.map(|(least, most)| Self { least, most, top, height })
    }

    pub(super) fn y(self, value: i64) -> f64 {
        let range = (self.most as f64 - self.least as f64).max(1.0);
        self.top + self.height - (value as f64 - self.least as f64) / range * self.height
    }

    /// Round values within it.
    pub(super) fn ticks(self) -> Vec<i64> {
        let step = step(self.most as f64 - self.least as f64, 3.0);
        ticks(self.least as f64, self.most as f64, step)
    }
}

impl Window {
    /// Round moments within it, counted from this one.
    pub(super) fn ticks(self, zero: u64) -> Vec<u64> {
        let (from, to) = (self.from.saturating_sub(zero) as f64, self.to.saturating_sub(zero) as f64);
        let ticks = ticks(from, to, step(to - from, 6.0));
        ticks.into_iter().map(|at| zero + at.unsigned_abs()).collect()
    }
}

/// 1, 2 or 5, and zeros: about so many of them.
fn step(range: f64, about: f64) -> f64 {
    let rough = (range / about).max(1.0);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

fn ticks(from: f64, to: f64, step: f64) -> Vec<i64> {
    let first = (from / step).ceil();
    (0..=12).map(|n| (first + f64::from(n)) * step).take_while(|at| *at <= to).map(|at| at as i64).collect()
}

/// A time beside an axis: `1.5 s`, `-20 ms`.
pub(super) fn short(ns: i64) -> String {
    let sign = if ns < 0 { "−" } else { "" };
    let size = ns.unsigned_abs();
    let (unit, scale) = match size {
        0 => return "0".to_owned(),
        1..1_000 => ("ns", 1.0),
        1_000..1_000_000 => ("µs", 1e3),
        1_000_000..1_000_000_000 => ("ms", 1e6),
        1_000_000_000.. => ("s", 1e9),
    };
    let number = format!("{:.3}", size as f64 / scale);
    let number = number.trim_end_matches('0').trim_end_matches('.');
    format!("{sign}{number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::{Scale, Window, short};

    #[test]
    fn ticks_are_round_and_few() {
        let scale = Scale { least: -29_641_244_679, most: 17_603_473_391, top: 0.0, height: 100.0 };
        assert_eq!(scale.ticks(), [-20_000_000_000, 0]);
        let window = Window { from: 1_000, to: 61_000_001_000 };
        let ticks: Vec<_> = window.ticks(1_000).into_iter().map(|at| (at - 1_000) / 1_000_000_000).collect();
        assert_eq!(ticks, [0, 20, 40, 60]);
    }

    #[test]
    fn extremes_stay_within_the_lane() {
        let scale = Scale { least: i64::MIN, most: i64::MAX, top: 10.0, height: 100.0 };
        assert!(scale.ticks().len() < 13);
        assert!((10.0..=110.0).contains(&scale.y(0)));
    }

    #[test]
    fn times_are_short() {
        assert_eq!(
            ["0", "1.5 s", "−20 ms", "17.604 s"],
            [0, 1_500_000_000, -20_000_000, 17_603_900_000].map(short)
        );
    }
}
