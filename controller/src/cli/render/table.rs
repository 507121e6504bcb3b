//! Tables that stay within the terminal: columns that may give way are cut with `…`, the others never are.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets};

use super::human::{one_line, safe, width as columns_of};

/// How a column behaves when room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Never cut: ids, states, numbers.
    Fixed,
    /// Never cut, aligned to the right.
    Number,
    /// Cut when needed: names and texts.
    Text,
}

/// Draws a table of at most `width` columns. Cells are made safe for the terminal.
#[must_use]
pub fn table(columns: &[(&str, Kind)], rows: &[Vec<String>], width: usize) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_truncation_indicator("…")
        .set_width(u16::try_from(width).unwrap_or(u16::MAX))
        .set_header(columns.iter().map(|(name, _)| Cell::new(name)));
    for row in rows {
        let mut cells = Row::from(row.iter().map(|text| Cell::new(one_line(text))));
        cells.max_height(1);
        table.add_row(cells);
    }
    for (column, (_, kind)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if *kind != Kind::Text {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if *kind == Kind::Number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Facts in two columns: names, then values, whose further lines are indented. Values are wrapped at words.
#[must_use]
pub fn facts(pairs: &[(&str, String)], width: usize) -> String {
    let name = pairs.iter().map(|(name, _)| columns_of(name)).max().unwrap_or(0) + 2;
    let room = width.saturating_sub(name).max(20);
    let mut lines = Vec::new();
    for (label, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        for (n, line) in wrap(&safe(value), room).into_iter().enumerate() {
            let label = if n == 0 { *label } else { "" };
            lines.push(format!("{label:<name$}{line}").trim_end().to_owned());
        }
    }
    lines.join("\n")
}

/// `text` in lines of at most `room` columns, broken at spaces only: a path or a digest stays whole, to be copied.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && columns_of(&line) + 1 + columns_of(word) > room {
                lines.push(std::mem::take(&mut line));
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_give_way_and_numbers_do_not() {
        let columns = [("JOB", Kind::Number), ("NAME", Kind::Text), ("STATE", Kind::Fixed)];
        let rows = vec![
            vec!["7".to_owned(), "short".to_owned(), "running".to_owned()],
            vec!["123456789".to_owned(), "long-name-".repeat(12), "unreachable".to_owned()],
        ];
        let text = table(&columns, &rows, 50);
        assert!(text.lines().all(|line| columns_of(line) <= 50), "{text}");
        assert!(text.contains("123456789") && text.contains("unreachable"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_others_wrote_cannot_move_the_cursor() {
        let text = table(&[("NAME", Kind::Text)], &[vec!["a\x1b[1Ab\nc".to_owned()]], 40);
        assert!(!text.contains('\x1b'), "{text:?}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn facts_wrap_and_leave_out_what_is_empty() {
        let pairs = [
            ("name", "tune".to_owned()),
            ("nothing", String::new()),
            ("reason", "misses 3.1 GiB of memory on every node that is up".to_owned()),
        ];
        insta::assert_snapshot!(facts(&pairs, 36), @r"
        name     tune
        reason   misses 3.1 GiB of memory on
                 every node that is up
        ");
    }
}
