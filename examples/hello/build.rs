//! Compiles the proto file, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

#[allow(clippy::disallowed_methods, reason = "cargo configures build scripts by the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(["hello.proto"])?;
    let bytes = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &bytes)?;
    tonic_prost_build::configure().compile_fds(prost_types::FileDescriptorSet::decode(&bytes[..])?)?;
    Ok(())
}
