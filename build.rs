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

/// Messages that hold a secret. How they are shown stands in `proto/secret.rs`.
const SECRET: &[&str] = &[
    "shop.order.v1.PayOrderRequest",
    "shop.payment.v1.Charge",
    "shop.payment.v1.ChargeRequest",
    "shop.user.v1.LoginRequest",
    "shop.user.v1.RefreshTokenRequest",
    "shop.user.v1.RegisterRequest",
    "shop.user.v1.Tokens",
    "shop.user.v1.UpdateUserRequest",
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

    let descriptors = prost_types::FileDescriptorSet::decode(&bytes[..])?;
    tonic_prost_build::configure().skip_debug(SECRET).compile_fds(descriptors)?;
    Ok(())
}
