//! TLS for downloads: the certificates of this system, and ring's cryptography, which every C compiler builds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spotter_engine::files;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::HubError;

/// Where systems keep the certificates that they trust: Debian, Fedora, Alpine and macOS, older Fedora.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Size limit of a file of certificates. That of Debian has 220 kB.
const CERTIFICATES_BYTES_MAX: u64 = 16 << 20;

/// TLS with the certificates in `named`, the value of `SSL_CERT_FILE`, else with the system's.
pub(super) fn config(named: Option<PathBuf>) -> Result<TlsConfig, HubError> {
    let system = || SYSTEM_CERTIFICATES.iter().map(PathBuf::from).find(|path| path.exists());
    let path = named.or_else(system).ok_or(HubError::NoCertificates)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates(&path)?))
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, HubError> {
    let bytes = files::read(path, CERTIFICATES_BYTES_MAX).map_err(|source| HubError::file(path, source))?;
    let certificate = |item| if let Ok(PemItem::Certificate(found)) = item { Some(found) } else { None };
    let found: Vec<_> = parse_pem(&bytes).filter_map(certificate).collect();
    if found.is_empty() {
        return Err(HubError::BadCertificates { path: path.to_owned() });
    }
    Ok(found)
}
