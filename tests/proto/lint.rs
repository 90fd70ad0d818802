//! The style of the definition, checked on what the compiler makes of it.

use std::collections::HashSet;

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

use super::{PACKAGES, compiled};

#[test]
fn the_definition_keeps_the_style() {
    let files = PACKAGES.iter().flat_map(|package| {
        let folder = package.replace('.', "/");
        compiled(package).file.into_iter().filter(move |file| file.name().starts_with(&folder))
    });
    let own: Vec<_> = files.collect();
    assert_eq!(own.len(), 4);
    let found: Vec<_> = own.iter().flat_map(violations).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_check_can_fail() {
    for (text, what) in [
        ("package linkspan.export.v2;", "package"),
        ("package linkspan.export.v1; message A {}", "comment"),
        ("package linkspan.export.v1; // A.\nenum A {\n// B.\nB = 0; }", "A_UNSPECIFIED"),
        ("package linkspan.export.v1; // A.\nmessage A {\n// B.\nstring fooBar = 1; }", "snake_case"),
        ("package linkspan.export.v1; // A.\nmessage A {\n// B.\nstring b = 2; }", "gap"),
        ("package linkspan.export.v1; // A.\nmessage a {}", "CamelCase"),
        (
            "package linkspan.export.v1; // A.\nservice A {\n// B.\nrpc B(M) returns (M); }\n// M.\nmessage M {}",
            "BRequest",
        ),
    ] {
        let source = format!("syntax = \"proto3\";\n{text}");
        let file = protox::compile_source(&source);
        let found = violations(&file).join("\n");
        assert!(found.contains(what), "{text}: {found}");
    }
}

/// `protox::compile` of one text.
mod protox {
    use prost_types::FileDescriptorProto;

    pub(super) use ::protox::*;

    pub(super) fn compile_source(source: &str) -> FileDescriptorProto {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("linkspan/export/v1/a.proto");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, source).unwrap();
        compile(["linkspan/export/v1/a.proto"], [folder.path()]).unwrap().file.remove(0)
    }
}

fn violations(file: &FileDescriptorProto) -> Vec<String> {
    let mut lint = Lint { file, found: Vec::new() };
    lint.file();
    lint.found
}

struct Lint<'a> {
    file: &'a FileDescriptorProto,
    found: Vec<String>,
}

impl Lint<'_> {
    fn add(&mut self, what: impl Into<String>) {
        self.found.push(format!("{}: {}", self.file.name(), what.into()));
    }

    fn file(&mut self) {
        let package = self.file.package();
        let is_known = PACKAGES.contains(&package);
        if !is_known || !self.file.name().starts_with(&package.replace('.', "/")) {
            self.add(format!("the package is {package}, expected one of {PACKAGES:?} in its folder"));
        }
        for (at, message) in self.file.message_type.iter().enumerate() {
            self.message(&[4, at as i32], message);
        }
        for (at, kind) in self.file.enum_type.iter().enumerate() {
            self.kind(&[5, at as i32], kind);
        }
        for (at, service) in self.file.service.iter().enumerate() {
            self.commented(&[6, at as i32], service.name());
            for (method_at, method) in service.method.iter().enumerate() {
                self.commented(&[6, at as i32, 2, method_at as i32], method.name());
                // Two services of the package have a List.
                for (given, suffix) in [(method.input_type(), "Request"), (method.output_type(), "Response")] {
                    let plain = format!("{}{suffix}", method.name());
                    let full = format!("{}{}{suffix}", method.name(), service.name());
                    let given = given.rsplit('.').next().unwrap_or_default();
                    if given != plain && given != full {
                        self.add(format!("{} takes or gives {given}, expected {plain}", method.name()));
                    }
                }
            }
        }
    }

    fn message(&mut self, path: &[i32], message: &DescriptorProto) {
        self.commented(path, message.name());
        self.camel(message.name());
        let mut numbers = HashSet::new();
        for (at, field) in message.field.iter().enumerate() {
            self.commented(&[path, &[2, at as i32]].concat(), field.name());
            numbers.insert(field.number());
            if field.name().chars().any(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_') {
                self.add(format!("{}.{} is not snake_case", message.name(), field.name()));
            }
        }
        // An `optional` field is the compiler's oneof of one.
        let written = |oneof: &&prost_types::OneofDescriptorProto| !oneof.name().starts_with('_');
        for (at, oneof) in message.oneof_decl.iter().filter(written).enumerate() {
            self.commented(&[path, &[8, at as i32]].concat(), oneof.name());
        }
        // A number that was used once stays used: whoever removes a field reserves it.
        let reserved = |number: i32| message.reserved_range.iter().any(|it| (it.start()..it.end()).contains(&number));
        for number in 1..=numbers.iter().max().copied().unwrap_or(0) {
            if !numbers.contains(&number) && !reserved(number) {
                self.add(format!("{} has a gap at {number} that is not reserved", message.name()));
            }
        }
    }

    fn kind(&mut self, path: &[i32], kind: &EnumDescriptorProto) {
        self.commented(path, kind.name());
        self.camel(kind.name());
        let prefix = kind.name().chars().fold(String::new(), |mut text, c| {
            if c.is_ascii_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.push(c.to_ascii_uppercase());
            text
        });
        for (at, value) in kind.value.iter().enumerate() {
            self.commented(&[path, &[2, at as i32]].concat(), value.name());
            let expected = if value.number() == 0 { format!("{prefix}_UNSPECIFIED") } else { format!("{prefix}_") };
            if !value.name().starts_with(&expected) {
                self.add(format!("{} does not begin with {expected}", value.name()));
            }
        }
    }

    fn camel(&mut self, name: &str) {
        if !name.starts_with(|c: char| c.is_ascii_uppercase()) || name.contains('_') {
            self.add(format!("{name} is not CamelCase"));
        }
    }

    fn commented(&mut self, path: &[i32], name: &str) {
        let locations = self.file.source_code_info.iter().flat_map(|info| &info.location);
        let comment = locations.filter(|it| it.path == path).find_map(|it| it.leading_comments.as_deref());
        if !comment.is_some_and(|text| text.trim_end().ends_with(['.', ':'])) {
            self.add(format!("{name} has no comment that ends with a full stop"));
        }
    }
}
