//! The certificate and key of `--listen-tls`.

use crate::options::Serve;
use std::{path::PathBuf, sync::Arc};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
};

/// Why HTTPS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not there or not PEM.
    #[error("{}: {source}; {option} takes {expected}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The option that named it.
        option: &'static str,
        /// What the file has to hold.
        expected: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The two do not fit together.
    #[error("the certificate and the key cannot be used: {0}; check that --tls-key is the key of the first certificate in --tls-cert")]
    Pair(#[source] rustls::Error),
}

/// What answers TLS handshakes, if the options ask for HTTPS.
pub fn acceptor(options: &Serve) -> Result<Option<TlsAcceptor>, TlsError> {
    let (Some(_), Some(certificate), Some(key)) = (&options.listen_tls, &options.tls_cert, &options.tls_key) else { return Ok(None) };
    let expected = "a PEM file with the server's certificate, then those that issued it";
    let bad_certificate = |source| TlsError::File { file: certificate.clone(), option: "--tls-cert", expected, source };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(bad_certificate)?;
    if chain.is_empty() {
        return Err(bad_certificate(pem::Error::NoItemsFound));
    }
    let expected = "a PEM file with a private key, PKCS#1 or PKCS#8, without a password";
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File { file: key.clone(), option: "--tls-key", expected, source })?;

    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
