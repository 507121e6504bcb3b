//! Predicted beside measured, row by row, by profile, and over all.

use std::collections::BTreeMap;

use serde::Serialize;

use super::profile;
use super::row::Row;
use super::shapes::Shapes;
use crate::fit::GIB;
use crate::fit::memory::Memory;
use crate::fit::verdict::{Verdict, verdict};

/// Errors up to this share count as close.
const CLOSE: f64 = 0.05;

/// What became of one row. Errors are shares: 0.01 is one per cent, negative where the prediction is below.
#[derive(Debug, Clone, Serialize)]
pub struct RowReport {
    /// Names the row.
    pub id: String,
    /// The profile of its software.
    pub profile: String,
    /// As the table says: A, B or C; empty where it says nothing.
    pub confidence: String,
    /// Whether there is a prediction.
    pub modelled: bool,
    /// The quantity that is predicted.
    pub quantity: &'static str,
    /// Peak of the allocator, GiB.
    pub predicted_gib: Option<f64>,
    /// What was measured, GiB.
    pub measured_gib: Option<f64>,
    /// Prediction over measurement, less one.
    pub error: Option<f64>,
    /// Why there is no prediction.
    pub reason: Option<String>,
    /// False where the verdict is that it does not fit.
    pub fits: Option<bool>,
    /// The verdict on the card that the table names.
    pub verdict: Option<Verdict>,
    /// The parts of the prediction, bytes.
    pub breakdown: Option<Memory>,
}

impl RowReport {
    /// Predicts `row`.
    #[must_use]
    pub fn of(row: &Row, shapes: &Shapes) -> Self {
        let (account, reason) = match row.predict(shapes) {
            Ok(account) => (Some(account), None),
            Err(reason) => (None, Some(reason.to_string())),
        };
        let predicted = account.map(|account| gib(account.peak));
        let measured = row.measured();
        let answer = account.zip(row.capacity()).map(|(account, card)| verdict(account.peak, card));
        Self {
            id: row.id.clone(),
            profile: profile::name(row),
            confidence: row.confidence.clone(),
            modelled: account.is_some(),
            quantity: "allocated",
            predicted_gib: predicted,
            measured_gib: measured,
            error: predicted.zip(measured).map(|(predicted, measured)| predicted / measured - 1.0),
            reason,
            fits: answer.map(Verdict::may_run),
            verdict: answer,
            breakdown: account,
        }
    }
}

/// Errors over many rows. Shares, not per cent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overall {
    /// Rows of the table.
    pub rows: usize,
    /// Rows with a prediction.
    pub modelled: usize,
    /// Mean of the absolute errors.
    pub mape: Option<f64>,
    /// Median of the absolute errors.
    pub median: Option<f64>,
    /// 95th percentile of the absolute errors (nearest rank).
    pub p95: Option<f64>,
    /// Size of the largest under-estimate; 0 where there is none.
    pub worst_under: Option<f64>,
    /// Share of the rows with an error within five per cent.
    pub within_5_percent: Option<f64>,
    /// Rows whose verdict is that they do not fit.
    pub refused: usize,
}

impl Overall {
    /// Sums up `rows`.
    #[must_use]
    pub fn of<'a>(rows: impl Iterator<Item = &'a RowReport>) -> Self {
        let rows: Vec<_> = rows.collect();
        let errors: Vec<f64> = rows.iter().filter_map(|row| row.error).collect();
        let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let count = as_number(sizes.len());
        let mean = |sum: f64| (!sizes.is_empty()).then(|| sum / count);
        let middle = sizes.len() / 2;
        let median = match sizes.len() {
            0 => None,
            n if n % 2 == 1 => Some(sizes[middle]),
            _ => Some(f64::midpoint(sizes[middle - 1], sizes[middle])),
        };
        let under = errors.iter().map(|error| (-error).max(0.0)).max_by(f64::total_cmp);
        let close = sizes.iter().filter(|size| **size <= CLOSE).count();
        Self {
            rows: rows.len(),
            modelled: rows.iter().filter(|row| row.modelled).count(),
            mape: mean(sizes.iter().sum()),
            median,
            p95: sizes.get((sizes.len() * 95).div_ceil(100).saturating_sub(1)).copied(),
            worst_under: under,
            within_5_percent: mean(as_number(close)),
            refused: rows.iter().filter(|row| row.fits == Some(false)).count(),
        }
    }
}

/// The rows of one profile.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// The profile.
    pub profile: String,
    /// Its errors.
    #[serde(flatten)]
    pub overall: Overall,
}

/// A table, predicted.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every row of the table, in its order.
    pub rows: Vec<RowReport>,
    /// By profile, sorted by name.
    pub groups: Vec<Group>,
    /// All rows.
    pub overall: Overall,
}

impl Report {
    /// Predicts `rows`.
    #[must_use]
    pub fn of(rows: &[Row], shapes: &Shapes) -> Self {
        let rows: Vec<_> = rows.iter().map(|row| RowReport::of(row, shapes)).collect();
        let mut by_profile: BTreeMap<&str, Vec<&RowReport>> = BTreeMap::new();
        for row in &rows {
            by_profile.entry(&row.profile).or_default().push(row);
        }
        let groups = by_profile.into_iter().map(|(profile, rows)| Group {
            profile: profile.to_owned(),
            overall: Overall::of(rows.into_iter()),
        });
        let groups = groups.collect();
        let overall = Overall::of(rows.iter());
        Self { rows, groups, overall }
    }
}

#[expect(clippy::cast_precision_loss, reason = "three decimals are looked at")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}

#[expect(clippy::cast_precision_loss, reason = "a count of rows")]
fn as_number(count: usize) -> f64 {
    count as f64
}
