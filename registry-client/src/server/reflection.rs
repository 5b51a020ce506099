//! `grpc.reflection`, v1 and v1alpha, by which grpcurl lists, describes and
//! calls services without a proto file.

use tonic::service::RoutesBuilder;
use tonic_reflection::server::Builder;

use super::health;
use crate::Error;

/// The descriptor sets of the built-in services and of error details: without
/// the latter grpcurl shows bytes.
pub(super) fn own() -> [&'static [u8]; 4] {
    [
        &health::DESCRIPTORS,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        tonic_types::pb::FILE_DESCRIPTOR_SET,
    ]
}

/// Adds both versions of the service to `routes`. `served` are the full names
/// of all services; only those are listed, even if the descriptors have more.
pub(super) fn add(
    routes: &mut RoutesBuilder,
    served: &[&'static str],
    descriptors: &[&'static [u8]],
) -> Result<(), Error> {
    let bad = |why| {
        Error::Config(format!("a descriptor set given to `descriptors` cannot be used for reflection: {why}"))
    };
    routes.add_service(builder(served, descriptors).build_v1().map_err(bad)?);
    routes.add_service(builder(served, descriptors).build_v1alpha().map_err(bad)?);
    Ok(())
}

fn builder(served: &[&'static str], descriptors: &[&'static [u8]]) -> Builder<'static> {
    // Each version describes both, so its own option for itself is off.
    let mut builder = Builder::configure().include_reflection_service(false);
    for set in descriptors.iter().copied().chain(own()) {
        builder = builder.register_encoded_file_descriptor_set(set);
    }
    for name in served {
        builder = builder.with_service_name(*name);
    }
    builder
}
