//! A scrape of metrics, checked by the rules of Prometheus' text format and names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The samples of one scrape.
#[derive(Debug)]
pub(super) struct Scrape {
    /// By name and labels, as they are written.
    samples: BTreeMap<String, f64>,
    /// The names of the families.
    pub(super) families: BTreeSet<String>,
}

/// The response to one request at `socket`: its status, its head in small letters, and its body.
#[track_caller]
pub(super) fn respond(socket: &Path, method: &str, target: &str, headers: &str) -> (u16, String, String) {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    parts(&exchange(stream, method, target, headers).unwrap())
}

/// The response to one request on `stream`, up to the end of the connection.
pub(super) fn exchange(mut stream: impl Read + Write, method: &str, target: &str, headers: &str) -> io::Result<String> {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// The status of a response, its head in small letters, and its body.
#[track_caller]
pub(super) fn parts(response: &str) -> (u16, String, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {response}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

impl Scrape {
    /// Scrapes `socket` as Prometheus does.
    #[track_caller]
    pub(super) fn of(socket: &Path) -> Self {
        let (status, head, body) = respond(socket, "GET", "/metrics", "");
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        Self::parse(&body)
    }

    /// Parses a text, and fails for what `promtool check metrics` complains of.
    #[track_caller]
    pub(super) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let (mut helped, mut kinds, mut samples) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.trim().is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name), "TYPE without HELP: {line}");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "a family comes twice: {line}");
                assert!(is_name(name) && (name.starts_with("linkspan_") || name.starts_with("process_")), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                for unit in ["milliseconds", "_ms", "minutes", "kilobytes", "_kb", "_mb"] {
                    assert!(!name.contains(unit), "not a base unit: {line}");
                }
                current = name.to_owned();
            } else {
                assert!(!line.starts_with('#'), "{line}");
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let name = sample.split('{').next().unwrap();
                let suffix =
                    name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("outside its family: {line}"));
                let of_histogram = ["_bucket", "_sum", "_count"].contains(&suffix);
                assert_eq!(of_histogram, kinds[&current] == "histogram", "{line}");
                assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
            }
        }
        let scrape = Self { samples, families: kinds.keys().cloned().collect() };
        for (name, _) in kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            scrape.check_histogram(name);
        }
        scrape
    }

    /// Buckets grow, and the last has all.
    #[track_caller]
    fn check_histogram(&self, name: &str) {
        let mut series = BTreeMap::<String, Vec<(f64, f64)>>::new();
        for (sample, value) in &self.samples {
            let Some(labels) = sample.strip_prefix(&format!("{name}_bucket{{")) else { continue };
            let (others, bounds): (Vec<_>, Vec<_>) =
                labels.trim_end_matches('}').split(',').partition(|label| !label.starts_with("le="));
            let bound = bounds[0].trim_start_matches("le=").trim_matches('"');
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            series.entry(others.join(",")).or_default().push((bound, *value));
        }
        for (labels, mut buckets) in series {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{name} {labels}: {buckets:?}");
            let last = buckets.last().unwrap();
            assert!(last.0.is_infinite(), "{name} {labels}");
            assert_eq!(last.1, self.get(&format!("{name}_count{{{labels}}}")), "{name} {labels}");
        }
    }

    /// The value of a sample, written as in the text; 0 if nothing was counted.
    pub(super) fn get(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or_default()
    }

    /// Whether a sample is there, be it 0.
    pub(super) fn has(&self, sample: &str) -> bool {
        self.samples.contains_key(sample)
    }

    /// The values of the only label of a family.
    pub(super) fn labels(&self, family: &str) -> Vec<&str> {
        let of_family = self.samples.keys().filter_map(|sample| sample.strip_prefix(family)?.strip_prefix('{'));
        of_family.filter_map(|labels| labels.split('"').nth(1)).collect()
    }

    /// The sum of all samples of a family.
    pub(super) fn sum(&self, family: &str) -> f64 {
        let of_family = |sample: &str| sample.split('{').next() == Some(family);
        self.samples.iter().filter(|(sample, _)| of_family(sample)).map(|(_, value)| value).sum()
    }
}

/// Prometheus' rule for the names of metrics.
fn is_name(name: &str) -> bool {
    name.bytes().enumerate().all(|(at, byte)| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':' => true,
        byte => at > 0 && byte.is_ascii_digit(),
    })
}

#[test]
fn the_checks_can_fail() {
    let head = "# HELP linkspan_x_total x\n# TYPE linkspan_x_total counter\n";
    Scrape::parse(&format!("{head}linkspan_x_total{{a=\"b\"}} 1\n"));
    for text in [
        format!("{head}linkspan_x_total 1"),
        format!("{head}linkspan_x_total 1\nlinkspan_x_total 2\n"),
        format!("{head}other 1\n"),
        "# TYPE linkspan_x_total counter\nlinkspan_x_total 1\n".to_owned(),
        "# HELP linkspan_x x\n# TYPE linkspan_x counter\nlinkspan_x 1\n".to_owned(),
        "# HELP x x\n# TYPE x gauge\nx 1\n".to_owned(),
    ] {
        assert!(std::panic::catch_unwind(|| Scrape::parse(&text)).is_err(), "{text}");
    }
}
