//! Curves in braille: every point of a series takes part, whatever the width.

use super::human::{fit, number, width as columns_of};

/// Dots of one braille cell, by column and row from the top.
const DOTS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
/// Below this a curve says nothing.
const MIN_COLUMNS: usize = 8;

/// A grid of braille dots.
struct Canvas {
    columns: usize,
    rows: usize,
    cells: Vec<u8>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Self {
        Self { columns, rows, cells: vec![0; columns * rows] }
    }

    fn dot(&mut self, x: usize, y: usize) {
        let (column, row) = (x / 2, y / 4);
        if column < self.columns && row < self.rows {
            self.cells[row * self.columns + column] |= DOTS[x % 2][y % 4];
        }
    }

    /// A line between two dots: along its longer side, so that it has no holes.
    fn line(&mut self, from: (usize, usize), to: (usize, usize)) {
        let length = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1));
        for at in 0..=length {
            self.dot(between(from.0, to.0, at, length), between(from.1, to.1, at, length));
        }
    }

    fn row(&self, row: usize) -> String {
        let cells = &self.cells[row * self.columns..(row + 1) * self.columns];
        cells.iter().filter_map(|bits| char::from_u32(0x2800 + u32::from(*bits))).collect()
    }
}

/// The whole number nearest to `from` + (`to` − `from`) × `at` / `length`.
fn between(from: usize, to: usize, at: usize, length: usize) -> usize {
    if length == 0 {
        return from;
    }
    let part = (from.abs_diff(to) * at + length / 2) / length;
    if to >= from { from + part } else { from - part }
}

/// `value` between `low` and `high` as a place on 0..=`last`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the share is clamped to 0..=1 and `last` is a few hundred"
)]
fn place(value: f64, low: f64, high: f64, last: usize) -> usize {
    // Halved before the difference is taken: `high - low` may overflow.
    let span = high / 2.0 - low / 2.0;
    let share = if span > 0.0 { ((value / 2.0 - low / 2.0) / span).clamp(0.0, 1.0) } else { 0.5 };
    (share * last as f64).round() as usize
}

/// Draws `points` (step, value; ascending steps) into lines of at most `width` columns: `height` rows of curve, an axis
/// with the first and the last step, and a remark when values were not finite. Points that are not finite are gaps.
#[must_use]
pub fn curve(points: &[(u64, f64)], width: usize, height: usize) -> Vec<String> {
    let finite = || points.iter().filter(|(_, value)| value.is_finite());
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return vec![fit("no points yet", width)];
    };
    let low = finite().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = finite().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let odd = points.iter().find(|(_, value)| !value.is_finite());
    let remark = odd.map(|(step, _)| {
        let count = points.len() - finite().count();
        let noun = if count == 1 { "value is" } else { "values are" };
        fit(&format!("{count} {noun} not finite, the first at step {step}"), width)
    });
    if low > high {
        return remark.into_iter().collect();
    }
    let (top, bottom) = (number(high), number(low));
    let label = columns_of(&top).max(columns_of(&bottom));
    let height = height.max(1);
    let columns = width.saturating_sub(label + 2).max(MIN_COLUMNS);
    let canvas = plot(points, (first.0, last.0), (low, high), columns, height);
    let mut lines = Vec::with_capacity(height + 2);
    for row in 0..height {
        let text = match row {
            // One value in all: it stands where the line is.
            _ if low >= high && row == height / 2 => &top,
            _ if low >= high => "",
            0 => &top,
            _ if row + 1 == height => &bottom,
            _ => "",
        };
        let line = format!("{text:>label$} ┤{}", canvas.row(row));
        lines.push(line.trim_end_matches(['\u{2800}', ' ']).to_owned());
    }
    lines.push(axis(first.0, last.0, label, columns));
    lines.extend(remark);
    lines
}

fn plot(
    points: &[(u64, f64)],
    (first, last): (u64, u64),
    (low, high): (f64, f64),
    columns: usize,
    rows: usize,
) -> Canvas {
    let mut canvas = Canvas::new(columns, rows);
    let mut before: Option<(usize, usize)> = None;
    for &(step, value) in points {
        if !value.is_finite() {
            before = None;
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "a place on a screen")]
        let x = if first == last {
            0
        } else {
            place(step as f64, first as f64, last as f64, columns * 2 - 1)
        };
        let y = rows * 4 - 1 - place(value, low, high, rows * 4 - 1);
        canvas.line(before.unwrap_or((x, y)), (x, y));
        before = Some((x, y));
    }
    canvas
}

/// `step 1 ───────── 200` under the curve.
fn axis(first: u64, last: u64, label: usize, columns: usize) -> String {
    let left = format!("{:label$} └ step {first} ", "");
    if first == last {
        return left.trim_end().to_owned();
    }
    let right = format!(" {last}");
    let used = columns_of(&left) + columns_of(&right);
    let rule = "─".repeat((label + 2 + columns).saturating_sub(used));
    format!("{left}{rule}{right}")
}

/// The newest `columns` values in one line of blocks; values that are not finite are dots.
#[must_use]
pub fn sparkline(values: &[f64], columns: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(columns)..];
    let finite = || shown.iter().copied().filter(|v| v.is_finite());
    let low = finite().fold(f64::INFINITY, f64::min);
    let high = finite().fold(f64::NEG_INFINITY, f64::max);
    shown
        .iter()
        .map(|v| if v.is_finite() { BLOCKS[place(*v, low, high, 7)] } else { '·' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn falling(steps: u32) -> Vec<(u64, f64)> {
        (1..=steps).map(|s| (u64::from(s), 2.0 + 8.0 * (-f64::from(s) / 30.0).exp())).collect()
    }

    #[test]
    fn a_falling_loss() {
        insta::assert_snapshot!(curve(&falling(200), 60, 8).join("\n"));
    }

    #[test]
    fn few_points_are_joined_by_a_line() {
        insta::assert_snapshot!(curve(&[(10, 4.0), (20, 1.0), (30, 2.5)], 40, 5).join("\n"));
    }

    #[test]
    fn gaps_and_the_odd_values_are_named() {
        let points = [(1, 3.0), (2, f64::NAN), (3, 2.0), (4, f64::INFINITY), (5, 1.0)];
        insta::assert_snapshot!(curve(&points, 40, 4).join("\n"));
    }

    #[test]
    fn nothing_one_point_and_constants_have_a_shape() {
        assert_eq!(curve(&[], 40, 4), ["no points yet"]);
        assert_eq!(curve(&[(1, f64::NAN)], 60, 4), ["1 value is not finite, the first at step 1"]);
        insta::assert_snapshot!(curve(&[(7, 1.5)], 40, 3).join("\n"), @r"
              ┤
        1.500 ┤⠂
              ┤
              └ step 7
        ");
        insta::assert_snapshot!(curve(&[(1, 2.0), (9, 2.0)], 40, 3).join("\n"), @r"
              ┤
        2.000 ┤⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒
              ┤
              └ step 1 ─────────────────────── 9
        ");
    }

    #[test]
    fn a_sparkline_shows_the_newest_values() {
        assert_eq!(sparkline(&[9.0, 1.0, 2.0, 3.0, f64::NAN, 8.0], 5), "▁▂▃·█");
        assert_eq!(sparkline(&[], 5), "");
        assert_eq!(sparkline(&[2.0, 2.0], 5), "▅▅");
    }

    proptest! {
        #[test]
        fn no_series_panics_or_grows_out_of_its_frame(
            values in proptest::collection::vec(any::<f64>(), 0..60),
            width in 30_usize..120,
            height in 0_usize..20,
        ) {
            let points: Vec<_> = values.into_iter().zip(1_u64..).map(|(v, s)| (s * 7, v)).collect();
            let lines = curve(&points, width, height);
            prop_assert!(lines.len() <= height.max(1) + 2);
            for line in lines {
                prop_assert!(columns_of(&line) <= width, "{} > {width}: {line}", columns_of(&line));
            }
        }
    }
}
