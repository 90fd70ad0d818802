//! Parses values.

use std::time::Duration;

use super::{ConfigError, Given, Layer, Setting};
use crate::build_outputs::{LoadCompression, OutputOptions, PushCompression};

/// The error for a value; `reason` continues the sentence that begins with it.
pub(super) fn invalid(given: &Given, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { origin: given.origin.clone(), text: given.text.clone(), reason: reason.into() }
}

/// The longest pattern of names: longer than any name.
const MAX_PATTERN: usize = 1024;

/// A pattern of names.
pub(super) fn pattern(given: &Given) -> Result<String, ConfigError> {
    let text = &given.text;
    if text.is_empty() || text.len() > MAX_PATTERN || text.chars().any(|c| c.is_whitespace() || c == ',') {
        return Err(invalid(
            given,
            format!(
                "is no pattern of names; expected at most {MAX_PATTERN} bytes without spaces and commas, such as \
                 `docker.io/library/ci-*`"
            ),
        ));
    }
    Ok(text.clone())
}

/// `true` or `false`.
pub(super) fn boolean(given: &Given) -> Result<bool, ConfigError> {
    match given.text.as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(invalid(given, "is neither `true` nor `false`")),
    }
}

/// How builders compress new layers of loads.
pub(super) fn load_compression(given: &Given) -> Result<LoadCompression, ConfigError> {
    let found = LoadCompression::ALL.into_iter().find(|setting| setting.name() == given.text);
    found.ok_or_else(|| {
        invalid(
            given,
            "is no compression of loads; expected `as-asked` (gzip as buildx asks, the default), `fast` (gzip level 1), \
             `zstd` or `uncompressed`",
        )
    })
}

/// How builders compress layers that they push.
fn push_compression(given: &Given) -> Result<PushCompression, ConfigError> {
    let found = PushCompression::ALL.into_iter().find(|setting| setting.name() == given.text);
    found.ok_or_else(|| {
        invalid(
            given,
            "is no compression of pushes; expected `as-asked` (each layer as it was made first, the default) or `gzip`",
        )
    })
}

/// How doors treat the outputs of builds, where a builder has no settings of its own.
pub(super) fn outputs(settings: &Layer) -> Result<OutputOptions, ConfigError> {
    Ok(OutputOptions {
        plain_is_load: settings.last(Setting::PlainIsLoad).map(boolean).transpose()?.unwrap_or_default(),
        load_compression: settings
            .last(Setting::LoadCompression)
            .map(load_compression)
            .transpose()?
            .unwrap_or_default(),
        push_compression: settings
            .last(Setting::PushCompression)
            .map(push_compression)
            .transpose()?
            .unwrap_or_default(),
    })
}

/// A limit in bytes, such as `500MB` or `10GiB`. Zero would delete everything, and in many programs means no limit.
pub(super) fn bytes(given: &Given) -> Result<u64, ConfigError> {
    let bytes = bytes_of(&given.text);
    let bytes =
        bytes.ok_or_else(|| invalid(given, "is no number of bytes; expected one such as `10GB` or `512MiB`"))?;
    if bytes == 0 {
        return Err(invalid(
            given,
            "would let no cache stay; expected at least 1 byte, as in `20GB`, or no such setting for no limit",
        ));
    }
    Ok(bytes)
}

/// A number of things, at least one.
pub(super) fn count(given: &Given) -> Result<usize, ConfigError> {
    let count = given.text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| invalid(given, "is no number of versions; expected a whole number from 1 on, such as `50`"))
}

/// A duration, such as `36h` or `30d`.
pub(super) fn age(given: &Given) -> Result<Duration, ConfigError> {
    let age = duration_of(&given.text);
    let age = age.ok_or_else(|| invalid(given, "is no time; expected one such as `12h`, `7d` or `30d`"))?;
    if age < SHORTEST_AGE {
        return Err(invalid(
            given,
            "is too short: the last use of a cache is noted to the hour; expected `2h` or more",
        ));
    }
    Ok(age)
}

/// The shortest age: the last use of a cache is recorded to the hour, so a shorter age would delete caches in use.
const SHORTEST_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// A whole number and its unit, which begins at the first letter.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Parses a number of bytes, as they are printed: `kB` is 1000 and `KiB` 1024, and so on. `k` and `kb` are
/// rejected, because Docker takes them for 1024.
pub(crate) fn bytes_of(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "TB" => 1000 * 1000 * 1000 * 1000,
        "PB" => 1000 * 1000 * 1000 * 1000 * 1000,
        "EB" => 1000 * 1000 * 1000 * 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let Some(fraction) = fraction else { return Some(whole) };
    let is_fraction = (1..=MAX_DECIMALS).contains(&fraction.len()) && fraction.bytes().all(|it| it.is_ascii_digit());
    if !is_fraction || factor == 1 {
        return None;
    }
    let part = fraction.parse::<u128>().ok()? * u128::from(factor) / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// The most digits behind the point of a number of bytes.
const MAX_DECIMALS: usize = 9;

/// Parses a duration in whole seconds, minutes, hours, days or weeks, or a sum of these (`1h30m`); at most a hundred
/// years.
pub(crate) fn duration_of(text: &str) -> Option<Duration> {
    let (mut left, mut sum) = (text, 0u64);
    loop {
        let (number, rest) = number_and_unit(left)?;
        let mut letters = rest.chars();
        let seconds = match letters.next()? {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            'w' => 7 * 24 * 60 * 60,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(seconds)?)?;
        left = letters.as_str();
        if left.is_empty() {
            break;
        }
    }
    Some(sum).filter(|seconds| *seconds <= 100 * 366 * 24 * 60 * 60).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10GB", Some(10_000_000_000)),
            ("512MiB", Some(512 << 20)),
            ("7B", Some(7)),
            ("1.5GB", Some(1_500_000_000)),
            ("37.79MB", Some(37_790_000)),
            ("0.5KiB", Some(512)),
            ("1.0005kB", Some(1000)),
            ("18.4EB", Some(18_400_000_000_000_000_000)),
            ("18.5EB", None),
            ("1.5B", None),
            ("1.", None),
            (".5GB", None),
            ("1.5.5GB", None),
            ("1.1234567890GB", None),
            ("-1", None),
            ("GB", None),
            ("10g", None),
            ("99999999TB", None),
            ("", None),
        ] {
            assert_eq!(bytes_of(text), expected, "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("24h", Some(86_400)),
            ("2w", Some(1_209_600)),
            ("1h30m", Some(5400)),
            ("1h30", None),
            ("24", None),
            ("1y", None),
            ("5000w", Some(3_024_000_000)),
            ("6000w", None),
            ("", None),
        ] {
            assert_eq!(duration_of(text), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_limit_of_no_bytes_is_refused() {
        let bytes_of = |text: &str| {
            let origin = super::super::Origin::Variable("LINKSPAN_CACHE_MAX_BYTES".to_owned());
            bytes(&Given { text: text.to_owned(), origin }).map_err(|error| error.to_string())
        };
        assert_eq!(bytes_of("1"), Ok(1));
        for bad in ["0", "0GB", "0.0GB", "00"] {
            let refused =
                format!("LINKSPAN_CACHE_MAX_BYTES: `{bad}` would let no cache stay; expected at least 1 byte");
            assert!(bytes_of(bad).unwrap_err().starts_with(&refused), "{bad}");
        }
    }

    #[test]
    fn a_count_begins_at_one() {
        let count_of = |text: &str| {
            let origin = super::super::Origin::Variable("LINKSPAN_CACHE_MAX_COUNT".to_owned());
            count(&Given { text: text.to_owned(), origin })
        };
        assert_eq!(count_of("50").unwrap(), 50);
        for bad in ["0", "-1", "1.5", "50 versions", ""] {
            assert!(count_of(bad).unwrap_err().to_string().contains("from 1 on"), "{bad}");
        }
    }

    #[test]
    fn an_age_below_what_the_last_use_is_noted_to_is_refused() {
        let age_of = |text: &str| {
            let origin = super::super::Origin::Variable("LINKSPAN_CACHE_MAX_AGE".to_owned());
            age(&Given { text: text.to_owned(), origin })
        };
        assert_eq!(age_of("2h").unwrap(), Duration::from_secs(7200));
        assert!(age_of("1h59m").unwrap_err().to_string().contains("`2h` or more"));
    }
}
