//! Lines of JSON: those of `tracing`, each with the export that it belongs to.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The span of an export, and what it calls the export's id.
const EXPORT: &str = "export";
const ID: &str = "id";
/// What is said of an export at the top of each of its lines.
const KEYS: [&str; 4] = ["export", "door", "engine", "principal"];

/// Writes lines of JSON.
#[derive(Debug)]
pub(super) struct ExportLines(Format<Json>);

impl ExportLines {
    pub(super) fn new() -> Self {
        Self(tracing_subscriber::fmt::format().json())
    }
}

impl<S> FormatEvent<S, JsonFields> for ExportLines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let span = context.event_scope().into_iter().flatten().find(|span| span.name() == EXPORT);
        let of_span = span.and_then(|span| {
            let extensions = span.extensions();
            serde_json::from_str(&extensions.get::<FormattedFields<JsonFields>>()?.fields).ok()
        });
        match with_export(&line, of_span) {
            Some(line) => writeln!(writer, "{line}"),
            None => writer.write_str(&line),
        }
    }
}

/// `line` with what is known of its export: by its span, or by its own fields. `None` if it belongs to none.
fn with_export(line: &str, of_span: Option<Map<String, Value>>) -> Option<Value> {
    // Most lines belong to none, and are not parsed.
    if of_span.is_none() && !line.contains("\"export\":") {
        return None;
    }
    let mut parsed: Value = serde_json::from_str(line).ok()?;
    let mut known = Map::new();
    if let Some(mut fields) = of_span {
        if let Some(id) = fields.remove(ID) {
            fields.insert(EXPORT.to_owned(), id);
        }
        known.extend(fields.into_iter().filter(|(key, _)| KEYS.contains(&key.as_str())));
    }
    let own = parsed.get("fields").and_then(Value::as_object);
    if let Some(own) = own.filter(|own| own.contains_key(EXPORT) || !known.is_empty()) {
        for key in KEYS {
            if let Some(value) = own.get(key) {
                known.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
    if known.is_empty() {
        return None;
    }
    parsed.as_object_mut()?.extend(known);
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_of_an_export_say_which() {
        let plain = r#"{"level":"INFO","fields":{"message":"hello","door":"docker"}}"#;
        assert_eq!(with_export(plain, None), None);
        let own = r#"{"fields":{"message":"exported","export":"e1","door":"docker","principal":"uid 0"}}"#;
        let line = with_export(own, None).unwrap();
        assert_eq!(
            (&line["export"], &line["door"], &line["principal"]),
            (&json!("e1"), &json!("docker"), &json!("uid 0"))
        );
        let span = json!({ "id": "e2", "door": "buildkit", "engine": "containerd", "principal": "p", "other": 1 });
        let line = with_export(plain, span.as_object().cloned()).unwrap();
        assert_eq!(line["export"], "e2");
        assert_eq!((&line["door"], &line["engine"]), (&json!("buildkit"), &json!("containerd")));
        assert!(line.get("other").is_none() && line["fields"]["message"] == "hello");
    }
}
