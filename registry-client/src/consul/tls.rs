//! TLS for connections to an agent.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio_rustls::TlsConnector;

use super::{
    Error,
    endpoint::{Endpoint, EndpointAddress},
};

/// The TLS settings; files are read by [`Tls::connector`].
#[derive(Clone, Debug, Default)]
pub(super) struct Tls {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_dir: Option<PathBuf>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) server_name: Option<String>,
    pub(super) skip_verify: bool,
}

/// The TLS connector, and the server name.
#[derive(Clone)]
pub(super) struct Secure {
    pub(super) connector: TlsConnector,
    pub(super) name: ServerName<'static>,
}

impl Tls {
    /// `None` for an endpoint without TLS.
    pub(super) fn connector(&self, endpoint: &Endpoint) -> Result<Option<Secure>, Error> {
        let EndpointAddress::Tcp { host, tls: true, .. } = &endpoint.address else { return Ok(None) };
        let host = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::Config(format!("`{host}` cannot be the name of a certificate: set CONSUL_TLS_SERVER_NAME"))
        })?;
        let provider = Arc::new(ring::default_provider());
        let wrong = |e: rustls::Error| Error::Config(format!("failed to set up TLS for Consul: {e}"));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = if self.skip_verify {
            tracing::warn!(
                "CONSUL_HTTP_SSL_VERIFY=false: the certificate of the Consul agent is not verified"
            );
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let config = match &self.identity {
            Some((cert, key)) => {
                builder.with_client_auth_cert(certs(cert)?, read_key(key)?).map_err(wrong)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Some(Secure { connector: TlsConnector::from(Arc::new(config)), name }))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut files: Vec<PathBuf> = self.ca_file.iter().cloned().collect();
        if let Some(dir) = &self.ca_dir {
            let entries = std::fs::read_dir(dir).map_err(|e| unreadable(dir, &e))?;
            files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()));
        }
        let mut roots = RootCertStore::empty();
        if self.ca_file.is_none() && self.ca_dir.is_none() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        for file in files {
            for cert in certs(&file)? {
                roots.add(cert).map_err(|e| unreadable(&file, &e))?;
            }
        }
        if roots.is_empty() {
            return Err(Error::Config(
                "no authority is known that could vouch for Consul's certificate: set CONSUL_CACERT to the \
                 PEM file of the one that signed it"
                    .to_owned(),
            ));
        }
        Ok(roots)
    }
}

fn certs(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certs) if certs.is_empty() => Err(unreadable(file, &"it holds no certificate")),
        Ok(certs) => Ok(certs),
        Err(e) => Err(unreadable(file, &e)),
    }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(file).map_err(|e| unreadable(file, &e))
}

fn unreadable(file: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Config(format!(
        "cannot use {} for TLS towards Consul ({why}): it must be a readable PEM file (CONSUL_CACERT, \
         CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY)",
        file.display()
    ))
}

/// A verifier that accepts any certificate, for `CONSUL_HTTP_SSL_VERIFY=false`;
/// the signatures of the handshake are still verified.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
