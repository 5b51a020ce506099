//! The crypto provider of `jsonwebtoken`: Ed25519 of `ring`, and nothing else.

use std::sync::Once;

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
};
use ring::signature::{ED25519, UnparsedPublicKey};
use signature::{Error as BadSignature, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs the provider, once for the process.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    // No other crate installs one, and the crate's own are not built.
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

struct Ed25519(DecodingKey);

impl JwtVerifier for Ed25519 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

impl Verifier<Vec<u8>> for Ed25519 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), BadSignature> {
        let key = self.0.try_get_as_bytes().map_err(|_| BadSignature::new())?;
        UnparsedPublicKey::new(&ED25519, key).verify(message, signature).map_err(|_| BadSignature::new())
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    match algorithm {
        Algorithm::EdDSA => Ok(Box::new(Ed25519(key.clone()))),
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    }
}

/// Fails, since [`Signer`](super::Signer) signs tokens without `jsonwebtoken`.
fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}
