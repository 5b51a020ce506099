//! The protocol files as other languages use them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// The files below `folder`, by their names to an import.
fn files(folder: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn compiled(folder: &str) -> FileDescriptorSet {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    protox::compile(files(folder), [root]).unwrap()
}

#[test]
fn every_file_says_where_its_go_and_java_code_lies() {
    let mut seen = 0;
    for file in compiled("shop").file.iter().filter(|file| file.name().starts_with("shop/")) {
        let package = file.package();
        let name = package.split('.').nth(1).unwrap();
        let options = file.options.as_ref().unwrap();
        let go = format!("example.com/{};{name}v1", package.replace('.', "/"));
        assert_eq!(options.go_package(), go, "{}", file.name());
        assert_eq!(options.java_package(), format!("com.example.{package}"), "{}", file.name());
        assert!(options.java_multiple_files(), "{}", file.name());
        assert!(options.java_outer_classname().ends_with("Proto"), "{}", file.name());
        seen += 1;
    }
    assert_eq!(seen, 6);
}

/// The fields of a message: the wire format and the name of each.
fn fields(message: &DescriptorProto) -> Vec<(i32, String, i32, i32, String)> {
    let field = |field: &prost_types::FieldDescriptorProto| {
        let of = field.type_name().to_owned();
        (field.number(), field.name().to_owned(), field.r#type().into(), field.label().into(), of)
    };
    let mut fields: Vec<_> = message.field.iter().map(field).collect();
    fields.sort();
    fields
}

fn messages<'a>(within: &str, all: &'a [DescriptorProto], found: &mut Vec<(String, &'a DescriptorProto)>) {
    for message in all {
        let name = format!("{within}.{}", message.name());
        messages(&name, &message.nested_type, found);
        found.push((name, message));
    }
}

fn rpc(set: &FileDescriptorSet) -> Vec<(String, &DescriptorProto)> {
    let mut found = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == "google.rpc") {
        messages("google.rpc", &file.message_type, &mut found);
    }
    found
}

#[test]
fn error_details_are_those_that_the_services_send() {
    let (ours, sent) =
        (compiled("google/rpc"), FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap());
    let (ours, sent) = (rpc(&ours), rpc(&sent));
    assert!(sent.iter().any(|(name, _)| name == "google.rpc.ErrorInfo"));
    for (name, message) in sent {
        let known = ours.iter().find(|(known, _)| *known == name).map(|(_, message)| fields(message));
        let known = known.unwrap_or_else(|| panic!("{name} is not in google/rpc"));
        for field in fields(message) {
            assert!(known.contains(&field), "{name} has {field:?}, google/rpc has {known:?}");
        }
    }
}

#[test]
fn codes_are_grpcs() {
    let set = compiled("google/rpc");
    let code = set.file.iter().flat_map(|file| &file.enum_type).find(|code| code.name() == "Code").unwrap();
    let mut numbers: Vec<_> = code.value.iter().map(|value| value.number()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, Vec::from_iter(0..=16));
    let named = |number| code.value.iter().find(|value| value.number() == number).unwrap().name();
    assert_eq!((named(8), named(14), named(16)), ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAUTHENTICATED"));
}
