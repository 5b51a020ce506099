//! The methods that descriptor sets say services have.

use prost_types::{FileDescriptorSet, ServiceDescriptorProto};

use crate::Error;

/// One method of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// The path that calls it, `/package.Service/Method`.
    pub(super) path: Box<str>,
    pub(super) kind: Kind,
}

/// How many messages a method's requests and responses have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) client_streaming: bool,
    pub(super) server_streaming: bool,
}

/// The methods of those of `services` that `descriptors` describe.
///
/// # Errors
/// When a descriptor set is not one.
pub(super) fn methods(services: &[&str], descriptors: &[&[u8]]) -> Result<Vec<Method>, Error> {
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

fn of_service(name: &str, service: &ServiceDescriptorProto) -> impl Iterator<Item = Method> {
    service.method.iter().map(move |method| Method {
        path: format!("/{name}/{}", method.name()).into(),
        kind: Kind {
            client_streaming: method.client_streaming(),
            server_streaming: method.server_streaming(),
        },
    })
}
