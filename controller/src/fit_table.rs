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

use crate::fit::shape::ShapeError;

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is no CSV file with a header.
    #[error("the table of {what} cannot be read")]
    Unreadable {
        /// What it should hold.
        what: &'static str,
        /// Why.
        source: csv::Error,
    },
    /// Its header lacks a column without which no row says anything.
    #[error("the table of {what} has no column `{column}`")]
    Column {
        /// What it should hold.
        what: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A number of a shape is outside what any model has.
    #[error("no model has the shape of `{id}`")]
    Shape {
        /// Id of the model.
        id: String,
        /// Which number.
        source: ShapeError,
    },
}

/// Reads all records of `text`, a CSV file whose header has these columns. Those that a record does not know are left
/// alone.
fn records<T: serde::de::DeserializeOwned>(
    what: &'static str,
    columns: &[&'static str],
    text: &str,
) -> Result<Vec<T>, TableError> {
    let unreadable = |source| TableError::Unreadable { what, source };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(unreadable)?;
    if let Some(column) = columns.iter().find(|column| !header.iter().any(|name| name == **column))
    {
        return Err(TableError::Column { what, column });
    }
    reader.deserialize().collect::<Result<_, _>>().map_err(unreadable)
}
