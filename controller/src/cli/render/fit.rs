//! A predicted table as text: its rows, the errors by profile, and what could not be modelled.

use std::collections::BTreeMap;

use super::human::UNKNOWN;
use super::table::{Kind, facts, table};
use crate::fit::verdict::Verdict;
use crate::fit_table::{Overall, Report, RowReport};

/// The report in at most `width` columns.
#[must_use]
pub fn text(report: &Report, width: usize) -> String {
    let rows: Vec<_> = report.rows.iter().map(row).collect();
    let columns = [
        ("ROW", Kind::Fixed),
        ("PREDICTED", Kind::Number),
        ("MEASURED", Kind::Number),
        ("ERROR", Kind::Number),
        ("VERDICT", Kind::Fixed),
    ];
    let rows = table(&columns, &rows, width);
    let groups: Vec<_> =
        report.groups.iter().map(|group| sums(&group.profile, &group.overall)).collect();
    let columns = [
        ("PROFILE", Kind::Text),
        ("ROWS", Kind::Number),
        ("MODELLED", Kind::Number),
        ("MEAN", Kind::Number),
        ("MEDIAN", Kind::Number),
        ("P95", Kind::Number),
        ("WORST UNDER", Kind::Number),
        ("WITHIN 5 %", Kind::Number),
    ];
    let groups = table(&columns, &groups, width);
    let left = left_out(report, width);
    let left = if left.is_empty() { left } else { format!("\n\nnot modelled\n{left}") };
    format!("{rows}\n\n{groups}{left}\n\n{}", overall(&report.overall, width))
}

fn row(row: &RowReport) -> Vec<String> {
    let verdict = match row.verdict {
        Some(Verdict::Fits) => "fits",
        Some(Verdict::Tight) => "tight",
        Some(Verdict::DoesNotFit) => "does not fit",
        None => UNKNOWN,
    };
    vec![
        row.id.clone(),
        gib(row.predicted_gib),
        gib(row.measured_gib),
        row.error.map_or_else(|| UNKNOWN.to_owned(), |error| format!("{:+.2} %", 100.0 * error)),
        verdict.to_owned(),
    ]
}

/// The rows without a prediction, by reason.
fn left_out(report: &Report, width: usize) -> String {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &report.rows {
        if let Some(reason) = &row.reason {
            by_reason.entry(reason).or_default().push(&row.id);
        }
    }
    let told = by_reason.into_iter().map(|(reason, ids)| {
        facts(&[(&ids.len().to_string(), format!("{reason}: {}", ids.join(", ")))], width)
    });
    told.collect::<Vec<_>>().join("\n")
}

fn sums(profile: &str, sums: &Overall) -> Vec<String> {
    vec![
        profile.to_owned(),
        sums.rows.to_string(),
        sums.modelled.to_string(),
        share(sums.mape),
        share(sums.median),
        share(sums.p95),
        share(sums.worst_under),
        share(sums.within_5_percent),
    ]
}

fn overall(sums: &Overall, width: usize) -> String {
    let not = sums.rows - sums.modelled;
    let pairs = [
        ("rows", sums.rows.to_string()),
        ("modelled", format!("{} ({not} not)", sums.modelled)),
        ("mean error", share(sums.mape)),
        ("median", share(sums.median)),
        ("p95", share(sums.p95)),
        ("worst under", share(sums.worst_under)),
        ("within 5 %", share(sums.within_5_percent)),
        ("do not fit", sums.refused.to_string()),
        ("compared", "the allocator's peak (max_memory_allocated) of each GPU".to_owned()),
    ];
    facts(&pairs, width)
}

fn gib(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{value:.3} GiB"))
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{:.2} %", 100.0 * value))
}
