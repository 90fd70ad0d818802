//! The variables of OpenTelemetry (OpenTelemetry specification, "Environment Variable Specification"): how their values are read, and what
//! is said of those that are wrong or not followed. A wrong value is as none.

use std::cell::RefCell;
use std::env;
use std::ffi::OsString;
use std::ops::RangeInclusive;

use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;

/// The variables that are followed, here or in the library.
const FOLLOWED: [&str; 29] = [
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
];
/// The values of variables that are not followed with which they ask for what is done anyway.
const AS_IT_IS: [(&str, &[&str]); 3] = [
    ("OTEL_METRICS_EXPORTER", &["none"]),
    ("OTEL_LOGS_EXPORTER", &["none"]),
    ("OTEL_PROPAGATORS", &["tracecontext", "tracecontext,baggage"]),
];
/// How many names a message has at most, and how long a value is that it shows.
const MAX_NAMES: usize = 32;
const MAX_SHOWN: usize = 64;

/// Variables, and what was found to be wrong with them.
#[derive(Debug, Default)]
pub(super) struct Variables {
    given: Vec<(OsString, OsString)>,
    warnings: RefCell<Vec<String>>,
}

impl Variables {
    pub(super) fn of_process() -> Self {
        Self::new(env::vars_os())
    }

    pub(super) fn new(given: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let is_ours = |(name, _): &(OsString, OsString)| name.as_encoded_bytes().starts_with(b"OTEL_");
        Self { given: given.into_iter().filter(is_ours).collect(), warnings: RefCell::default() }
    }

    /// What is wrong, once all have been read: also which variables are not followed.
    pub(super) fn warnings(self) -> Vec<String> {
        let mut strange = Vec::new();
        for (name, value) in &self.given {
            let (name, text) = (name.to_string_lossy(), value.to_str());
            let is_as_it_is =
                |(it, values): &(&str, &[&str])| *it == name && text.is_some_and(|text| values.contains(&text));
            if FOLLOWED.contains(&&*name) {
                if text.is_none() {
                    self.warn(format!("{name} is not Unicode, and is ignored"));
                }
            } else if !value.is_empty() && !AS_IT_IS.iter().any(is_as_it_is) {
                strange.push(name.into_owned());
            }
        }
        if !strange.is_empty() {
            strange.sort();
            let more = strange.len().saturating_sub(MAX_NAMES);
            strange.truncate(MAX_NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.warn(format!("not supported, and ignored: {}{more}", strange.join(", ")));
        }
        self.warnings.into_inner()
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    /// The value of a variable; one that is empty is as none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.given.iter().find(|(it, _)| it == name)?;
        found.1.to_str().map(str::trim).filter(|value| !value.is_empty())
    }

    /// The first of the variables that has a value.
    pub(super) fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, &str)> {
        names.into_iter().find_map(|name| Some((name, self.get(name)?)))
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or("false");
        let is = |it| value.eq_ignore_ascii_case(it);
        if !is("true") && !is("false") {
            self.warn(format!("{name} is `{}`, and is taken for `false`; expected `true` or `false`", shown(value)));
        }
        is("true")
    }

    /// The number in a variable; one above the range is its end.
    pub(super) fn number(&self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.get(name)?;
        let (least, most) = (*range.start(), *range.end());
        match value.parse::<u64>() {
            Ok(number) if range.contains(&number) => return Some(number),
            Ok(number) if number > most => {
                self.warn(format!("{name} is {number}; {most} is used, the largest that is offered"));
                return Some(most);
            }
            _ => {}
        }
        let value = shown(value);
        self.warn(format!("{name} is `{value}`, and is ignored; expected a whole number from {least} to {most}"));
        None
    }

    /// Which of `known` the first of the variables says that says one of them.
    pub(super) fn choice<const N: usize>(
        &self,
        names: [&'static str; N],
        known: &[&'static str],
    ) -> Option<&'static str> {
        for name in names {
            let Some(value) = self.get(name) else { continue };
            let found = known.iter().find(|known| value.eq_ignore_ascii_case(known));
            if found.is_some() {
                return found.copied();
            }
            self.unknown(name, value, known);
        }
        None
    }

    fn unknown(&self, name: &str, value: &str, known: &[&str]) {
        let known = known.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
        self.warn(format!("{name} is `{}`, and is ignored; expected one of {known}", shown(value)));
    }

    /// Whether spans are to be exported by OTLP.
    pub(super) fn is_exported(&self) -> bool {
        const NAME: &str = "OTEL_TRACES_EXPORTER";
        let Some(value) = self.get(NAME) else { return true };
        let known = ["otlp", "none"];
        let mut found = Vec::new();
        for exporter in value.split(',').map(str::trim) {
            match known.iter().find(|known| exporter.eq_ignore_ascii_case(known)) {
                Some(known) => found.push(*known),
                None => self.unknown(NAME, exporter, &known),
            }
        }
        found.is_empty() || found.contains(&"otlp")
    }

    /// Which spans are exported.
    pub(super) fn sampler(&self) -> Sampler {
        let known = [
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ];
        let name = self.choice(["OTEL_TRACES_SAMPLER"], &known).unwrap_or("parentbased_always_on");
        let parents = name.strip_prefix("parentbased_");
        let own = match parents.unwrap_or(name) {
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(self.ratio()),
            _ => Sampler::AlwaysOn,
        };
        if parents.is_some() { Sampler::ParentBased(Box::new(own)) } else { own }
    }

    fn ratio(&self) -> f64 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.get(NAME) else { return 1.0 };
        let ratio = value.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.unwrap_or_else(|| {
            let value = shown(value);
            self.warn(format!(
                "{NAME} is `{value}`, and is ignored; expected a number from 0.0 to 1.0, and 1.0 is used"
            ));
            1.0
        })
    }
}

/// A value as a message shows it.
fn shown(value: &str) -> String {
    value.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect()
}

/// The entries of `key=value,key=value` with percent-encoding (OpenTelemetry specification, "Resource SDK", and "OpenTelemetry Protocol
/// Exporter"); which entry is wrong and how, if one is.
pub(super) fn pairs(list: &str) -> Result<Vec<(String, String)>, String> {
    let entries = list.split(',').map(str::trim).enumerate().filter(|(_, entry)| !entry.is_empty());
    let entries = entries.map(|(index, entry)| {
        let fail = |reason| format!("entry {} {reason}", index + 1);
        let (key, value) = entry.split_once('=').ok_or_else(|| fail("has no `=`"))?;
        let decode = |text: &str| decoded(text.trim()).ok_or_else(|| fail("is not percent-encoded as it must be"));
        let (key, value) = (decode(key)?, decode(value)?);
        if key.is_empty() { Err(fail("has no name")) } else { Ok((key, value)) }
    });
    entries.collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut rest = text.split('%');
    rest.next();
    let is_whole = rest.all(|part| part.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)));
    let decoded = is_whole.then(|| percent_decode_str(text).decode_utf8().ok())??;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(given: &[(&str, &str)]) -> Variables {
        Variables::new(given.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn wrong_values_are_as_none_and_are_named() {
        let check = |name: &str, value: &str, is_right: bool, read: &dyn Fn(&Variables) -> bool| {
            let variables = variables(&[(name, value)]);
            assert!(read(&variables), "{name}={value}");
            let warnings = variables.warnings();
            match (is_right, &warnings[..]) {
                (true, []) => {}
                (false, [warning]) => {
                    assert!(warning.starts_with(&format!("{name} is `{value}`, and is ")), "{warning}")
                }
                _ => panic!("{name}={value}: {warnings:?}"),
            }
        };
        for (value, expected, is_right) in [("TRUE", true, true), ("false", false, true), ("1", false, false)] {
            check("OTEL_SDK_DISABLED", value, is_right, &|it| it.flag("OTEL_SDK_DISABLED") == expected);
        }
        for (value, expected, is_right) in
            [("otlp", true, true), ("none", false, true), ("None", false, true), ("zipkin", true, false)]
        {
            check("OTEL_TRACES_EXPORTER", value, is_right, &|it| it.is_exported() == expected);
        }
        let number = |it: &Variables| it.number("OTEL_BSP_MAX_QUEUE_SIZE", 1..=100);
        for (value, expected, is_right) in
            [("7", Some(7), true), ("0", None, false), ("-1", None, false), ("1e3", None, false), ("5s", None, false)]
        {
            check("OTEL_BSP_MAX_QUEUE_SIZE", value, is_right, &|it| number(it) == expected);
        }
        let large = variables(&[("OTEL_BSP_MAX_QUEUE_SIZE", "101")]);
        assert_eq!(number(&large), Some(100));
        assert!(large.warnings()[0].contains("100 is used"));
        let debug = |it: &Variables| format!("{:?}", it.sampler());
        for (value, expected, is_right) in [
            ("always_off", "AlwaysOff", true),
            ("TraceIdRatio", "TraceIdRatioBased(1.0)", true),
            ("xray", "ParentBased(AlwaysOn)", false),
        ] {
            check("OTEL_TRACES_SAMPLER", value, is_right, &|it| debug(it) == expected);
        }
        for (value, expected) in [("0.25", "0.25"), ("1.5", "1.0"), ("-0.1", "1.0"), ("NaN", "1.0"), ("half", "1.0")] {
            let variables =
                variables(&[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", value)]);
            assert_eq!(debug(&variables), format!("ParentBased(TraceIdRatioBased({expected}))"));
            assert_eq!(variables.warnings().len(), usize::from(value != "0.25"), "{value}");
        }
    }

    #[test]
    fn what_is_not_followed_is_named_without_its_value() {
        let variables = variables(&[
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "secret"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOG_LEVEL", ""),
            ("OTEL_SERVICE_NAME", "mine"),
            ("PATH", "/bin"),
        ]);
        let expected = "not supported, and ignored: OTEL_EXPORTER_OTLP_INSECURE, OTEL_PROPAGATORS";
        assert_eq!(variables.warnings(), [expected]);
    }

    #[test]
    fn lists_are_percent_encoded() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        for (list, expected) in [
            ("a=b, c = d%20e%2Cf ,", Ok(vec![pair("a", "b"), pair("c", "d e,f")])),
            ("a=b=c,d=", Ok(vec![pair("a", "b=c"), pair("d", "")])),
            ("k%C3%A9=%C3%A9", Ok(vec![pair("ké", "é")])),
            ("a=b,c", Err("entry 2 has no `=`")),
            ("=b", Err("entry 1 has no name")),
            ("a=%2", Err("entry 1 is not percent-encoded as it must be")),
            ("a=%zz", Err("entry 1 is not percent-encoded as it must be")),
            ("a=%FF", Err("entry 1 is not percent-encoded as it must be")),
        ] {
            assert_eq!(pairs(list), expected.map_err(str::to_owned), "{list}");
        }
    }
}
