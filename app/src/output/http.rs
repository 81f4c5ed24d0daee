//! HTTP requests to receivers of notices, with TLS by rustls, ring and the system's certificates.
//!
//! Nothing of a request but the server's name appears in messages: paths, headers and bodies may hold secrets.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spotter_engine::files;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Error};

use super::notice::Failure;
use crate::config::notify::{Credentials, Http};

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

/// Largest file of a token or password.
const SECRET_BYTES_MAX: u64 = 4096;

/// Largest header of an answer.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// Posts to one server.
pub(crate) struct Client {
    url: String,
    credentials: Credentials,
    ca_file: Option<PathBuf>,
    timeout: Duration,
    /// Made at the first use, so that a missing certificate is no reason not to start, and again after it failed.
    agent: Option<Agent>,
}

/// A request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) content_type: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// Posts to the server of `http`; each attempt takes at most `timeout`.
    pub(crate) fn new(http: &Http, timeout: Duration) -> Self {
        let Http { url, credentials, ca_file, .. } = http.clone();
        Self { url, credentials, ca_file, timeout, agent: None }
    }

    /// Longest time of one attempt.
    pub(crate) fn step_max(&self) -> Duration {
        self.timeout
    }

    /// Posts a request and waits for the answer.
    ///
    /// # Errors
    /// The server cannot be reached or refuses; a secret or certificate cannot be read.
    pub(crate) fn post(&mut self, request: Request) -> Result<(), Failure> {
        let agent = match &self.agent {
            Some(agent) => agent,
            None => {
                self.agent.insert(agent(&self.url, self.ca_file.as_deref(), self.timeout).map_err(Failure::lasting)?)
            }
        };
        let mut post = agent.post(&self.url).header("Content-Type", &request.content_type);
        for (name, value) in &request.headers {
            post = post.header(*name, value);
        }
        if let Some(value) = authorization(&self.credentials).map_err(Failure::lasting)? {
            post = post.header("Authorization", &value);
        }
        match post.send(&request.body[..]) {
            Ok(answer) => judge(answer.status().as_u16()),
            Err(error) => Err(failure(&error, self.timeout)),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Finds what is wrong with the files of a receiver, without sending anything.
pub(crate) fn problems(http: &Http) -> Vec<String> {
    let certificates = match &http.ca_file {
        Some(_) => certificates(http.ca_file.as_deref()).map(drop),
        None if http.url.starts_with("https:") => certificates(None).map(drop),
        None => Ok(()),
    };
    [certificates, authorization(&http.credentials).map(drop)].into_iter().filter_map(Result::err).collect()
}

fn agent(url: &str, ca_file: Option<&Path>, timeout: Duration) -> Result<Agent, String> {
    let mut tls =
        TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    // Without TLS no certificates are needed, and some boards have none.
    if url.starts_with("https:") {
        tls = tls.root_certs(RootCerts::new_with_certs(&certificates(ca_file)?));
    }
    let config = Agent::config_builder()
        .timeout_global(Some(timeout))
        // Judged here: the body of an answer is of no interest.
        .http_status_as_error(false)
        // A redirected POST becomes a GET, or is sent to somebody else.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_response_header_size(HEADER_BYTES_MAX)
        // Notices are rare: a connection that waits for the next one is usually dead by then.
        .max_idle_connections(0)
        // The program's files say all; the environment of a service is easily overlooked.
        .proxy(None)
        .user_agent(concat!("spotter/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls.build());
    Ok(config.build().into())
}

/// The certificates to trust: those of `ca_file`, else the system's.
fn certificates(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, String> {
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

/// The value of the header `Authorization`.
fn authorization(credentials: &Credentials) -> Result<Option<String>, String> {
    Ok(match credentials {
        Credentials::None => None,
        Credentials::Token(path) => Some(format!("Bearer {}", secret(path)?)),
        Credentials::Password(user, path) => {
            Some(format!("Basic {}", base64::encode(format!("{user}:{}", secret(path)?))))
        }
    })
}

/// The first line of a file, which never appears in a message.
fn secret(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let bytes = files::read(path, SECRET_BYTES_MAX).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: not UTF-8 text"))?;
    let line = text.trim_end_matches(['\n', '\r']);
    if line.is_empty() || line.contains(char::is_control) {
        return Err(format!("{shown}: expected one line with the token or password"));
    }
    Ok(line.to_owned())
}

/// Judges the status of an answer.
fn judge(status: u16) -> Result<(), Failure> {
    let (advice, is_transient) = match status {
        200..=299 => return Ok(()),
        300..=399 => (": it has moved, so name the new address", false),
        401 | 403 => (": it does not accept this token or password", false),
        404 => (": there is nothing at this address", false),
        413 => (": the notice is too large for it", false),
        408 | 425 | 429 | 500..=599 => ("", true),
        _ => ("", false),
    };
    Err(Failure { message: format!("the server answered {status}{advice}"), is_transient })
}

fn failure(error: &Error, timeout: Duration) -> Failure {
    let (message, is_transient) = match error {
        Error::Timeout(_) => (format!("no answer within {} s", timeout.as_secs_f32()), true),
        Error::HostNotFound => ("the name of the server is unknown".to_owned(), true),
        Error::Io(error) if error.get_ref().is_some_and(<dyn StdError + Send + Sync>::is::<rustls::Error>) => {
            (format!("no secure connection: {error}"), false)
        }
        Error::Io(error) => (format!("no connection: {error}"), true),
        Error::Rustls(error) => (format!("no secure connection: {error}"), false),
        Error::Protocol(error) => (format!("the server does not answer in HTTP: {error}"), true),
        Error::BadUri(_) | Error::Http(_) => ("the address, or a header, cannot be sent".to_owned(), false),
        Error::ConnectionFailed => ("no connection".to_owned(), true),
        other => (other.to_string(), true),
    };
    Failure { message, is_transient }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
