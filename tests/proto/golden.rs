//! The API as plain text, one element a line, so that a change of it shows in a review for what it is.

use std::fmt::Write as _;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto};

use super::{PACKAGES, compiled, root, same};

#[test]
fn the_api_has_not_changed_by_accident() {
    let mut text = String::new();
    for package in PACKAGES {
        for file in compiled(package).file.iter().filter(|file| file.package() == package) {
            render(file, &mut text);
        }
    }
    same(&root().join("proto/golden.txt"), text.as_bytes());
}

fn render(file: &FileDescriptorProto, text: &mut String) {
    let own = format!(".{}.", file.package());
    writeln!(text, "file {} ({}, {})", file.name(), file.package(), file.syntax()).unwrap();
    for service in &file.service {
        render_service(service, &own, text);
    }
    for message in &file.message_type {
        render_message(message, &own, text);
    }
    for kind in &file.enum_type {
        writeln!(text, "  enum {}", kind.name()).unwrap();
        for value in &kind.value {
            writeln!(text, "    {} = {}", value.name(), value.number()).unwrap();
        }
    }
}

fn render_service(service: &ServiceDescriptorProto, own: &str, text: &mut String) {
    writeln!(text, "  service {}", service.name()).unwrap();
    let stream = |streams: bool| if streams { "stream " } else { "" };
    for method in &service.method {
        let (request_stream, response_stream) = (stream(method.client_streaming()), stream(method.server_streaming()));
        let (input, output) = (short(method.input_type(), own), short(method.output_type(), own));
        writeln!(text, "    {}({request_stream}{input}) -> {response_stream}{output}", method.name()).unwrap();
    }
}

fn render_message(message: &DescriptorProto, own: &str, text: &mut String) {
    writeln!(text, "  message {}", message.name()).unwrap();
    for field in &message.field {
        let oneof = field.oneof_index.map(|at| format!(" in {}", message.oneof_decl[at as usize].name()));
        let (number, name) = (field.number(), field.name());
        writeln!(text, "    {number} {} {name}{}", kind(message, field, own), oneof.unwrap_or_default()).unwrap();
    }
    for reserved in &message.reserved_range {
        writeln!(text, "    reserved {}..{}", reserved.start(), reserved.end()).unwrap();
    }
    for name in &message.reserved_name {
        writeln!(text, "    reserved {name}").unwrap();
    }
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto, own: &str) -> String {
    let nested = |name: &str| message.nested_type.iter().find(|nested| name.ends_with(&format!(".{}", nested.name())));
    if let Some(entry) = nested(field.type_name()) {
        return format!("map<{}, {}>", kind(entry, &entry.field[0], own), kind(entry, &entry.field[1], own));
    }
    let name = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name(), own),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_ascii_lowercase(),
    };
    if field.label() == Label::Repeated { format!("repeated {name}") } else { name }
}

fn short(name: &str, own: &str) -> String {
    name.trim_start_matches(own).trim_start_matches('.').to_owned()
}
