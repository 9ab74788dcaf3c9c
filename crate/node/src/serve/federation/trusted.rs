//! Whose certificates are believed: those that the system trusts, and those of `--ca-cert`.

use std::{path::Path, sync::Arc};
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};

/// Why no certificate can be believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of `--ca-cert`.
    #[error("{}: {source}; --ca-cert takes a PEM file with certificates of authorities", .file.display())]
    File {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// One that is no certificate.
    #[error("{}: {source}; --ca-cert takes certificates of authorities", .file.display())]
    Certificate {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// There are none.
    #[error("this system trusts no certificate authority; its administrator can install the package ca-certificates, or say --ca-cert")]
    NoAuthorities,
    /// The library.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The certificates in the file of `--ca-cert`.
pub fn extra_authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let unreadable = |source| TrustError::File { file: file.to_owned(), source };
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
    if found.is_empty() {
        return Err(unreadable(pem::Error::NoItemsFound));
    }
    for certificate in &found {
        RootCertStore::empty().add(certificate.clone()).map_err(|source| TrustError::Certificate { file: file.to_owned(), source })?;
    }
    Ok(found)
}

/// TLS towards servers whose certificates are of one of these authorities.
pub fn client_config(extra: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in system.errors {
        tracing::warn!("cannot read a certificate that the system trusts: {error}");
    }
    roots.add_parsable_certificates(system.certs);
    roots.add_parsable_certificates(extra.iter().cloned());
    if roots.is_empty() {
        return Err(TrustError::NoAuthorities);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
