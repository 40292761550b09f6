//! Text for people: aligned tables, sizes, durations, times; and JSON for machines. Output to a
//! closed pipe (`everhold fs cat … | head`) ends the program quietly.

use crate::exit::{CliError, CliResult};
use everhold_proto::{ByteSize, Timestamp};
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// Prints text and a line end to standard output.
pub(crate) fn line(text: impl AsRef<str>) -> CliResult {
    raw(format!("{}\n", text.as_ref()).as_bytes())
}

/// Prints bytes to standard output.
pub(crate) fn raw(bytes: &[u8]) -> CliResult {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(CliError::local("standard output", &e)),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> CliResult {
    line(serde_json::to_string_pretty(value).expect("plain data encodes"))
}

/// A table with aligned columns.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these titles; a title that begins with `>` makes its column right-aligned.
    pub(crate) fn new(titles: &[&str]) -> Self {
        let right = titles.iter().map(|t| t.starts_with('>')).collect();
        let titles = titles.iter().map(|t| t.trim_start_matches('>').to_string()).collect();
        Table { rows: vec![titles], right }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.right.len(), "a row has a cell for each column");
        self.rows.push(cells.into());
    }

    /// Whether there are no rows but the titles.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The text, without a final line end.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.right.len())
            .map(|c| self.rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(c, cell)| {
                    let width = widths[c];
                    if self.right[c] {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                })
                .collect();
            cells.join("  ").trim_end().to_string()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Prints it.
    pub(crate) fn print(&self) -> CliResult {
        line(self.render())
    }
}

/// Bytes in binary units, or as a number.
pub(crate) fn size(bytes: u64, exact: bool) -> String {
    if exact { bytes.to_string() } else { ByteSize(bytes).to_string() }
}

/// A rate in bytes per second.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", ByteSize(bytes_per_second.max(0.0) as u64))
}

/// A duration: `0.35 s`, `12 s`, `3 min`.
pub(crate) fn duration(d: Duration) -> String {
    let seconds = d.as_secs_f64();
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// UTC time of day and date (`2031-05-07 09:30:12`), by the civil-from-days algorithm of H. Hinnant.
pub(crate) fn time(at: Timestamp) -> String {
    let seconds = at.0.div_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["NAME", ">SIZE"]);
        table.row(["a".into(), "1".into()]);
        table.row(["longer".into(), "1000000".into()]);
        assert_eq!(table.render(), "NAME       SIZE\na             1\nlonger  1000000");
    }

    #[test]
    fn times_are_civil() {
        assert_eq!(time(Timestamp(0)), "1970-01-01 00:00:00");
        assert_eq!(time(Timestamp(951_827_696_000_000_000)), "2000-02-29 12:34:56");
        assert_eq!(time(Timestamp(-1)), "1969-12-31 23:59:59");
        assert_eq!(duration(Duration::from_millis(350)), "0.35 s");
        assert_eq!(duration(Duration::from_secs(61)), "61 s");
    }
}
