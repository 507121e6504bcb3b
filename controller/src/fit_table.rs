//! Tables of measurements, predicted row by row: what `hone fit --table` prints, and what the tests hold the account to.
//!
//! A row is predicted by its configuration only; what was measured is looked at for the error and for nothing else. A
//! row that cannot be modelled stays in the answer with the reason.

mod profile;
mod report;
mod row;
mod shapes;

#[cfg(test)]
mod tests;

pub use report::{Group, Overall, Report, RowReport};
pub use row::Row;
pub use shapes::Shapes;

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct TableError {
    what: &'static str,
    #[source]
    source: csv::Error,
}

/// Reads all records of `text`, a CSV file with a header. Columns that a record does not know are left alone.
fn records<T: serde::de::DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<Vec<T>, TableError> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().collect::<Result<_, _>>().map_err(|source| TableError { what, source })
}
