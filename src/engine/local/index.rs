//! `index.json`: parsed as strictly as any document, and changed without touching entries and fields that are not ours.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::image::{Algorithm, Descriptor, Digest, IMAGE_NAME, Kind, REF_NAME, Reference, index_of, layout};

const MANIFESTS: &str = "manifests";
/// Our annotation of an entry that is no image and refers to nothing.
const LEAF: &str = "dev.linkspan.leaf";

/// The index of a layout.
#[derive(Debug)]
pub(crate) struct LayoutIndex {
    /// Every key with its value, as they were read and in their order.
    fields: Fields,
    pub(super) entries: Vec<Entry>,
    /// Entries that we cannot read, each with its index among the others: they are kept as they are.
    foreign: Vec<(usize, Box<RawValue>)>,
}

/// One image of the index.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) target: Descriptor,
    /// The entry as it was read: fields that we do not know are kept.
    raw: Box<RawValue>,
}

impl Entry {
    /// The image's name, as it is written: a full name from containerd, BuildKit and Docker, which put the tag beside
    /// it; a full name or just a tag from others (`oci:DIR:NAME` of skopeo). A build cache has none.
    pub(crate) fn name(&self) -> Option<&str> {
        if self.is_cache() {
            return None;
        }
        let annotations = &self.target.annotations;
        let name = annotations.get(IMAGE_NAME).or_else(|| annotations.get(REF_NAME))?;
        Some(name.as_str()).filter(|name| !name.is_empty())
    }

    /// Whether `name` is this image's name.
    pub(crate) fn is(&self, name: &Reference) -> bool {
        self.name().and_then(|own| own.parse::<Reference>().ok()).as_ref() == Some(name)
    }

    /// Whether an image that gets `name` replaces this one. An image that has only a tag is of an unknown repository,
    /// and stays.
    fn gives_way_to(&self, name: &Reference) -> bool {
        let is_whole = |own: &str| own.contains(['/', ':', '@']);
        self.is(name) && self.name().is_some_and(is_whole)
    }
}

impl LayoutIndex {
    /// Parses the bytes of an `index.json`.
    ///
    /// # Errors
    /// A text, if it is not an index or can be read in two ways.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let fields: Fields = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let list = fields.0.iter().find(|(key, _)| key == MANIFESTS).map_or("[]", |(_, value)| value.get());
        let raws: Option<Vec<Box<RawValue>>> = serde_json::from_str(list).map_err(|error| error.to_string())?;
        let (mut known, mut foreign) = (Vec::new(), Vec::new());
        for raw in raws.unwrap_or_default() {
            if is_foreign(&raw) { foreign.push((known.len(), raw)) } else { known.push(raw) }
        }
        let mut this = Self { fields, entries: Vec::new(), foreign };
        // Every reader must read the entries as we do.
        let own = if this.foreign.is_empty() { None } else { Some(this.without_foreign(&known)) };
        let own = own.transpose().map_err(|error| error.to_string())?;
        let index = index_of(own.as_deref().unwrap_or(bytes)).map_err(|error| error.to_string())?;
        this.entries = index.manifests.into_iter().zip(known).map(|(target, raw)| Entry { target, raw }).collect();
        Ok(this)
    }

    /// The bytes of the file with only the `known` entries.
    fn without_foreign(&self, known: &[Box<RawValue>]) -> Result<Vec<u8>, serde_json::Error> {
        self.write(&known.iter().map(|raw| &**raw).collect::<Vec<_>>())
    }

    /// Why the index may reach more blobs: entries that we cannot read.
    pub(crate) fn doubts(&self) -> impl Iterator<Item = String> {
        let shown = |(_, raw): &(usize, Box<RawValue>)| raw.get().chars().take(200).collect::<String>();
        let doubt = move |foreign| {
            let entry = shown(foreign);
            format!("what this entry of index.json refers to is not known: {entry}; hint: take it out")
        };
        self.foreign.iter().map(doubt)
    }

    /// The entries, in order.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The root that `name` resolves to.
    pub(crate) fn resolve(&self, name: &Reference) -> Option<&Descriptor> {
        let exact = self.entries.iter().rev().find(|entry| entry.is(name) && name.admits(&entry.target.digest));
        let same_repository = |entry: &&Entry| {
            let own = entry.name().and_then(|own| own.parse::<Reference>().ok());
            Some(&entry.target.digest) == name.digest() && own.is_some_and(|own| own.name() == name.name())
        };
        exact.or_else(|| self.entries.iter().find(same_repository)).map(|entry| &entry.target)
    }

    /// The first entry with this root.
    pub(crate) fn root(&self, digest: &Digest) -> Option<&Descriptor> {
        self.entries.iter().map(|entry| &entry.target).find(|target| target.digest == *digest)
    }

    /// Whether every name resolves to `root` and to no other root; with no names, whether it is listed.
    pub(crate) fn resolves_to(&self, root: &Descriptor, names: &[Reference]) -> bool {
        if names.is_empty() {
            return self.entries.iter().any(|entry| !entry.is_cache() && entry.target.digest == root.digest);
        }
        names.iter().all(|name| {
            let mut called = self.entries.iter().filter(|entry| entry.is(name)).peekable();
            called.peek().is_some() && called.all(|entry| entry.target.digest == root.digest)
        })
    }

    /// Gives `names` to `root`; with none it is listed without a name, unless it is already listed. Returns the roots
    /// that lost a name.
    pub(crate) fn insert(
        &mut self,
        root: &Descriptor,
        names: &[Reference],
    ) -> Result<Vec<Descriptor>, serde_json::Error> {
        if self.resolves_to(root, names) {
            return Ok(Vec::new());
        }
        let mut bare = root.clone();
        bare.annotations.remove(IMAGE_NAME);
        bare.annotations.remove(REF_NAME);
        if !matches!(bare.kind(), Kind::Index | Kind::Manifest) {
            bare.annotations.insert(LEAF.to_owned(), "true".to_owned());
        }
        let (gone, mut kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| names.iter().any(|name| entry.gives_way_to(name)));
        for target in layout::entries(&bare, names) {
            kept.push(entry(target)?);
        }
        self.entries = kept;
        Ok(gone.into_iter().map(|entry| entry.target).filter(|target| target.digest != root.digest).collect())
    }

    /// Removes `name`, as it is written, from `root`, or the entry without a name. Returns the roots that lost it.
    pub(crate) fn remove(&mut self, name: Option<&str>, root: &Digest) -> Vec<Descriptor> {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| !entry.is_cache() && entry.name() == name && entry.target.digest == *root);
        self.entries = kept;
        gone.into_iter().map(|entry| entry.target).collect()
    }

    /// The bytes of the file.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut raws: Vec<&RawValue> = self.entries.iter().map(|entry| &*entry.raw).collect();
        // From the end, so that the indices of earlier entries stay valid.
        for (place, raw) in self.foreign.iter().rev() {
            raws.insert((*place).min(raws.len()), raw);
        }
        self.write(&raws)
    }

    fn write(&self, raws: &[&RawValue]) -> Result<Vec<u8>, serde_json::Error> {
        let list = to_raw_value(&raws)?;
        let mut fields: Vec<_> = self.fields.0.iter().map(|(key, value)| (key.as_str(), &**value)).collect();
        match fields.iter_mut().find(|(key, _)| *key == MANIFESTS) {
            Some((_, value)) => *value = &list,
            None => fields.push((MANIFESTS, &list)),
        }
        struct Ordered<'a>(Vec<(&'a str, &'a RawValue)>);
        impl Serialize for Ordered<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (key, value) in &self.0 {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
        serde_json::to_vec(&Ordered(fields))
    }
}

/// Whether an entry is one that others may understand and we cannot: its digest's algorithm is unknown to us
/// (image-spec `descriptor.md`, "Digests"). An invalid digest is an error.
fn is_foreign(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Named {
        digest: String,
    }
    let Ok(Named { digest }) = serde_json::from_str(raw.get()) else { return false };
    let Some((algorithm, encoded)) = digest.split_once(':') else { return false };
    let is_word = |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_algorithm = algorithm.split(['+', '.', '_', '-']).all(|word| !word.is_empty() && is_word(word));
    let is_encoded = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-');
    is_algorithm
        && !encoded.is_empty()
        && encoded.bytes().all(is_encoded)
        && [Algorithm::Sha256, Algorithm::Sha512].iter().all(|known| known.name() != algorithm)
}

/// Whether this root is no image and refers to nothing: it was exported as one blob.
pub(super) fn is_leaf(root: &Descriptor) -> bool {
    root.annotations.contains_key(LEAF)
}

pub(super) fn entry(target: Descriptor) -> Result<Entry, serde_json::Error> {
    Ok(Entry { raw: to_raw_value(&target)?, target })
}

/// The keys of an object in their order.
#[derive(Debug)]
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target(content: &str) -> Descriptor {
        Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(content.as_bytes()), 7)
    }

    fn listed(content: &str, annotations: Value) -> Value {
        let mut value = serde_json::to_value(target(content)).unwrap();
        value["annotations"] = annotations;
        value
    }

    fn index(entries: &[Value]) -> LayoutIndex {
        LayoutIndex::parse(json!({"schemaVersion": 2, "manifests": entries}).to_string().as_bytes()).unwrap()
    }

    fn names(names: &[&str]) -> Vec<Reference> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_not_ours_is_kept_to_the_letter() {
        let foreign = format!(r#"{{ "size":7,"digest":"{}","x":1.50 ,"mediaType":"a/b"}}"#, Digest::sha256(b"foreign"));
        let text = format!(r#"{{"z":[1, 2],"manifests":[{foreign}],"schemaVersion":2,"unknown":"\u0041"}}"#);
        let mut index = LayoutIndex::parse(text.as_bytes()).unwrap();
        assert_eq!(index.to_bytes().unwrap(), text.as_bytes());
        index.insert(&target("new"), &names(&["new:1"])).unwrap();
        let written = String::from_utf8(index.to_bytes().unwrap()).unwrap();
        assert!(written.starts_with(&format!(r#"{{"z":[1, 2],"manifests":[{foreign},"#)), "{written}");
        assert!(written.ends_with(r#","schemaVersion":2,"unknown":"\u0041"}"#), "{written}");
    }

    #[test]
    fn entries_by_other_digests_are_kept_and_not_read() {
        let foreign = r#"{"mediaType":"a/b","digest":"blake3:0a1B_=","size":1,"x":1.50}"#;
        let own = |content: &str| serde_json::to_string(&target(content)).unwrap();
        let list = |entries: &[&str]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let text = list(&[&own("first"), foreign, &own("second")]);
        let mut index = LayoutIndex::parse(text.as_bytes()).unwrap();
        assert_eq!((index.entries().len(), index.doubts().count()), (2, 1));
        assert_eq!(index.to_bytes().unwrap(), text.as_bytes());
        index.insert(&target("new"), &[]).unwrap();
        let written = list(&[&own("first"), foreign, &own("second"), &own("new")]);
        assert_eq!(String::from_utf8(index.to_bytes().unwrap()).unwrap(), written);
        for digest in ["blake3:", "blake3", "sha256:x", "Blake:00", "a..b:00", "a:../x", ""] {
            let text = list(&[&foreign.replace("blake3:0a1B_=", digest)]);
            LayoutIndex::parse(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn names_go_where_others_look_for_them() {
        let mut index = index(&[]);
        index.insert(&target("one"), &names(&["demo:1", "example.com/demo:2"])).unwrap();
        let written: Value = serde_json::from_slice(&index.to_bytes().unwrap()).unwrap();
        let annotations = |at: usize| written["manifests"][at]["annotations"].clone();
        assert_eq!(annotations(0), json!({IMAGE_NAME: "docker.io/library/demo:1", REF_NAME: "1"}));
        assert_eq!(annotations(1), json!({IMAGE_NAME: "example.com/demo:2", REF_NAME: "2"}));
    }

    #[test]
    fn a_name_that_moves_leaves_its_old_image() {
        let mut index = index(&[
            listed("old", json!({IMAGE_NAME: "docker.io/library/demo:1", REF_NAME: "1"})),
            listed("old", json!({REF_NAME: "docker.io/library/other:1"})),
            listed("skopeo", json!({REF_NAME: "demo:1"})),
            listed("tag", json!({REF_NAME: "demo"})),
        ]);
        let gone = index.insert(&target("new"), &names(&["demo:1"])).unwrap();
        assert_eq!(
            gone.iter().map(|target| &target.digest).collect::<Vec<_>>(),
            [&target("old").digest, &target("skopeo").digest]
        );
        assert_eq!(index.resolve(&names(&["demo:1"])[0]).unwrap().digest, target("new").digest);
        assert_eq!(index.resolve(&names(&["other:1"])[0]).unwrap().digest, target("old").digest);
        assert_eq!(index.resolve(&names(&["demo"])[0]).unwrap().digest, target("tag").digest);
        assert_eq!(index.entries().len(), 3);
    }

    #[test]
    fn nothing_changes_that_is_so_already() {
        let mut index = index(&[]);
        assert!(!index.resolves_to(&target("one"), &[]));
        index.insert(&target("one"), &[]).unwrap();
        assert!(index.resolves_to(&target("one"), &[]) && !index.resolves_to(&target("one"), &names(&["a"])));
        index.insert(&target("one"), &names(&["a", "b"])).unwrap();
        let before = index.to_bytes().unwrap();
        index.insert(&target("one"), &[]).unwrap();
        index.insert(&target("one"), &names(&["b", "a"])).unwrap();
        assert_eq!(index.to_bytes().unwrap(), before);
    }

    #[test]
    fn annotations_of_another_layout_do_not_come_along() {
        let mut root = target("one");
        root.annotations = [(IMAGE_NAME, "x/y:1"), (REF_NAME, "1"), ("kept", "yes")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let mut index = index(&[]);
        index.insert(&root, &[]).unwrap();
        assert_eq!(index.entries()[0].name(), None);
        assert_eq!(index.entries()[0].target.annotations["kept"], "yes");
    }

    #[test]
    fn a_name_with_a_digest_finds_any_tag_of_its_repository() {
        let index = index(&[listed("one", json!({IMAGE_NAME: "docker.io/library/demo:1"}))]);
        let digest = target("one").digest;
        assert!(index.resolve(&names(&[&format!("demo@{digest}")])[0]).is_some());
        assert!(index.resolve(&names(&[&format!("other@{digest}")])[0]).is_none());
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in [
            "",
            "[]",
            "null",
            "{\"manifests\":[{}]}",
            "{\"manifests\":[],\"Manifests\":[]}",
            "{\"manifests\":[]",
            "{\"manifests\":[],\"layers\":[]}",
        ] {
            LayoutIndex::parse(text.as_bytes()).unwrap_err();
        }
        for text in [r#"{"schemaVersion":2,"manifests":null}"#, r#"{"manifests":[]}"#] {
            assert_eq!(LayoutIndex::parse(text.as_bytes()).unwrap().entries().len(), 0, "{text}");
        }
    }
}
