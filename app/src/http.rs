//! The HTTP client, with TLS by rustls, ring and the system's certificates.
//!
//! Nothing of a request but the server's name appears in messages: paths, headers and bodies may hold secrets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;
use spotter_engine::files;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;
use ureq::{Agent, Error};

/// Where systems keep the certificates that they trust: Debian, Alpine and Arch; Fedora; openSUSE; Alpine without the package
/// of certificates.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Largest file of certificates; a system's has about 250 kB.
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;

/// Largest header of an answer.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// Settings that all requests have in common; `certificates` are needed for TLS only.
pub(crate) fn settings(certificates: Option<Vec<Certificate<'static>>>) -> ConfigBuilder<AgentScope> {
    let mut tls =
        TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    if let Some(certificates) = certificates {
        tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
    }
    Agent::config_builder()
        // Judged by the caller.
        .http_status_as_error(false)
        .max_redirects_will_error(false)
        .max_response_header_size(HEADER_BYTES_MAX)
        // The program's files say all; the environment of a service is easily overlooked.
        .proxy(None)
        .user_agent(concat!("spotter/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls.build())
}

/// The certificates to trust: those of `ca_file`, else the system's.
///
/// # Errors
/// There are none, or they cannot be read.
pub(crate) fn certificates(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, String> {
    let found = match ca_file {
        Some(path) => path,
        None => SYSTEM_CERTIFICATES.iter().map(Path::new).find(|path| path.exists()).ok_or_else(|| {
            "the system has no certificates: install them (`apt install ca-certificates`), or name a `ca_file`"
                .to_owned()
        })?,
    };
    let shown = found.display();
    let bytes = files::read(found, CERTIFICATES_BYTES_MAX).map_err(|error| format!("certificates {shown}: {error}"))?;
    let items: Result<Vec<PemItem<'static>>, Error> = parse_pem(&bytes).collect();
    let items = items.map_err(|error| format!("certificates {shown}: expected PEM: {error}"))?;
    let certificates: Vec<_> = items
        .into_iter()
        .filter_map(|item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None })
        .collect();
    if certificates.is_empty() {
        return Err(format!("certificates {shown}: expected at least one `BEGIN CERTIFICATE`, found none"));
    }
    Ok(certificates)
}

/// Describes a failed request, and whether another one may succeed.
pub(crate) fn failure(error: &Error, timeout: Duration) -> (String, bool) {
    if let Some(error) = tls_error(error) {
        return (format!("no secure connection: {error}"), false);
    }
    match error {
        Error::Timeout(_) => (format!("no answer within {} s", timeout.as_secs_f32()), true),
        Error::HostNotFound => ("the name of the server is unknown".to_owned(), true),
        Error::Io(error) => (format!("no connection: {error}"), true),
        Error::LargeResponseHeader(..) => {
            (format!("the header of the answer is larger than {HEADER_BYTES_MAX} bytes"), false)
        }
        Error::Protocol(error) => (format!("the server does not answer in HTTP: {error}"), true),
        Error::BadUri(_) | Error::Http(_) => ("the address, or a header, cannot be sent".to_owned(), false),
        Error::ConnectionFailed => ("no connection".to_owned(), true),
        other => (other.to_string(), true),
    }
}

/// What is wrong with the server's certificate, if a request failed because of that.
pub(crate) fn certificate_error(error: &Error) -> Option<&CertificateError> {
    match tls_error(error)? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}

fn tls_error(error: &Error) -> Option<&rustls::Error> {
    match error {
        Error::Io(error) => error.get_ref()?.downcast_ref(),
        Error::Rustls(error) => Some(error),
        _ => None,
    }
}
