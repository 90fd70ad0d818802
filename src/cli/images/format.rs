//! `--format`: docker's tables, JSON and templates.

use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::Row;
use crate::cli::show;

/// The fields of templates, and the headings of their columns.
const FIELDS: [(&str, &str); 7] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
];

/// The fields that are cut to the width of a terminal.
const CUTTABLE: [&str; 2] = ["Repository", "Tag"];

/// How images are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListFormat {
    /// Columns with headings.
    Table(Vec<Piece>),
    /// A line for each image.
    Lines(Vec<Piece>),
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// `{{.Field}}`, by its index in [`FIELDS`].
    Field(usize),
    /// `{{json .Field}}`, or `{{json .}}`.
    Json(Option<usize>),
}

impl ListFormat {
    /// docker's table.
    pub(super) fn usual(digests: bool) -> Self {
        let digest = if digests { "\t{{.Digest}}" } else { "" };
        let template =
            format!("{{{{.Repository}}}}\t{{{{.Tag}}}}{digest}\t{{{{.ID}}}}\t{{{{.CreatedSince}}}}\t{{{{.Size}}}}");
        Self::Table(pieces(&template).unwrap_or_default())
    }

    /// The images in this format.
    pub(super) fn print(&self, rows: &[Row]) -> String {
        self.print_within(rows, None)
    }

    /// The same within the `width` of a terminal: long names and tags are cut. A digest is asked for, and is of use whole.
    pub(super) fn print_within(&self, rows: &[Row], width: Option<usize>) -> String {
        let lines = |pieces: &[Piece]| -> Vec<String> { rows.iter().map(|row| line(pieces, row)).collect() };
        match self {
            Self::Lines(pieces) => lines(pieces).join("\n"),
            Self::Table(pieces) => {
                let head = |piece: &Piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Field(at) | Piece::Json(Some(at)) => FIELDS[*at].1.to_owned(),
                    Piece::Json(None) => String::new(),
                };
                let heads = pieces.iter().map(head).collect::<String>();
                let cells = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let rows = std::iter::once(heads).chain(lines(pieces)).map(cells).collect::<Vec<_>>();
                let fields = pieces.iter().filter_map(|piece| match piece {
                    Piece::Field(at) => Some(FIELDS[*at].0),
                    _ => None,
                });
                let is_cuttable = |field: &str| CUTTABLE.contains(&field);
                let cuttable: Vec<_> =
                    fields.enumerate().filter(|(_, field)| is_cuttable(field)).map(|(at, _)| at).collect();
                show::cut_table(&rows, &cuttable, width)
            }
        }
    }
}

impl FromStr for ListFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "table" => Ok(Self::usual(false)),
            "json" => Ok(Self::Lines(vec![Piece::Json(None)])),
            template => match template.strip_prefix("table ") {
                Some(template) => pieces(template).map(Self::Table),
                None => pieces(template).map(Self::Lines),
            },
        }
    }
}

/// Parses a template; the error names what is wrong.
fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let template = template.replace("\\t", "\t").replace("\\n", "\n");
    let (mut pieces, mut rest) = (Vec::new(), template.as_str());
    while let Some((text, after)) = rest.split_once("{{") {
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let (action, after) = after.split_once("}}").ok_or("a `{{` has no `}}`")?;
        pieces.push(piece(action.trim_matches(['-', ' ']))?);
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

fn piece(action: &str) -> Result<Piece, String> {
    let field = |name: &str| FIELDS.iter().position(|(field, _)| name.strip_prefix('.') == Some(field));
    let of_json = action.strip_prefix("json ").map(str::trim);
    match (of_json, field(of_json.unwrap_or(action))) {
        (Some("."), _) => Ok(Piece::Json(None)),
        (Some(_), Some(at)) => Ok(Piece::Json(Some(at))),
        (None, Some(at)) => Ok(Piece::Field(at)),
        (_, None) => {
            let known: Vec<_> = FIELDS.iter().map(|(field, _)| format!(".{field}")).collect();
            Err(format!(
                "`{{{{{action}}}}}` is not known here; expected `{{{{FIELD}}}}`, `{{{{json FIELD}}}}` or `{{{{json .}}}}` with one of {}",
                known.join(", ")
            ))
        }
    }
}

fn line(pieces: &[Piece], row: &Row) -> String {
    let mut line = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => line.push_str(text),
            Piece::Field(at) => line.push_str(&value(row, *at)),
            Piece::Json(at) => {
                let json = match at {
                    Some(at) => Value::from(value(row, *at)),
                    None => {
                        let pairs = FIELDS
                            .iter()
                            .enumerate()
                            .map(|(at, (name, _))| ((*name).to_owned(), value(row, at).into()));
                        Value::Object(pairs.collect::<Map<_, _>>())
                    }
                };
                // Writing into memory cannot fail.
                let _ = write!(line, "{json}");
            }
        }
    }
    line
}

/// The value of the field with this index in [`FIELDS`].
fn value(row: &Row, at: usize) -> String {
    match FIELDS[at].0 {
        "ID" => row.id.clone(),
        "Repository" => row.repository.clone(),
        "Tag" => row.tag.clone(),
        "Digest" => row.digest.clone(),
        "CreatedSince" => row.age.map_or_else(|| "N/A".to_owned(), show::ago),
        "CreatedAt" => row.created_at.clone(),
        _ => row.size.map_or_else(|| "incomplete".to_owned(), show::size_in_table),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn templates_are_dockers() {
        let row = Row {
            id: "0123456789ab".to_owned(),
            repository: "demo".to_owned(),
            tag: "1".to_owned(),
            digest: "sha256:01".to_owned(),
            age: Some(Duration::from_secs(7200)),
            created_at: "2024-01-02 03:04:05 +0000 UTC".to_owned(),
            size: Some(1_234_567),
        };
        let print = |template: &str| template.parse::<ListFormat>().unwrap().print(std::slice::from_ref(&row));
        assert_eq!(print("{{.Repository}}:{{ .Tag }}"), "demo:1");
        assert_eq!(print("table {{.ID}}\\t{{.Size}}"), "IMAGE ID       SIZE\n0123456789ab   1.23MB");
        assert_eq!(print("{{json .Tag}} {{.CreatedSince}}"), "\"1\" 2 hours ago");
        let json: Value = serde_json::from_str(&print("json")).unwrap();
        assert_eq!((&json["Digest"], &json["CreatedAt"]), (&"sha256:01".into(), &row.created_at.as_str().into()));
        assert!(print("table").starts_with("REPOSITORY   TAG   IMAGE ID       CREATED       SIZE\ndemo "));
        let digest = format!("sha256:{}", "01".repeat(32));
        let long = Row {
            repository: "registry.example/a/long/path/to/an/image/that/fits/no/terminal".to_owned(),
            digest,
            ..row
        };
        let rows = std::slice::from_ref(&long);
        for digests in [false, true] {
            let usual = ListFormat::usual(digests);
            assert!(usual.print(rows).contains(&long.repository));
            let cut = usual.print_within(rows, Some(80));
            assert!(digests || cut.lines().all(|line| line.chars().count() <= 80), "{cut}");
            assert!(cut.contains("0123456789ab") && cut.contains("2 hours ago") && cut.contains("1.23MB"), "{cut}");
            assert!(cut.contains('…') && (!digests || cut.contains(&long.digest)), "{cut}");
        }
        for wrong in ["{{.Nothing}}", "{{.ID", "{{range .}}"] {
            wrong.parse::<ListFormat>().unwrap_err();
        }
    }
}
