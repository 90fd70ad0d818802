//! Sizes, times and tables, formatted as docker does.

use std::time::Duration;

pub(super) use crate::byte_size::{human as size, human_in_table as size_in_table};

/// A number of things: `1 blob`, `2 blobs`.
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// How long ago something was, as docker writes it (go-units `HumanDuration`).
pub(super) fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    let text = match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    };
    format!("{text} ago")
}

/// Columns three spaces apart, as in docker's tables, within `width`, if there is one: if it is wider, columns are two spaces apart, and the widest of `cuttable` are cut,
/// as far as their headings.
pub(super) fn cut_table(rows: &[Vec<String>], cuttable: &[usize], width: Option<usize>) -> String {
    let mut widths = widths(rows);
    let sum = |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1);
    let Some(width) = width.filter(|width| sum(&widths, 3) > *width) else { return lines(rows, &widths, "   ") };
    let least = |column: usize| rows.first().and_then(|row| row.get(column)).map_or(0, |cell| cell.chars().count());
    while sum(&widths, 2) > width {
        let wide = cuttable.iter().copied().filter(|column| widths.get(*column).is_some_and(|it| *it > least(*column)));
        let Some(widest) = wide.max_by_key(|column| widths[*column]) else { break };
        widths[widest] -= 1;
    }
    lines(rows, &widths, "  ")
}

/// Whether a table has room in `width` columns with nothing cut.
pub(super) fn fits(rows: &[Vec<String>], width: usize) -> bool {
    let widths = widths(rows);
    widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1) <= width
}

/// The same as [`ago`] for a narrow table: as few letters as say it.
pub(super) fn ago_in_short(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max();
    (0..columns).map(|column| width(column).unwrap_or(0)).collect()
}

fn lines(rows: &[Vec<String>], widths: &[usize], gap: &str) -> String {
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", cut(cell, *width)));
        cells.collect::<Vec<_>>().join(gap).trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The beginning of a text that is longer than `width`.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_dockers() {
        for (seconds, expected) in [
            (0, "Less than a second ago"),
            (59, "59 seconds ago"),
            (60, "About a minute ago"),
            (3000, "50 minutes ago"),
            (3600, "About an hour ago"),
            (47 * 3600, "47 hours ago"),
            (3 * 86400, "3 days ago"),
            (21 * 86400, "3 weeks ago"),
            (100 * 86400, "3 months ago"),
            (800 * 86400, "2 years ago"),
        ] {
            assert_eq!(ago(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    fn table(rows: &[Vec<String>]) -> String {
        cut_table(rows, &[], None)
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "A      B\nlong   x");
    }

    #[test]
    fn columns_are_cut_to_a_width_and_no_further_than_their_headings() {
        let rows = [["ID", "REF", "OF"], ["0123456789ab", "team/app:feature", "linux/amd64"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let cut = |width| cut_table(&rows, &[1, 2], width);
        assert_eq!(cut(None), table(&rows));
        assert_eq!(cut(Some(45)), table(&rows), "it fits");
        assert_eq!(
            cut(Some(33)),
            "ID            REF        OF\n0123456789ab  team/app…  linux/a…",
            "the last of those that are equally wide goes first"
        );
        assert_eq!(cut(Some(10)).lines().last(), Some("0123456789ab  te…  l…"));
    }
}
