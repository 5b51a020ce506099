//! The methods of descriptor sets.

use std::{collections::HashMap, sync::Arc};

use prost_types::method_options::IdempotencyLevel;

use crate::Error;

/// The methods of descriptor sets, by path. A method that is in none counts as
/// unary and not safe to retry. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Methods {
    by_path: Arc<HashMap<Box<str>, Method>>,
}

/// The properties of one method, by its descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Method {
    /// True if a request that may have been processed can be sent again:
    /// `idempotency_level` is `NO_SIDE_EFFECTS` or `IDEMPOTENT`.
    pub idempotent: bool,
    /// True if the method has a server stream.
    pub server_streaming: bool,
    /// True if the response is a single message.
    pub unary_response: bool,
}

impl Methods {
    /// Adds every method of an encoded `google.protobuf.FileDescriptorSet`, as
    /// build scripts write it.
    ///
    /// # Errors
    /// When the bytes are no descriptor set.
    pub fn describe(&mut self, descriptor_set: &[u8]) -> Result<(), Error> {
        let set: prost_types::FileDescriptorSet = prost::Message::decode(descriptor_set).map_err(|e| {
            Error::Config(format!("the descriptor set cannot be read ({e}): pass the bytes of an encoded google.protobuf.FileDescriptorSet"))
        })?;
        let by_path = Arc::make_mut(&mut self.by_path);
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = match file.package() {
                        "" => format!("/{}/{}", service.name(), method.name()),
                        package => format!("/{package}.{}/{}", service.name(), method.name()),
                    };
                    by_path.insert(path.into(), Method::of(method));
                }
            }
        }
        Ok(())
    }

    /// The properties of the method at `path`, such as
    /// `/shop.cart.v1.CartService/GetCart`.
    #[must_use]
    pub fn get(&self, path: &str) -> Method {
        self.by_path.get(path).copied().unwrap_or_default()
    }

    /// Every method with its path.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Method)> {
        self.by_path.iter().map(|(path, method)| (&**path, *method))
    }
}

impl Method {
    fn of(descriptor: &prost_types::MethodDescriptorProto) -> Self {
        let level = descriptor.options.as_ref().map(prost_types::MethodOptions::idempotency_level);
        Self {
            idempotent: matches!(level, Some(IdempotencyLevel::NoSideEffects | IdempotencyLevel::Idempotent)),
            server_streaming: descriptor.server_streaming(),
            unary_response: !descriptor.server_streaming(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{
        FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions, ServiceDescriptorProto,
    };

    use super::*;

    fn method(name: &str, level: Option<IdempotencyLevel>) -> MethodDescriptorProto {
        MethodDescriptorProto {
            name: Some(name.into()),
            options: level.map(|l| MethodOptions { idempotency_level: Some(l.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn only_methods_marked_so_may_be_sent_again() {
        let service = ServiceDescriptorProto {
            name: Some("S".into()),
            method: vec![
                method("Read", Some(IdempotencyLevel::NoSideEffects)),
                method("Set", Some(IdempotencyLevel::Idempotent)),
                method("Unknown", Some(IdempotencyLevel::IdempotencyUnknown)),
                method("Add", None),
            ],
            ..Default::default()
        };
        let file = FileDescriptorProto {
            package: Some("p.v1".into()),
            service: vec![service],
            ..Default::default()
        };
        let mut methods = Methods::default();
        methods.describe(&FileDescriptorSet { file: vec![file] }.encode_to_vec()).unwrap();
        let idempotent = |name: &str| methods.get(&format!("/p.v1.S/{name}")).idempotent;
        assert!(idempotent("Read") && idempotent("Set"));
        assert!(!idempotent("Unknown") && !idempotent("Add") && !idempotent("Absent"));
    }

    #[test]
    fn bytes_that_are_no_descriptor_set_are_refused() {
        assert!(Methods::default().describe(b"\xff\xff not a descriptor").is_err());
    }
}
