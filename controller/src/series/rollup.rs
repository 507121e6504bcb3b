//! Many points made few: minimum, mean and maximum over 10 seconds, 5 minutes or an hour. Pure.
//!
//! Buckets start at multiples of their width since 1970, so rollups of neighbouring segments merge, and a coarse one
//! can be made from a finer one.

use std::collections::BTreeMap;

/// How wide the buckets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// 10 seconds.
    TenSeconds,
    /// 5 minutes.
    FiveMinutes,
    /// One hour.
    Hour,
}

impl Resolution {
    /// All, finest first.
    pub const ALL: [Self; 3] = [Self::TenSeconds, Self::FiveMinutes, Self::Hour];

    /// Width in nanoseconds.
    #[must_use]
    pub const fn width_ns(self) -> u64 {
        let seconds = match self {
            Self::TenSeconds => 10,
            Self::FiveMinutes => 300,
            Self::Hour => 3_600,
        };
        seconds * 1_000_000_000
    }

    /// The finest resolution that needs at most `points` buckets for `span_ns`; the coarsest if none does.
    #[must_use]
    pub fn for_span(span_ns: u64, points: u64) -> Self {
        let fits = |r: &Self| span_ns / r.width_ns() <= points;
        Self::ALL.into_iter().find(fits).unwrap_or(Self::Hour)
    }
}

/// Values of one series within one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Values that are numbers.
    pub count: u64,
    /// Values that are not: NaN or infinite. They are in none of the following.
    pub not_finite: u64,
    /// The least.
    pub min: f64,
    /// The sum; see [`Bucket::mean`].
    pub sum: f64,
    /// The greatest.
    pub max: f64,
}

impl Bucket {
    /// Nothing yet.
    pub const EMPTY: Self =
        Self { count: 0, not_finite: 0, min: f64::INFINITY, sum: 0.0, max: f64::NEG_INFINITY };

    /// One value.
    #[must_use]
    pub fn of(value: f64) -> Self {
        if value.is_finite() {
            Self { count: 1, not_finite: 0, min: value, sum: value, max: value }
        } else {
            Self { not_finite: 1, ..Self::EMPTY }
        }
    }

    /// Many values of which only these are known.
    #[must_use]
    pub fn summary(count: u64, min: f64, mean: f64, max: f64) -> Self {
        if count == 0 || !(min.is_finite() && mean.is_finite() && max.is_finite()) {
            return Self { not_finite: count, ..Self::EMPTY };
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let sum = mean * count as f64;
        Self { count, not_finite: 0, min, sum, max }
    }

    /// The mean of the values that are numbers.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let count = self.count as f64;
        (self.count > 0).then(|| self.sum / count)
    }

    /// Takes in another bucket of the same time.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.not_finite += other.not_finite;
        self.min = self.min.min(other.min);
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }
}

/// Something measured: one value, or a summary of several.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The series.
    pub name: String,
    /// When, in wall nanoseconds.
    pub at_ns: u64,
    /// What.
    pub bucket: Bucket,
}

impl Point {
    /// One value.
    #[must_use]
    pub fn new(name: impl Into<String>, at_ns: u64, value: f64) -> Self {
        Self { name: name.into(), at_ns, bucket: Bucket::of(value) }
    }
}

/// The buckets of several series, by name and start.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    resolution: Resolution,
    series: BTreeMap<String, BTreeMap<u64, Bucket>>,
}

impl Rollup {
    /// No points yet.
    #[must_use]
    pub fn new(resolution: Resolution) -> Self {
        Self { resolution, series: BTreeMap::new() }
    }

    /// The width of its buckets.
    #[must_use]
    pub fn resolution(&self) -> Resolution {
        self.resolution
    }

    /// Takes in a point, in any order of time.
    pub fn add(&mut self, name: &str, at_ns: u64, bucket: &Bucket) {
        let start = at_ns - at_ns % self.resolution.width_ns();
        if !self.series.contains_key(name) {
            self.series.insert(name.to_owned(), BTreeMap::new());
        }
        if let Some(buckets) = self.series.get_mut(name) {
            buckets.entry(start).or_insert(Bucket::EMPTY).merge(bucket);
        }
    }

    /// Takes in another rollup of the same or a finer resolution.
    pub fn merge(&mut self, other: &Self) {
        for (name, start, bucket) in other.iter() {
            self.add(name, start, bucket);
        }
    }

    /// All buckets, by name and then by time.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64, &Bucket)> {
        let all = self.series.iter();
        all.flat_map(|(name, buckets)| buckets.iter().map(move |(at, b)| (name.as_str(), *at, b)))
    }

    /// The names of its series.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.series.keys().map(String::as_str)
    }

    /// The buckets of one series by start.
    #[must_use]
    pub fn series(&self, name: &str) -> Option<&BTreeMap<u64, Bucket>> {
        self.series.get(name)
    }
}

impl Extend<Point> for Rollup {
    fn extend<I: IntoIterator<Item = Point>>(&mut self, points: I) {
        for point in points {
            self.add(&point.name, point.at_ns, &point.bucket);
        }
    }
}

/// Rolls points up.
#[must_use]
pub fn roll_up(points: impl IntoIterator<Item = Point>, resolution: Resolution) -> Rollup {
    let mut rollup = Rollup::new(resolution);
    rollup.extend(points);
    rollup
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn values_fall_into_the_bucket_of_their_time() {
        let points = [(9, 1.0), (10, 5.0), (19, 7.0), (10, f64::NAN), (3_601, -2.0)];
        let points = points.map(|(at, value)| Point::new("loss", at * S, value));
        let rollup = roll_up(points, Resolution::TenSeconds);
        let loss = rollup.series("loss").unwrap();
        assert_eq!(loss.keys().copied().collect::<Vec<_>>(), [0, 10 * S, 3_600 * S]);
        let middle = loss[&(10 * S)];
        assert_eq!((middle.min, middle.mean(), middle.max), (5.0, Some(6.0), 7.0));
        assert_eq!((middle.count, middle.not_finite), (2, 1));
    }

    #[test]
    fn a_bucket_without_numbers_has_no_mean() {
        assert_eq!(Bucket::of(f64::INFINITY).mean(), None);
        assert_eq!(Bucket::summary(3, 1.0, f64::NAN, 2.0).not_finite, 3);
        assert_eq!(Bucket::summary(0, 1.0, 1.0, 1.0), Bucket::EMPTY);
    }

    #[test]
    fn a_year_takes_no_more_buckets_than_a_day_of_minutes() {
        assert_eq!(Resolution::for_span(3_600 * S, 9_000), Resolution::TenSeconds);
        assert_eq!(Resolution::for_span(7 * 86_400 * S, 9_000), Resolution::FiveMinutes);
        assert_eq!(Resolution::for_span(365 * 86_400 * S, 9_000), Resolution::Hour);
        assert_eq!(Resolution::for_span(u64::MAX, 9_000), Resolution::Hour);
    }

    fn points() -> impl Strategy<Value = Vec<Point>> {
        // Whole numbers, so that sums do not depend on the order.
        let point = (0..3_u8, 0..20_000_u64, -100..100_i32);
        let point = point.prop_map(|(n, at, v)| Point::new(format!("s{n}"), at * S, f64::from(v)));
        prop::collection::vec(point, 0..200)
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_points_are_split_or_coarsened(points in points(), cut in 0..200_usize) {
            let (a, b) = points.split_at(cut.min(points.len()));
            for resolution in Resolution::ALL {
                let whole = roll_up(points.iter().cloned(), resolution);
                let mut parts = roll_up(a.iter().cloned(), Resolution::TenSeconds);
                parts.merge(&roll_up(b.iter().cloned(), Resolution::TenSeconds));
                let mut coarse = Rollup::new(resolution);
                coarse.merge(&parts);
                prop_assert_eq!(&coarse, &whole);
                let counted: u64 = whole.iter().map(|(_, _, bucket)| bucket.count).sum();
                prop_assert_eq!(counted, points.len() as u64);
            }
        }
    }
}
