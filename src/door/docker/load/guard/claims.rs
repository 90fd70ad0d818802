//! The names in the documents of an archive, as dockerd reads them.
//!
//! Go matches keys of a struct in any case, and of repeated keys it takes the last or merges them. A document whose
//! names depend on that is refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::image::Digest;

/// The annotation by which containerd names an image (containerd `client/import.go`, `imageName`).
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A name, and the root that it is to resolve to, if the document gives one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) name: String,
    pub(super) root: Option<Digest>,
}

/// Why a document's names are not certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UncertainNames {
    #[error("it is not JSON: {0}")]
    Syntax(String),
    #[error("`{0}` is there twice")]
    Twice(&'static str),
    #[error("`{0}` is not what it should be")]
    Shape(&'static str),
}

/// The names in `index.json` of an OCI layout: by containerd's annotation, else by the specification's.
pub(super) fn of_index(text: &[u8]) -> Result<Vec<Claim>, UncertainNames> {
    let index = parse(text)?;
    let Some(manifests) = index.get("manifests")? else { return Ok(Vec::new()) };
    let mut claims = Vec::new();
    for entry in manifests.list("manifests")? {
        let Some(annotations) = entry.get("annotations")? else { continue };
        let name = match annotations.exactly(FULL_NAME)? {
            Some(name) if !name.is_empty() => Some(name),
            _ => annotations.exactly(REF_NAME)?.filter(|name| !name.is_empty()),
        };
        if let Some(name) = name {
            let root = entry.get("digest")?.and_then(Json::text).and_then(|digest| digest.parse().ok());
            claims.push(Claim { name: name.to_owned(), root });
        }
    }
    Ok(claims)
}

/// The names in `manifest.json` of `docker save`.
pub(super) fn of_manifest(text: &[u8]) -> Result<Vec<Claim>, UncertainNames> {
    let mut claims = Vec::new();
    for image in parse(text)?.list("manifest.json")? {
        let Some(tags) = image.get("repotags")? else { continue };
        for tag in tags.list("RepoTags")? {
            let name = tag.text().ok_or(UncertainNames::Shape("RepoTags"))?.to_owned();
            claims.push(Claim { name, root: None });
        }
    }
    Ok(claims)
}

/// The names in `repositories` of archives before Docker 1.10: repositories, and in each of them tags.
pub(super) fn of_repositories(text: &[u8]) -> Result<Vec<Claim>, UncertainNames> {
    let mut claims = Vec::new();
    let Json::Map(repositories) = parse(text)? else { return Err(UncertainNames::Shape("repositories")) };
    for (repository, tags) in repositories {
        let Json::Map(tags) = tags else { return Err(UncertainNames::Shape("repositories")) };
        claims.extend(tags.iter().map(|(tag, _)| Claim { name: format!("{repository}:{tag}"), root: None }));
    }
    Ok(claims)
}

fn parse(text: &[u8]) -> Result<Json, UncertainNames> {
    serde_json::from_slice(text).map_err(|error| UncertainNames::Syntax(error.to_string()))
}

/// A JSON document that keeps repeated keys.
#[derive(Debug)]
enum Json {
    Map(Vec<(String, Json)>),
    List(Vec<Json>),
    Text(String),
    Null,
    Other,
}

impl Json {
    /// A field of a struct; `key` in lower case.
    fn get(&self, key: &'static str) -> Result<Option<&Self>, UncertainNames> {
        let fields = match self {
            Self::Map(fields) => fields,
            Self::Null => return Ok(None),
            _ => return Err(UncertainNames::Shape(key)),
        };
        let mut found = fields.iter().filter(|(name, _)| name.chars().map(fold).eq(key.chars()));
        let value = found.next().map(|(_, value)| value).filter(|value| !matches!(value, Self::Null));
        if found.next().is_some() { Err(UncertainNames::Twice(key)) } else { Ok(value) }
    }

    /// A string in a map, whose keys are matched exactly.
    fn exactly(&self, key: &'static str) -> Result<Option<&str>, UncertainNames> {
        let Self::Map(fields) = self else { return Err(UncertainNames::Shape("annotations")) };
        let mut found = fields.iter().filter(|(name, _)| name == key);
        let value = match found.next() {
            None | Some((_, Self::Null)) => None,
            Some((_, value)) => Some(value.text().ok_or(UncertainNames::Shape(key))?),
        };
        if found.next().is_some() { Err(UncertainNames::Twice(key)) } else { Ok(value) }
    }

    fn list(&self, what: &'static str) -> Result<&[Self], UncertainNames> {
        match self {
            Self::List(items) => Ok(items),
            Self::Null => Ok(&[]),
            _ => Err(UncertainNames::Shape(what)),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Folds a character as Go does to compare keys: two letters beyond ASCII fold to ASCII letters.
fn fold(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(claims: Result<Vec<Claim>, UncertainNames>) -> Option<Vec<String>> {
        claims.ok().map(|claims| claims.into_iter().map(|claim| claim.name).collect())
    }

    #[test]
    fn an_index_names_by_annotations() {
        let digest = Digest::sha256(b"x");
        let index = |annotations: &str| {
            let text = format!(r#"{{"manifests":[{{"digest":"{digest}","annotations":{annotations}}},{{}},null]}}"#);
            of_index(text.as_bytes())
        };
        let full = index(r#"{"io.containerd.image.name":"a","org.opencontainers.image.ref.name":"latest"}"#);
        assert_eq!(full, Ok(vec![Claim { name: "a".into(), root: Some(digest.clone()) }]));
        let no_names: &[&str] = &[];
        for (annotations, expected) in [
            (r#"{"org.opencontainers.image.ref.name":"v1"}"#, Some(&["v1"][..])),
            (r#"{"io.containerd.image.name":"","org.opencontainers.image.ref.name":"v1"}"#, Some(&["v1"])),
            (r#"{"IO.containerd.image.name":"a"}"#, Some(no_names)),
            ("null", Some(no_names)),
            (r#"{"io.containerd.image.name":"a","io.containerd.image.name":"b"}"#, None),
            (r#"{"io.containerd.image.name":7}"#, None),
            ("7", None),
        ] {
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            assert_eq!(names(index(annotations)), expected, "{annotations}");
        }
    }

    #[test]
    fn keys_are_read_in_any_case_and_never_twice() {
        for (text, expected) in [
            (r#"[{"RepoTags":["a:1","b"]},{"RepoTags":null},{}]"#, Some(&["a:1", "b"][..])),
            ("[{\"rEPOTAG\u{17f}\":[\"a\"]}]", Some(&["a"])),
            (r#"[{"RepoTags":["a"],"repotags":["b"]}]"#, None),
            (r#"[{"RepoTags":"a"}]"#, None),
            (r#"[{"RepoTags":[1]}]"#, None),
            (r#"[{"RepoTags":["a"]}] []"#, None),
            ("null", Some(&[])),
            ("", None),
        ] {
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            assert_eq!(names(of_manifest(text.as_bytes())), expected, "{text}");
        }
        assert!(of_index(br#"{"manifests":[],"Manifests":[]}"#).is_err());
        assert!(of_index(br#"{"manifests":[{"annotations":{},"ANNOTATIONS":{}}]}"#).is_err());
    }

    #[test]
    fn repositories_name_tags() {
        let repositories = br#"{"demo":{"1":"id","2":"id"},"x/y":{"latest":"id"}}"#;
        assert_eq!(names(of_repositories(repositories)).unwrap(), ["demo:1", "demo:2", "x/y:latest"]);
        assert!(of_repositories(br#"{"demo":"1"}"#).is_err());
    }
}
