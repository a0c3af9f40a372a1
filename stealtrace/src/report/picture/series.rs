//! What a number was over time, in bounded memory: of many points those are kept that a picture shows.

/// A moment and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) x: u64,
    pub(super) y: i64,
}

/// Points in the order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Series(Vec<Point>);

/// More than a screen is wide, four for each column.
const MOST: usize = 8192;
/// Of so many neighbours four are kept.
const GROUP: usize = 8;

impl Series {
    pub(super) fn push(&mut self, x: u64, y: i64) {
        let point = Point { x, y };
        if self.0.last() == Some(&point) {
            return;
        }
        if self.0.len() >= MOST {
            self.0 = thinned(&self.0);
        }
        self.0.push(point);
    }

    /// As many as there is room for, between two moments; and one on each side, so that lines reach the edges.
    pub(super) fn within(&self, from: u64, to: u64, most: usize) -> Vec<Point> {
        let begin = self.0.partition_point(|point| point.x < from).saturating_sub(1);
        let end = (self.0.partition_point(|point| point.x <= to) + 1).min(self.0.len());
        let mut points = self.0.get(begin..end).unwrap_or_default().to_vec();
        while points.len() > most.max(GROUP) {
            points = thinned(&points);
        }
        points
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of each group the first and the last, the lowest and the highest: no extreme is hidden.
fn thinned(points: &[Point]) -> Vec<Point> {
    points.chunks(GROUP).flat_map(outline).collect()
}

fn outline(group: &[Point]) -> Vec<Point> {
    let last = group.len() - 1;
    let by_value = |&i: &usize| group[i].y;
    let lowest = (0..=last).min_by_key(by_value).unwrap_or(0);
    let highest = (0..=last).max_by_key(by_value).unwrap_or(0);
    let mut kept = vec![0, lowest, highest, last];
    kept.sort_unstable();
    kept.dedup();
    kept.into_iter().map(|i| group[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::{MOST, Point, Series};

    #[test]
    fn a_million_points_keep_their_extremes_and_ends() {
        let mut series = Series::default();
        for x in 0..1_000_000 {
            let y = match x {
                345_678 => i64::MIN,
                765_432 => i64::MAX,
                _ => x as i64 % 100,
            };
            series.push(x, y);
        }
        let points = series.within(0, u64::MAX, 1000);
        assert!(points.len() <= 1000 && series.0.len() <= MOST);
        assert!(points.contains(&Point { x: 345_678, y: i64::MIN }));
        assert!(points.contains(&Point { x: 765_432, y: i64::MAX }));
        assert_eq!((points[0].x, points[points.len() - 1].x), (0, 999_999));
    }

    #[test]
    fn a_window_has_a_point_on_each_side() {
        let mut series = Series::default();
        (0..10).for_each(|x| series.push(x * 10, x as i64));
        let xs: Vec<_> = series.within(25, 45, 100).iter().map(|point| point.x).collect();
        assert_eq!(xs, [20, 30, 40, 50]);
    }
}
