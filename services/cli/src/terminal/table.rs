//! Tables for a person: text to the left, numbers to the right, columns as wide as their widest cell.
//!
//! Widths are terminal columns, not characters: CJK characters and most emoji take two, combining marks none.

use anstyle::Style;
use oncue_proto::text::{escaped, steers};
use unicode_width::UnicodeWidthStr as _;

use super::paint::{self, DIM, PLAIN, paint};

/// Columns the last cell of a row keeps, however narrow the terminal is.
const LAST_COLUMN_MIN_WIDTH: usize = 16;
/// Blanks between two columns.
const COLUMN_GAP: usize = 2;

/// Text of one column in one row, with its style and alignment.
pub struct Cell {
    text: String,
    style: Style,
    right: bool,
}

/// Cell aligned to the left. Line breaks and tabs in it would tear the table, so they are spelled out as `\n` and `\t`.
pub fn text(text: impl Into<String>) -> Cell {
    Cell {
        text: on_one_line(text.into()),
        style: PLAIN,
        right: false,
    }
}

fn on_one_line(text: String) -> String {
    if !text.contains(steers) {
        return text;
    }
    let text = text
        .replace('\n', "\\n")
        .replace('\t', "\\t")
        .replace('\r', "\\r");
    escaped(&text, |_| false).into_owned()
}

/// Cell aligned to the right, with thousands apart.
pub fn number(n: u64) -> Cell {
    Cell {
        text: paint::number(n),
        style: PLAIN,
        right: true,
    }
}

impl Cell {
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    pub fn right(mut self) -> Self {
        self.right = true;
        self
    }
}

/// Table of [`render`], its last column cut so that a row fits into `columns`; `None` leaves it whole.
pub fn render_within(head: &[&str], mut rows: Vec<Vec<Cell>>, columns: Option<usize>) -> String {
    if let Some(columns) = columns {
        let last = head.len() - 1;
        let before: usize = (0..last)
            .map(|column| column_width(head, &rows, column) + COLUMN_GAP)
            .sum();
        let room = columns.saturating_sub(before).max(LAST_COLUMN_MIN_WIDTH);
        for row in &mut rows {
            row[last].text = paint::brief(&row[last].text, room);
        }
    }
    render(head, &rows)
}

/// Table with its head, without a line break at the end. Rows may be shorter than the head.
pub fn render(head: &[&str], rows: &[Vec<Cell>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| column_width(head, rows, column))
        .collect();
    // A title stands above its column as the cells of the first row do.
    let first = rows.first();
    let titles = head.iter().enumerate().map(|(column, title)| Cell {
        text: (*title).to_owned(),
        style: DIM,
        right: first
            .and_then(|row| row.get(column))
            .is_some_and(|cell| cell.right),
    });
    let mut lines = vec![line(&titles.collect::<Vec<_>>(), &widths)];
    lines.extend(rows.iter().map(|row| line(row, &widths)));
    lines.join("\n")
}

/// Width of the widest cell of a column, title included.
fn column_width(head: &[&str], rows: &[Vec<Cell>], column: usize) -> usize {
    let cells = rows.iter().filter_map(|row| row.get(column));
    cells
        .map(|cell| cell.text.width())
        .chain([head[column].width()])
        .max()
        .unwrap_or(0)
}

fn line(row: &[Cell], widths: &[usize]) -> String {
    let mut out = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        if column > 0 {
            out.push_str(&" ".repeat(COLUMN_GAP));
        }
        let padding = " ".repeat(width.saturating_sub(cell.text.width()));
        let painted = paint(cell.style, &cell.text);
        match cell.right {
            true => out.extend([padding.as_str(), painted.as_str()]),
            false if column + 1 == row.len() => out.push_str(&painted), // no blanks at line ends
            false => out.extend([painted.as_str(), padding.as_str()]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(shown: &str) -> String {
        anstream::adapter::strip_str(shown).to_string()
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let rows = vec![
            vec![text("count-views"), number(12_000), text("ok")],
            vec![text("né"), number(3), text("")],
        ];
        assert_eq!(
            plain(&render(&["FUNCTION", "LAG", ""], &rows)),
            "FUNCTION        LAG  \ncount-views  12,000  ok\nné                3  "
        );
    }

    #[test]
    fn a_cell_stays_on_its_line() {
        let rows = vec![vec![text("a\nb\tc\r\u{1b}[2J"), text("x")]];
        assert_eq!(
            plain(&render(&["KEY", "ROW"], &rows)),
            "KEY                 ROW\na\\nb\\tc\\r\\u001b[2J  x"
        );
    }

    #[test]
    fn wide_characters_and_combining_marks_are_aligned() {
        let rows = vec![
            vec![text("日本"), number(1)],     // four columns
            vec![text("e\u{301}"), number(2)], // one column: e and a combining acute accent
            vec![text("📦 box"), number(3)],   // six columns
        ];
        assert_eq!(
            plain(&render(&["KEY", "LAG"], &rows)),
            "KEY     LAG\n日本      1\ne\u{301}         2\n📦 box    3"
        );
    }

    #[test]
    fn the_last_column_is_cut_by_columns_and_keeps_its_least_width() {
        let rows = || vec![vec![number(7), text("日本語日本語日本語日本語")]];
        assert_eq!(
            plain(&render_within(&["N", "KEY"], rows(), Some(21))),
            "N  KEY\n7  日本語日本語日本…"
        );
        assert_eq!(
            plain(&render_within(&["N", "KEY"], rows(), Some(1))),
            "N  KEY\n7  日本語日本語日…"
        );
        assert!(plain(&render_within(&["N", "KEY"], rows(), None)).ends_with("語"));
    }
}
