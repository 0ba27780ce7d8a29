//! Counts that may only fall. A bound is the number of today: a higher one fails, and so does a lower one, until the bound
//! is lowered to it. The failure shows the whole new table, to be pasted over the old one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::tree::none;

/// Numbers by row and column. Rows are packages or files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    rows: BTreeMap<String, BTreeMap<&'static str, Cell>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cell {
    number: usize,
    /// Where each of them is, as far as it is known.
    places: Vec<String>,
}

impl Table {
    /// Reads a table as it stands in the source: a row a line, numbers in the order of `columns`.
    pub fn read(text: &str, columns: &[&'static str]) -> Self {
        let mut table = Self::default();
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let row = words.next().expect("a row has a name");
            let numbers: Vec<usize> = words
                .map(|word| word.parse().unwrap_or_else(|e| panic!("{line}: {e}")))
                .collect();
            assert_eq!(numbers.len(), columns.len(), "columns of: {line}");
            for (column, number) in columns.iter().zip(numbers) {
                table.set(row, column, number);
            }
        }
        table
    }

    pub fn set(&mut self, row: &str, column: &'static str, number: usize) {
        let row = self.rows.entry(row.to_owned()).or_default();
        row.entry(column).or_default().number = number;
    }

    /// Sets a number to that of the places.
    pub fn found(&mut self, row: &str, column: &'static str, places: Vec<String>) {
        let row = self.rows.entry(row.to_owned()).or_default();
        let number = places.len();
        row.insert(column, Cell { number, places });
    }

    fn cell(&self, row: &str, column: &str) -> Cell {
        let row = self.rows.get(row);
        row.and_then(|row| row.get(column))
            .cloned()
            .unwrap_or_default()
    }

    /// The table as it is written in the source.
    pub fn text(&self, columns: &[&'static str]) -> String {
        let width = self.rows.keys().map(String::len).max().unwrap_or_default();
        let mut text = format!("# {:width$}", "");
        for column in columns {
            let _ = write!(text, " {column}");
        }
        for (row, numbers) in &self.rows {
            let _ = write!(text, "\n{row:width$}  ");
            for column in columns {
                let number = numbers.get(column).map_or(0, |cell| cell.number);
                let wide = column.len();
                let _ = write!(text, " {number:wide$}");
            }
        }
        text
    }

    /// Differences between the bounds, which this table holds, and the numbers of today.
    fn differences(&self, today: &Self, columns: &[&'static str]) -> Vec<String> {
        let mut found = Vec::new();
        for row in today.rows.keys() {
            for column in columns {
                let bound = self.cell(row, column).number;
                let Cell { number, places } = today.cell(row, column);
                if number > bound {
                    let places = places.iter().map(|place| format!("\n    at {place}"));
                    let places: String = places.collect();
                    found.push(format!(
                        "{row}: {number} {column}, at most {bound} may be{places}"
                    ));
                } else if number < bound {
                    found.push(format!(
                        "{row}: {number} {column}: lower the bound of {bound} to it"
                    ));
                }
            }
        }
        let gone = self
            .rows
            .keys()
            .filter(|row| !today.rows.contains_key(*row));
        found.extend(gone.map(|row| format!("{row} has none any more: take its row out")));
        found
    }

    /// Fails with what differs, where it is, and the whole new table.
    #[track_caller]
    pub fn hold(&self, today: &Self, columns: &[&'static str], name: &str) {
        let mut found = self.differences(today, columns);
        if !found.is_empty() {
            let table = today.text(columns);
            found.push(format!("{name} as of now:\n\n{table}\n"));
        }
        none(&found);
    }
}

const COLUMNS: [&str; 2] = ["apples", "pears"];

#[test]
fn a_table_is_read_as_it_is_written() {
    let table = Table::read("# apples pears\n a 1 2 \n\nbb 30 4", &COLUMNS);
    assert_eq!(table.cell("bb", "apples").number, 30);
    assert_eq!(table.cell("none", "apples").number, 0);
    assert_eq!(Table::read(&table.text(&COLUMNS), &COLUMNS), table);
}

#[test]
fn a_bound_only_falls() {
    let bounds = Table::read("a 1 2\nb 0 1", &COLUMNS);
    assert_eq!(bounds.differences(&bounds, &COLUMNS), [""; 0]);
    for (today, expected) in [
        ("a 2 2\nb 0 1", "a: 2 apples, at most 1 may be"),
        ("a 1 1\nb 0 1", "a: 1 pears: lower the bound of 2 to it"),
        ("a 1 2\nb 0 1\nc 1 0", "c: 1 apples, at most 0 may be"),
        ("a 1 2", "b has none any more: take its row out"),
    ] {
        let today = Table::read(today, &COLUMNS);
        assert_eq!(bounds.differences(&today, &COLUMNS), [expected]);
    }
}

#[test]
fn places_of_what_is_too_much_are_named() {
    let mut today = Table::default();
    today.found("a", "pears", vec!["x:1".into(), "y:2".into()]);
    let bounds = Table::read("a 0 1", &COLUMNS);
    let expected = "a: 2 pears, at most 1 may be\n    at x:1\n    at y:2";
    assert_eq!(bounds.differences(&today, &COLUMNS), [expected]);
}
