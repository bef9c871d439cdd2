//! Tables as lists of columns: each is defined once, for the terminal, for Markdown and for CSV.

use std::fmt::Write as _;
use std::io::Write;

use comfy_table::{CellAlignment, presets};

use crate::text::{clock, printable};

/// The medium of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A terminal, as wide as the table is.
    Terminal,
    /// A terminal with this many columns. The gaps shrink first, then texts are cut.
    Fitted(usize),
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
    /// Seconds. Tables show two decimals, or milliseconds where these would be 0.00.
    Seconds(f64),
    /// Seconds, shown as a clock time in tables.
    Clock(f64),
    /// A fraction. Tables show percent.
    Share(f64),
    /// Bytes. Tables show MiB.
    Bytes(u64),
}

impl Cell {
    /// A value that may be unknown.
    pub(crate) fn of<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell) -> Self {
        value.map_or(Cell::Unknown, cell)
    }

    /// As in tables.
    pub(crate) fn shown(&self) -> String {
        match self {
            Cell::Unknown => "–".to_owned(),
            Cell::Text(text) | Cell::Figure(text) => printable(text),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number, digits) => format!("{number:.digits$}"),
            Cell::Seconds(seconds) => short_seconds(*seconds),
            Cell::Clock(seconds) => clock(*seconds),
            Cell::Share(part) => format!("{:.0}", part * 100.0),
            Cell::Bytes(bytes) => format!("{:.0}", *bytes as f64 / f64::from(1 << 20)),
        }
    }

    /// As in CSV.
    pub(crate) fn exact(&self) -> String {
        match self {
            Cell::Unknown => String::new(),
            Cell::Text(text) | Cell::Figure(text) => printable(text),
            Cell::Count(count) | Cell::Bytes(count) => count.to_string(),
            Cell::Number(number, _) | Cell::Seconds(number) | Cell::Clock(number) | Cell::Share(number) => {
                number.to_string()
            }
        }
    }

    fn number(&self) -> Option<f64> {
        match *self {
            Cell::Unknown | Cell::Text(_) | Cell::Figure(_) => None,
            Cell::Count(count) | Cell::Bytes(count) => Some(count as f64),
            Cell::Number(number, _) | Cell::Seconds(number) | Cell::Clock(number) | Cell::Share(number) => {
                Some(number)
            }
        }
    }

    fn with_number(&self, number: f64) -> Self {
        match self {
            Cell::Count(_) if number.fract() != 0.0 => Cell::Number(number, 1),
            Cell::Count(_) => Cell::Count(number as u64),
            Cell::Bytes(_) => Cell::Bytes(number as u64),
            Cell::Number(_, digits) => Cell::Number(number, *digits),
            Cell::Seconds(_) => Cell::Seconds(number),
            Cell::Clock(_) => Cell::Clock(number),
            Cell::Share(_) => Cell::Share(number),
            Cell::Unknown | Cell::Text(_) | Cell::Figure(_) => Cell::Unknown,
        }
    }
}

/// Seconds in at most six characters up to eleven days: `1234`, `123.4`, `12.34`, `3 ms`, `0.3 ms`.
pub(crate) fn short_seconds(seconds: f64) -> String {
    match seconds.abs() {
        size if size >= 999.95 => format!("{seconds:.0}"),
        size if size >= 99.995 => format!("{seconds:.1}"),
        size if size >= 0.005 => format!("{seconds:.2}"),
        size if size >= 0.000_95 => format!("{:.0} ms", seconds * 1e3),
        size if size >= 0.000_05 => format!("{:.1} ms", seconds * 1e3),
        _ => "0".to_owned(),
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

    /// Empties the cell of a column in the first row whose second cell is `name`.
    pub(crate) fn clear(&mut self, name: &str, head: &str) {
        self.set(name, head, Cell::Text(String::new()));
    }

    /// The heads, and the texts of each row.
    pub(crate) fn texts(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let heads = self.heads.iter().map(|head| head.replace('\n', " "));
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::shown).collect());
        (heads.collect(), rows.collect())
    }

    /// The table as text that ends with a line break. Text is left-aligned, everything else right-aligned.
    pub(crate) fn draw(&self, style: Style) -> String {
        match style {
            Style::Terminal => self.boxed(usize::MAX),
            Style::Fitted(width) => self.boxed(width),
            Style::Markdown => self.markdown(),
        }
    }

    /// Whether a column contains text.
    fn is_text(&self, place: usize) -> bool {
        let mut cells = self.rows.iter().map(|row| &row[place]);
        cells.any(|cell| matches!(cell, Cell::Text(text) if !text.is_empty()))
    }

    fn boxed(&self, width: usize) -> String {
        let mut texts: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(Cell::shown).collect())
            .collect();
        let padding = self.fit(&mut texts, width);
        let mut table = comfy_table::Table::new();
        table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
        table.set_header(&self.heads);
        for row in texts {
            table.add_row(row);
        }
        for (place, column) in table.column_iter_mut().enumerate() {
            column.set_padding(padding);
            column.set_cell_alignment(match self.is_text(place) {
                true => CellAlignment::Left,
                false => CellAlignment::Right,
            });
        }
        format!("{table}\n")
    }

    /// Cuts the longest texts until the table has at most `width` characters per line, and returns the blanks
    /// before and after each cell. Numbers are never cut.
    fn fit(&self, texts: &mut [Vec<String>], width: usize) -> (u16, u16) {
        /// The shortest text that still identifies a host.
        const SHORTEST: usize = 6;
        let head = |place: usize| {
            let lines = self.heads[place].lines().map(|line| line.chars().count());
            lines.max().unwrap_or(0)
        };
        let cell = |place: usize| texts.iter().map(move |row| row[place].chars().count()).max();
        let count = self.heads.len();
        let mut widths: Vec<usize> = (0..count)
            .map(|place| head(place).max(cell(place).unwrap_or(0)))
            .collect();
        // A border on each side, and a blank between two cells.
        let lines = |widths: &[usize]| widths.iter().sum::<usize>() + count + 1;
        for (padding, blanks) in [((1, 1), 2), ((0, 1), 1)] {
            if lines(&widths) + blanks * count <= width {
                return padding;
            }
        }
        while lines(&widths) > width {
            let longest = (0..count)
                .filter(|&place| self.is_text(place) && widths[place] > head(place).max(SHORTEST))
                .max_by_key(|&place| widths[place]);
            let Some(place) = longest else { break };
            widths[place] -= 1;
        }
        for row in texts {
            for (text, &most) in row.iter_mut().zip(&widths) {
                if text.chars().count() > most {
                    *text = text.chars().take(most - 1).chain(['…']).collect();
                }
            }
        }
        (0, 0)
    }

    fn markdown(&self) -> String {
        let rule = |place| if self.is_text(place) { "---" } else { "--:" };
        let rules: Vec<&str> = (0..self.heads.len()).map(rule).collect();
        let heads = self.heads.join(" | ").replace('\n', " ");
        let mut text = format!("| {heads} |\n| {} |\n", rules.join(" | "));
        for row in &self.rows {
            for cell in row {
                let _ = write!(text, "| {} ", cell.shown().replace('|', "\\|"));
            }
            text.push_str("|\n");
        }
        text
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

    #[test]
    fn seconds_that_would_be_zero_are_milliseconds() {
        let cases = [
            (0.0, "0"),
            (0.000_04, "0"),
            (0.000_3, "0.3 ms"),
            (0.000_96, "1 ms"),
            (0.003, "3 ms"),
            (0.004_99, "5 ms"),
            (0.005, "0.01"),
            (12.345, "12.35"),
            (99.996, "100.0"),
            (999.96, "1000"),
            (999_999.0, "999999"),
            (-0.003, "-3 ms"),
        ];
        for (seconds, shown) in cases {
            assert_eq!(Cell::Seconds(seconds).shown(), shown, "{seconds}");
        }
        assert_eq!(Cell::Seconds(0.000_3).exact(), "0.0003");
    }

    #[test]
    fn a_fitted_table_loses_gaps_first_and_then_the_ends_of_texts() {
        let name = "node0123.cluster.example";
        let rows = [(1, name), (2, "n")];
        let width = |width| {
            let text = Table::of(&COLUMNS, &rows).draw(Style::Fitted(width));
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            (longest, text.contains(name))
        };
        let natural = width(usize::MAX);
        assert_eq!(width(natural.0), natural);
        assert_eq!(width(natural.0 - 1), (natural.0 - 3, true));
        assert_eq!(width(natural.0 - 6), (natural.0 - 6, true));
        assert_eq!(width(natural.0 - 7), (natural.0 - 7, false));
        // Heads and numbers are never cut.
        assert_eq!(width(1), (19, false));
    }
}
