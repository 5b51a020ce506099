//! The methods of services, by descriptor sets.

use prost_types::{FileDescriptorSet, ServiceDescriptorProto};

use crate::Error;

/// One method of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MethodDescriptor {
    /// The path, `/package.Service/Method`.
    pub(super) path: Box<str>,
    pub(super) kind: MethodKind,
}

/// The kind of a method: unary or streaming, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MethodKind {
    pub(super) client_streaming: bool,
    pub(super) server_streaming: bool,
}

/// The methods of those of `services` that `descriptors` describe.
///
/// # Errors
/// When a descriptor set cannot be decoded.
pub(super) fn methods(services: &[&str], descriptors: &[&[u8]]) -> Result<Vec<MethodDescriptor>, Error> {
    let mut found = Vec::new();
    for set in descriptors {
        let set: FileDescriptorSet = prost::Message::decode(*set).map_err(|why| {
            Error::Config(format!("a descriptor set given to `descriptors` cannot be read: {why}"))
        })?;
        for file in &set.file {
            for service in &file.service {
                let name = match file.package() {
                    "" => service.name().to_owned(),
                    package => format!("{package}.{}", service.name()),
                };
                if services.contains(&name.as_str()) {
                    found.extend(of_service(&name, service));
                }
            }
        }
    }
    Ok(found)
}

fn of_service(name: &str, service: &ServiceDescriptorProto) -> impl Iterator<Item = MethodDescriptor> {
    service.method.iter().map(move |method| MethodDescriptor {
        path: format!("/{name}/{}", method.name()).into(),
        kind: MethodKind {
            client_streaming: method.client_streaming(),
            server_streaming: method.server_streaming(),
        },
    })
}
