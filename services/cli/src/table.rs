//! Columns for a person: text to the left, numbers to the right, as wide as needed.

use anstyle::Style;

use crate::paint::{DIM, PLAIN, paint};

/// The last column is never cut to less.
const LEAST: usize = 16;

pub struct Cell {
    text: String,
    style: Style,
    right: bool,
}

pub fn text(text: impl Into<String>) -> Cell {
    Cell {
        text: text.into(),
        style: PLAIN,
        right: false,
    }
}

pub fn number(n: u64) -> Cell {
    Cell {
        text: crate::paint::number(n),
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

/// The same with its last column cut to what the terminal has room for.
pub fn render_within(head: &[&str], mut rows: Vec<Vec<Cell>>, columns: Option<usize>) -> String {
    let last = head.len() - 1;
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].text.chars().count());
        cells
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
            + 2
    };
    if let Some(columns) = columns {
        let room = columns
            .saturating_sub((0..last).map(width).sum())
            .max(LEAST);
        for row in &mut rows {
            row[last].text = crate::paint::brief(&row[last].text, room);
        }
    }
    render(head, &rows)
}

/// The table with its head, without a line break at the end.
pub fn render(head: &[&str], rows: &[Vec<Cell>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.text.chars().count());
        cells
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let first = rows.first();
    let head = head.iter().enumerate().map(|(column, title)| {
        let right = first
            .and_then(|row| row.get(column))
            .is_some_and(|cell| cell.right);
        Cell {
            text: (*title).to_owned(),
            style: DIM,
            right,
        }
    });
    let mut lines = vec![line(&head.collect::<Vec<_>>(), &widths)];
    lines.extend(rows.iter().map(|row| line(row, &widths)));
    lines.join("\n")
}

fn line(row: &[Cell], widths: &[usize]) -> String {
    let mut out = String::new();
    for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
        if at > 0 {
            out.push_str("  ");
        }
        let space = " ".repeat(width.saturating_sub(cell.text.chars().count()));
        let painted = paint(cell.style, &cell.text);
        match cell.right {
            true => out.extend([space.as_str(), painted.as_str()]),
            false if at + 1 == row.len() => out.push_str(&painted), // no blanks at line ends
            false => out.extend([painted.as_str(), space.as_str()]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let rows = vec![
            vec![text("count-views"), number(12_000), text("ok")],
            vec![text("né"), number(3), text("")],
        ];
        let shown = render(&["FUNCTION", "LAG", ""], &rows);
        let plain = anstream::adapter::strip_str(&shown).to_string();
        assert_eq!(
            plain,
            "FUNCTION        LAG  \ncount-views  12,000  ok\nné                3  "
        );
    }
}
