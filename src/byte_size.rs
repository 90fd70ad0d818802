//! Numbers of bytes as text, in decimal units.

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// As in docker's progress (go-units `HumanSize`): `12.35kB`.
pub(crate) fn human(bytes: u64) -> String {
    significant(bytes, 4)
}

/// As in docker's tables: `12.3kB`.
pub(crate) fn human_in_table(bytes: u64) -> String {
    significant(bytes, 3)
}

/// In lines of ours among those of BuildKit and dockerd, with one decimal as BuildKit's have: `12.3kB`.
pub(crate) fn in_line(bytes: u64) -> String {
    let (value, unit) = scaled(bytes);
    let digits = if unit == UNITS[0] { 0 } else { 1 };
    format!("{value:.digits$}{unit}")
}

/// As go-units' `HumanSizeWithPrecision` writes it: `precision` significant digits, without trailing zeros.
fn significant(bytes: u64, precision: usize) -> String {
    let (value, unit) = scaled(bytes);
    let before = match value {
        value if value >= 100.0 => 3,
        value if value >= 10.0 => 2,
        _ => 1,
    };
    let digits = precision.saturating_sub(before);
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn scaled(bytes: u64) -> (f64, &'static str) {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    (value, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (bytes, expected, in_table) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (1234, "1.234kB", "1.23kB"),
            (12_345, "12.35kB", "12.3kB"),
            (123_456, "123.5kB", "123kB"),
            (7_800_000, "7.8MB", "7.8MB"),
            (u64::MAX, "18.45EB", "18.4EB"),
        ] {
            assert_eq!((human(bytes).as_str(), human_in_table(bytes).as_str()), (expected, in_table), "{bytes}");
        }
    }

    #[test]
    fn lines_have_one_decimal() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (3_210_000_000, "3.2GB"),
            (4_300_000_000_000, "4.3TB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(in_line(bytes), expected, "{bytes}");
        }
    }
}
