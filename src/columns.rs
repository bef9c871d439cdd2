//! Tables as lists of columns: each is defined once, for the terminal, for Markdown and for CSV.

use std::fmt::Write as _;
use std::io::Write;

use comfy_table::{CellAlignment, presets};

use crate::text::{clock, printable};

/// The medium of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A terminal.
    Terminal,
    /// A Markdown page.
    Markdown,
}

/// A value. Tables round it, CSV does not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// Unknown.
    Unknown,
    Text(String),
    /// A number as text, right-aligned.
    Figure(String),
    Count(u64),
    /// A number, and its number of decimals in tables.
    Number(f64, usize),
    /// Seconds, shown as a clock time in tables.
    Clock(f64),
    /// A fraction. Tables show percent.
    Share(f64),
    /// Bytes. Tables show MiB.
    Bytes(u64),
}

impl Cell {
    /// Seconds, shown with two decimals in tables.
    pub(crate) fn seconds(seconds: f64) -> Self {
        Cell::Number(seconds, 2)
    }

    /// A value that may be unknown.
    pub(crate) fn of<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell) -> Self {
        value.map_or(Cell::Unknown, cell)
    }

    fn shown(&self) -> String {
        match self {
            Cell::Unknown => "–".to_owned(),
            Cell::Text(text) | Cell::Figure(text) => printable(text),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number, digits) => format!("{number:.digits$}"),
            Cell::Clock(seconds) => clock(*seconds),
            Cell::Share(part) => format!("{:.0}", part * 100.0),
            Cell::Bytes(bytes) => format!("{:.0}", *bytes as f64 / f64::from(1 << 20)),
        }
    }

    fn exact(&self) -> String {
        match self {
            Cell::Unknown => String::new(),
            Cell::Text(text) | Cell::Figure(text) => printable(text),
            Cell::Count(count) | Cell::Bytes(count) => count.to_string(),
            Cell::Number(number, _) | Cell::Clock(number) | Cell::Share(number) => number.to_string(),
        }
    }

    fn number(&self) -> Option<f64> {
        match *self {
            Cell::Unknown | Cell::Text(_) | Cell::Figure(_) => None,
            Cell::Count(count) | Cell::Bytes(count) => Some(count as f64),
            Cell::Number(number, _) | Cell::Clock(number) | Cell::Share(number) => Some(number),
        }
    }

    fn with_number(&self, number: f64) -> Self {
        match self {
            Cell::Count(_) if number.fract() != 0.0 => Cell::Number(number, 1),
            Cell::Count(_) => Cell::Count(number as u64),
            Cell::Bytes(_) => Cell::Bytes(number as u64),
            Cell::Number(_, digits) => Cell::Number(number, *digits),
            Cell::Clock(_) => Cell::Clock(number),
            Cell::Share(_) => Cell::Share(number),
            Cell::Unknown | Cell::Text(_) | Cell::Figure(_) => Cell::Unknown,
        }
    }
}

/// A column of a table whose rows are of type `T`.
pub(crate) struct Column<T> {
    /// Its name in CSV; empty for a column that only tables have.
    pub(crate) name: &'static str,
    /// Its header in tables, with the unit; empty for a column that only CSV has.
    pub(crate) head: &'static str,
    /// Its value in a row.
    pub(crate) value: fn(&T) -> Cell,
}

impl<T> Column<T> {
    pub(crate) const fn new(name: &'static str, head: &'static str, value: fn(&T) -> Cell) -> Self {
        Self { name, head, value }
    }

    /// A column with the same name in CSV and in tables.
    pub(crate) const fn both(name: &'static str, value: fn(&T) -> Cell) -> Self {
        Self::new(name, name, value)
    }

    /// A column that only CSV has.
    pub(crate) const fn csv(name: &'static str, value: fn(&T) -> Cell) -> Self {
        Self::new(name, "", value)
    }

    /// A column that only tables have.
    pub(crate) const fn shown(head: &'static str, value: fn(&T) -> Cell) -> Self {
        Self::new("", head, value)
    }
}

/// Writes rows as comma-separated values (RFC 4180) with a header row.
pub(crate) fn write_csv<'a, T: 'a>(
    columns: impl IntoIterator<Item = &'a Column<T>>,
    rows: impl IntoIterator<Item = &'a T>,
    writer: impl Write,
) -> Result<(), csv::Error> {
    let columns = columns.into_iter().filter(|column| !column.name.is_empty());
    let columns: Vec<&Column<T>> = columns.collect();
    let mut csv = csv::Writer::from_writer(writer);
    csv.write_record(columns.iter().map(|column| column.name))?;
    for row in rows {
        csv.write_record(columns.iter().map(|column| (column.value)(row).exact()))?;
    }
    csv.flush()?;
    Ok(())
}

/// A readable table.
pub(crate) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// The columns that tables show, with a row for each of `rows`.
    pub(crate) fn of<'a, T: 'a>(
        columns: impl IntoIterator<Item = &'a Column<T>>,
        rows: impl IntoIterator<Item = &'a T>,
    ) -> Self {
        let columns = columns.into_iter().filter(|column| !column.head.is_empty());
        let columns: Vec<&Column<T>> = columns.collect();
        let cells = |row| columns.iter().map(|column| (column.value)(row)).collect();
        Self {
            heads: columns.iter().map(|column| column.head).collect(),
            rows: rows.into_iter().map(cells).collect(),
        }
    }

    /// Adds summary rows: total, mean and maximum. Their names are in the second column.
    pub(crate) fn add_summary(&mut self) {
        type Summary = fn(&[f64]) -> f64;
        const SUMMARIES: [(&str, Summary); 3] = [
            ("total", |values| {
                values.iter().fold(0.0, |sum, value| sum + value)
            }),
            ("mean", |values| {
                values.iter().fold(0.0, |sum, value| sum + value) / values.len() as f64
            }),
            ("max", |values| values.iter().copied().fold(0.0, f64::max)),
        ];
        let rows = std::mem::take(&mut self.rows);
        let summary = |(name, value): (&str, Summary)| -> Vec<Cell> {
            let cell = |place: usize| {
                let values: Vec<f64> = rows.iter().filter_map(|row| row[place].number()).collect();
                match rows.first() {
                    Some(first) if !values.is_empty() => first[place].with_number(value(&values)),
                    _ => Cell::Unknown,
                }
            };
            let mut cells: Vec<Cell> = (0..self.heads.len()).map(cell).collect();
            cells[0] = Cell::Text(String::new());
            cells[1] = Cell::Text(name.to_owned());
            cells
        };
        let below: Vec<Vec<Cell>> = SUMMARIES.into_iter().map(summary).collect();
        self.rows = rows.into_iter().chain(below).collect();
    }

    /// Replaces the cell of a column in the first row whose second cell is `name`.
    pub(crate) fn set(&mut self, name: &str, head: &str, cell: Cell) {
        let row = self
            .rows
            .iter_mut()
            .rev()
            .find(|row| row[1] == Cell::Text(name.to_owned()));
        let place = self.heads.iter().position(|&found| found == head);
        if let (Some(row), Some(place)) = (row, place) {
            row[place] = cell;
        }
    }

    /// Shows a column as unknown throughout.
    pub(crate) fn hide(&mut self, head: &str) {
        if let Some(place) = self.heads.iter().position(|&found| found == head) {
            self.rows.iter_mut().for_each(|row| row[place] = Cell::Unknown);
        }
    }

    /// The table as text that ends with a line break. Text is left-aligned, everything else right-aligned.
    pub(crate) fn draw(&self, style: Style) -> String {
        let left = |place: usize| {
            let mut texts = self.rows.iter().map(|row| &row[place]);
            texts.any(|cell| matches!(cell, Cell::Text(text) if !text.is_empty()))
        };
        match style {
            Style::Terminal => {
                let mut table = comfy_table::Table::new();
                table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
                table.set_header(&self.heads);
                for row in &self.rows {
                    table.add_row(row.iter().map(Cell::shown));
                }
                for (place, column) in table.column_iter_mut().enumerate() {
                    let right = !left(place);
                    column.set_cell_alignment(match right {
                        true => CellAlignment::Right,
                        false => CellAlignment::Left,
                    });
                }
                format!("{table}\n")
            }
            Style::Markdown => {
                let rule = |place| if left(place) { "---" } else { "--:" };
                let rules: Vec<&str> = (0..self.heads.len()).map(rule).collect();
                let mut text = format!("| {} |\n| {} |\n", self.heads.join(" | "), rules.join(" | "));
                for row in &self.rows {
                    for cell in row {
                        let _ = write!(text, "| {} ", cell.shown().replace('|', "\\|"));
                    }
                    text.push_str("|\n");
                }
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column<(u64, &str)>; 4] = [
        Column::new("count", "images", |row| Cell::Count(row.0)),
        Column::both("name", |row| Cell::Text(row.1.to_owned())),
        Column::new("bytes", "MiB", |row| Cell::Bytes(row.0 << 20)),
        Column::csv("part", |row| Cell::Share(row.0 as f64 / 8.0)),
    ];
    const ROWS: [(u64, &str); 2] = [(1, "a|b"), (4, "c\n")];

    #[test]
    fn columns_are_csv_and_markdown_and_sum_up() {
        let mut csv = Vec::new();
        write_csv(&COLUMNS, &ROWS, &mut csv).unwrap();
        let csv = String::from_utf8(csv).unwrap();
        assert_eq!(
            csv,
            "count,name,bytes,part\n1,a|b,1048576,0.125\n4,c\\n,4194304,0.5\n"
        );
        let mut table = Table::of(&COLUMNS, &ROWS);
        table.add_summary();
        table.set("max", "MiB", Cell::Unknown);
        let expected = "\
| images | name | MiB |
| --: | --- | --: |
| 1 | a\\|b | 1 |
| 4 | c\\n | 4 |
|  | total | 5 |
|  | mean | 2 |
|  | max | – |
";
        assert_eq!(table.draw(Style::Markdown), expected);
        table.hide("MiB");
        assert!(table.draw(Style::Markdown).contains("| 1 | a\\|b | – |\n"));
        assert!(Table::of(&COLUMNS, &[]).draw(Style::Terminal).contains("images"));
    }
}
