//! The cache exports and imports of a request: read, and edited in its bytes.
//!
//! A client says what it imports in up to three places (BuildKit `client/solve.go`): in the `CacheOptions` of `Control.Solve`;
//! as JSON in a frontend's attribute, of `Control.Solve` where the builder runs the frontend and of `LLBBridge.Solve` where
//! the client does; in `LLBBridge.Solve` itself where there is no frontend.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::entry::Entry;
use super::super::wire::{Field, WireError, entry, fields, put_bytes, put_map};
use super::KIND;
use crate::caches::Part;

/// `SolveRequest.Cache` (BuildKit `api/services/control/control.proto`).
const CACHE: u32 = 8;
/// `CacheOptions.ExportRefDeprecated`, `.Exports` and `.Imports`.
const EXPORT_REF_DEPRECATED: u32 = 1;
const EXPORTS: u32 = 4;
const IMPORTS: u32 = 5;
/// `SolveRequest.FrontendAttrs`.
const FRONTEND_ATTRS: u32 = 7;
/// `SolveRequest.FrontendOpt` and `.CacheImports` of the gateway (BuildKit `frontend/gateway/pb/gateway.proto`).
const FRONTEND_OPT: u32 = 3;
const CACHE_IMPORTS: u32 = 12;

/// The frontend's attribute with the imports (BuildKit `frontend/dockerui/config.go`).
const ATTRIBUTE: &str = "cache-imports";

/// What takes the place of each import of ours, the parts of its cache or nothing; and what comes before one of a registry.
pub(super) type Replacements = HashMap<Entry, Vec<Entry>>;

/// What a request has about our caches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in super::super) struct CacheOptions {
    /// The exports, with their attributes.
    pub(super) exports: Vec<Entry>,
    /// The imports, each once.
    pub(super) imports: Vec<Entry>,
    /// Imports from registries.
    pub(super) registries: Vec<Entry>,
    /// Whether layers go to a cache that is not ours.
    pub(in super::super) has_others: bool,
    /// The part of a cache that the frontend's attributes say.
    pub(super) part: Part,
}

impl CacheOptions {
    /// Those of a `SolveRequest` of the control API.
    pub(in super::super) fn of_solve(message: &[u8]) -> Result<Self, WireError> {
        let mut options = Self::default();
        for field in fields(message) {
            let field = field?;
            match field.number {
                CACHE => options.read(field.bytes)?,
                FRONTEND_ATTRS => options.attribute(field.bytes)?,
                _ => {}
            }
        }
        Ok(options)
    }

    /// Those of a `SolveRequest` of the gateway API.
    pub(super) fn of_gateway(message: &[u8]) -> Result<Self, WireError> {
        let mut options = Self::default();
        for field in fields(message) {
            let field = field?;
            match field.number {
                FRONTEND_OPT => options.attribute(field.bytes)?,
                CACHE_IMPORTS => options.import(Entry::read(field.bytes)?),
                _ => {}
            }
        }
        Ok(options)
    }

    /// What is looked up: our imports, and those of registries where the engine's images are read for them.
    pub(super) fn lookups(&self, reads_images: bool) -> Vec<Entry> {
        self.imports.iter().chain(self.registries.iter().filter(|_| reads_images)).cloned().collect()
    }

    /// Whether there is anything of ours.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.exports.is_empty() && self.imports.is_empty()
    }

    fn read(&mut self, options: &[u8]) -> Result<(), WireError> {
        for field in fields(options) {
            let field = field?;
            match field.number {
                EXPORTS => match Entry::read(field.bytes)? {
                    export if export.kind == KIND => self.exports.push(export),
                    // An inline cache has no layers of its own.
                    export => self.has_others |= export.kind != "inline",
                },
                EXPORT_REF_DEPRECATED => self.has_others |= !field.bytes.is_empty(),
                IMPORTS => self.import(Entry::read(field.bytes)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn import(&mut self, entry: Entry) {
        let imports = match entry.kind.as_str() {
            KIND => &mut self.imports,
            "registry" => &mut self.registries,
            _ => return,
        };
        if !imports.contains(&entry) {
            imports.push(entry);
        }
    }

    fn attribute(&mut self, message: &[u8]) -> Result<(), WireError> {
        let (key, value) = entry(message)?;
        match key.as_str() {
            "platform" => self.part.platform = value,
            "target" => self.part.target = value,
            "filename" => self.part.filename = value,
            ATTRIBUTE => of_json(&value).into_iter().for_each(|import| self.import(import)),
            _ => {}
        }
        Ok(())
    }
}

/// The `SolveRequest` of the control API with `exports` in place of ours, and with `imports`. Ours come first: a builder
/// merges what its cache exporters respond, and the last one, which is then the client's own, wins
/// (BuildKit `solver/llbsolver/export.go`).
pub(in super::super) fn edit_solve(
    message: &[u8],
    exports: &[Entry],
    imports: &Replacements,
) -> Result<Bytes, WireError> {
    let mut edited = Vec::with_capacity(message.len() + 1024);
    let mut exports = exports;
    for field in fields(message) {
        let field = field?;
        match field.number {
            CACHE => {
                let mut options = Vec::with_capacity(field.bytes.len() + 512);
                for export in std::mem::take(&mut exports) {
                    export.put(&mut options, EXPORTS, None)?;
                }
                edit_options(&mut options, field.bytes, imports)?;
                put_bytes(&mut edited, CACHE, &options);
            }
            FRONTEND_ATTRS => edit_attribute(&mut edited, &field, imports)?,
            _ => edited.extend_from_slice(field.raw),
        }
    }
    Ok(edited.into())
}

/// The `SolveRequest` of the gateway API with `imports`.
pub(in super::super) fn edit_gateway(message: &[u8], imports: &Replacements) -> Result<Bytes, WireError> {
    let mut edited = Vec::with_capacity(message.len() + 1024);
    for field in fields(message) {
        let field = field?;
        match field.number {
            FRONTEND_OPT => edit_attribute(&mut edited, &field, imports)?,
            CACHE_IMPORTS => edit_import(&mut edited, &field, imports)?,
            _ => edited.extend_from_slice(field.raw),
        }
    }
    Ok(edited.into())
}

/// Appends `CacheOptions` without our exports, and with `imports`.
fn edit_options(edited: &mut Vec<u8>, options: &[u8], imports: &Replacements) -> Result<(), WireError> {
    for field in fields(options) {
        let field = field?;
        match field.number {
            EXPORTS if Entry::read(field.bytes)?.kind == KIND => {}
            IMPORTS => edit_import(edited, &field, imports)?,
            _ => edited.extend_from_slice(field.raw),
        }
    }
    Ok(())
}

/// Appends an import, or what takes its place.
fn edit_import(edited: &mut Vec<u8>, field: &Field<'_>, imports: &Replacements) -> Result<(), WireError> {
    let given = Entry::read(field.bytes)?;
    for import in imports.get(&given).into_iter().flatten() {
        import.put(edited, field.number, None)?;
    }
    if given.kind != KIND {
        edited.extend_from_slice(field.raw);
    }
    Ok(())
}

/// Appends an entry of a map of attributes, with other imports if it is the one that has them.
fn edit_attribute(edited: &mut Vec<u8>, field: &Field<'_>, imports: &Replacements) -> Result<(), WireError> {
    let (key, value) = entry(field.bytes)?;
    match edit_json(&value, imports).filter(|_| key == ATTRIBUTE) {
        Some(value) => put_map(edited, field.number, &BTreeMap::from([(key, value)])),
        None => edited.extend_from_slice(field.raw),
    }
    Ok(())
}

/// The entries of `[{"Type": …, "Attrs": {…}}]`. What is not such a list is left to the frontend, which refuses it.
fn of_json(text: &str) -> Vec<Entry> {
    let list: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
    list.iter().filter_map(json_entry).collect()
}

fn json_entry(value: &Value) -> Option<Entry> {
    let attrs = match &value["Attrs"] {
        Value::Object(attrs) => {
            attrs.iter().map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        }
        _ => Some(BTreeMap::new()),
    };
    Some(Entry { kind: value["Type"].as_str()?.to_owned(), attrs: attrs? })
}

/// The list with other imports in place of ours, and before those of registries; `None` if nothing in it is to be edited.
fn edit_json(text: &str, imports: &Replacements) -> Option<String> {
    let list: Vec<Value> = serde_json::from_str(text).ok()?;
    let is_edited = |entry: &Entry| entry.kind == KIND || imports.contains_key(entry);
    if !list.iter().filter_map(json_entry).any(|entry| is_edited(&entry)) {
        return None;
    }
    let mut edited = Vec::new();
    for value in list {
        let given = json_entry(&value);
        let found = given.as_ref().and_then(|given| imports.get(given)).into_iter().flatten();
        edited.extend(found.map(|entry| json!({"Type": entry.kind, "Attrs": entry.attrs})));
        if given.is_none_or(|given| given.kind != KIND) {
            edited.push(value);
        }
    }
    serde_json::to_string(&edited).ok()
}

#[cfg(test)]
mod tests;
