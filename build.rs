//! Compiles `proto/` to Rust and to the descriptor set that reflection, the
//! retry policy and JSON transcoding read. Needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "shop/cart/v1/cart_service.proto",
    "shop/events/v1/events.proto",
    "shop/order/v1/order_service.proto",
    "shop/payment/v1/payment_service.proto",
    "shop/product/v1/product_service.proto",
    "shop/user/v1/user_service.proto",
];

#[allow(clippy::disallowed_methods, reason = "cargo tells a build script where to write by OUT_DIR")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // `encode_file_descriptor_set` and not `protox::compile`: the latter drops
    // custom options, and `google.api.http` with them.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let bytes = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &bytes)?;

    tonic_prost_build::configure().compile_fds(prost_types::FileDescriptorSet::decode(&bytes[..])?)?;
    Ok(())
}
