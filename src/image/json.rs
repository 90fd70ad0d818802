//! Refuses JSON that Go's decoder, which the engines use, would read differently.
//!
//! Engines are written in Go, whose `encoding/json` matches keys without regard to case and
//! lets the last of several win, while serde matches exactly. A document with `layers` and
//! `Layers` would be one image here and another one there. [`Shape`] refuses such a
//! document before it is read.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// How deep a document may nest. serde_json skips unknown values at any depth, while Go refuses the whole
/// document beyond 10,000 levels: it would be stored here and be unreadable there.
const MAX_NESTING: usize = 128;

/// Reads `null` as the default: Go writes absent maps and lists so.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The keys of an object that decide what it means. At most 64.
#[derive(Debug)]
pub(super) struct Shape(&'static [(&'static str, Holds)]);

/// What lies beneath a key.
#[derive(Debug, Clone, Copy)]
enum Holds {
    /// Anything; not checked.
    Anything,
    /// One object.
    Object(&'static Shape),
    /// A list of objects.
    Objects(&'static Shape),
}

/// The shape of indexes and manifests: one shape, because each must show that it is not the other.
pub(super) const MANIFEST_OR_INDEX: Shape = Shape(&[
    ("schemaVersion", Holds::Anything),
    ("mediaType", Holds::Anything),
    ("artifactType", Holds::Anything),
    ("config", Holds::Object(&DESCRIPTOR)),
    ("layers", Holds::Objects(&DESCRIPTOR)),
    ("manifests", Holds::Objects(&DESCRIPTOR)),
    ("fsLayers", Holds::Anything),
    ("annotations", Holds::Anything),
]);

/// Image configs.
pub(super) const CONFIG: Shape = Shape(&[
    ("architecture", Holds::Anything),
    ("os", Holds::Anything),
    ("variant", Holds::Anything),
    ("os.version", Holds::Anything),
    ("os.features", Holds::Anything),
    ("rootfs", Holds::Object(&ROOTFS)),
]);

const ROOTFS: Shape = Shape(&[("type", Holds::Anything), ("diff_ids", Holds::Anything)]);

const DESCRIPTOR: Shape = Shape(&[
    ("mediaType", Holds::Anything),
    ("digest", Holds::Anything),
    ("size", Holds::Anything),
    ("annotations", Holds::Anything),
    ("platform", Holds::Object(&PLATFORM)),
    ("artifactType", Holds::Anything),
]);

const PLATFORM: Shape = Shape(&[
    ("architecture", Holds::Anything),
    ("os", Holds::Anything),
    ("variant", Holds::Anything),
    ("os.version", Holds::Anything),
    ("os.features", Holds::Anything),
]);

impl Shape {
    /// Checks the keys of a document, down to its descriptors.
    ///
    /// # Errors
    /// When it is no JSON object, or a key of this shape occurs twice or in another case.
    pub(super) fn check(&'static self, bytes: &[u8]) -> Result<Keys, serde_json::Error> {
        if nesting(bytes) > MAX_NESTING {
            return Err(serde_json::Error::custom(format_args!("it nests deeper than {MAX_NESTING} levels")));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let keys = deserializer.deserialize_map(Object(self))?;
        deserializer.end()?;
        Ok(keys)
    }
}

/// Which keys of a [`Shape`] an object has, be their values `null`.
#[derive(Debug)]
pub(super) struct Keys {
    shape: &'static Shape,
    present: u64,
}

impl Keys {
    /// Whether the key was there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.shape.0.iter().position(|(key, _)| *key == name).is_some_and(|at| self.present & (1 << at) != 0)
    }
}

/// Visits one object of a shape.
#[derive(Clone, Copy)]
struct Object(&'static Shape);

impl<'de> Visitor<'de> for Object {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_unit<E: Error>(self) -> Result<Keys, E> {
        Ok(Keys { shape: self.0, present: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut present = 0u64;
        while let Some(field) = map.next_key_seed(Key(self.0))? {
            let Some(at) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let (name, holds) = self.0.0[at];
            if present & (1 << at) != 0 {
                return Err(A::Error::custom(format_args!("the key `{name}` occurs twice")));
            }
            present |= 1 << at;
            map.next_value_seed(holds)?;
        }
        Ok(Keys { shape: self.0, present })
    }
}

/// Finds a key in a shape.
struct Key(&'static Shape);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        match self.0.0.iter().position(|(name, _)| key.chars().map(fold).eq(name.chars().map(fold))) {
            Some(at) if self.0.0[at].0 != key => {
                let name = self.0.0[at].0;
                Err(E::custom(format_args!("the key `{key}` must be spelled `{name}`, as which Go programs read it")))
            }
            found => Ok(found),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Holds {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self {
            Self::Anything => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            Self::Object(shape) => deserializer.deserialize_any(Object(shape)).map(drop),
            Self::Objects(shape) => deserializer.deserialize_any(Objects(shape)),
        }
    }
}

/// Visits a list of objects. (Derived readers take a list for an object, Go does not: hence the two types.)
struct Objects(&'static Shape);

impl<'de> Visitor<'de> for Objects {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of JSON objects")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Holds::Object(self.0))?.is_some() {}
        Ok(())
    }
}

/// How many objects and lists lie within each other, provided that this is JSON.
fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Go's case folding, as far as it can lead to ASCII: the long s and the Kelvin sign count as letters.
fn fold(letter: char) -> char {
    match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_which_keys_are_there() {
        let keys = MANIFEST_OR_INDEX.check(br#"{"manifests":null,"other":[{"Layers":1}]}"#).unwrap();
        assert!(keys.has("manifests"));
        assert!(!keys.has("layers"));
        assert!(!keys.has("other"));
    }

    #[test]
    fn refuses_what_go_reads_otherwise() {
        for (json, why) in [
            (r#"{"layers":[],"layers":[]}"#, "`layers` occurs twice"),
            (r#"{"layers":[],"Layers":[]}"#, "`Layers` must be spelled `layers`"),
            (r#"{"MANIFESTS":[]}"#, "`MANIFESTS` must be spelled `manifests`"),
            ("{\"layer\u{17f}\":[]}", "must be spelled `layers`"),
            (r#"{"\u004Cayers":[]}"#, "`Layers` must be spelled"),
            (r#"{"layers":[{"digest":"a"},{"digest":"a","digest":"b"}]}"#, "`digest` occurs twice"),
            (r#"{"config":{"Size":1}}"#, "`Size` must be spelled `size`"),
            (r#"{"manifests":[{"platform":{"OS":"linux"}}]}"#, "`OS` must be spelled `os`"),
            (r#"{"config":["a/b","sha256:",1]}"#, "expected a JSON object"),
            (r#"{"layers":[[]]}"#, "expected a JSON object"),
            (r#"{"layers":{}}"#, "expected a list of JSON objects"),
            (r#"[{"layers":[]}]"#, "expected a JSON object"),
            (r#"{"layers":[]} {}"#, "trailing characters"),
            ("", "EOF"),
            (&format!(r#"{{"x":{}1{}}}"#, "[".repeat(128), "]".repeat(128)), "nests deeper than 128"),
            (&format!(r#"{{"x":{}"#, r#"{"\"]}":["#.repeat(200_000)), "nests deeper than 128"),
        ] {
            let error = MANIFEST_OR_INDEX.check(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{json}: {error}");
        }
        let error = CONFIG.check(br#"{"rootfs":{"DIFF_IDS":[]}}"#).unwrap_err().to_string();
        assert!(error.contains("must be spelled `diff_ids`"), "{error}");
    }

    #[test]
    fn leaves_other_keys_alone() {
        // Free-form maps may well hold names that differ only in case.
        for json in [
            &format!(r#"{{"x":{}1{},"y":["{}"]}}"#, "[".repeat(127), "]".repeat(127), "[{".repeat(1000)),
            r#"{"annotations":{"a":"1","A":"2"}}"#,
            r#"{"history":[{"Created":1,"created":2}],"config":{"Labels":{"size":"1","Size":"2"}}}"#,
        ] {
            CONFIG.check(json.as_bytes()).unwrap();
        }
    }
}
