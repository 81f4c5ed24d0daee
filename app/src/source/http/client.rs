//! Requests to a camera: redirects, user and password.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use rustls::CertificateError;
use ureq::http::header::WWW_AUTHENTICATE;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, ResponseExt as _};

use super::digest::Challenge;
use crate::http;
use crate::secret::Credentials;
use crate::source::SourceError;
use crate::source::address::Address;
use crate::source::ffmpeg::{HOST, LOGIN, NETWORK_FIRST_FRAME, PATH};

/// Time for a connection. A camera on the same network answers within milliseconds.
const CONNECT: Duration = Duration::from_secs(10);

/// Redirects that are followed: from http to https, and to another path.
const REDIRECTS: u32 = 5;

/// Advice about a certificate that nobody vouches for.
const UNKNOWN: &str = "; the camera's own certificate is trusted if `ca_file` in the section [capture] of the configuration \
                       names its file";
const OTHER_NAME: &str =
    "; the address must name the host as the certificate does, or the camera needs one for this address";
const EXPIRED: &str = "; compare the clocks of this board and the camera, or give the camera a new certificate";
/// Also an authority's certificate, which `openssl req -x509` makes unless told otherwise.
const AUTHORITY: &str = "; a certificate of a camera must not be an authority's (CA:TRUE): `openssl req -x509` makes a good one with \
                         `-addext basicConstraints=critical,CA:FALSE`";

/// Gets what one address names.
pub(super) struct Client {
    agent: Agent,
    /// How messages call it.
    name: String,
    /// The address that was asked for, without user and password.
    asked: String,
    /// The address after redirects.
    url: String,
    credentials: Option<Credentials>,
    /// What the server asked for, and how often it was answered.
    challenge: Option<(Challenge, u32)>,
}

impl Client {
    pub(super) fn new(
        address: &Address,
        credentials: Option<&Credentials>,
        ca_file: Option<&Path>,
    ) -> Result<Self, SourceError> {
        let certificates = match (address.scheme(), http::certificates(ca_file)) {
            (_, Ok(certificates)) => Some(certificates),
            ("https", Err(why)) => return Err(SourceError::Network { name: address.to_string(), why }),
            _ => None,
        };
        let config = http::settings(certificates)
            .max_redirects(REDIRECTS)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_recv_response(Some(NETWORK_FIRST_FRAME))
            // Frees the thread that reads; the time limits of frames are those of the source.
            .timeout_per_read(Some(NETWORK_FIRST_FRAME))
            .max_idle_connections(1);
        let url = address.without_login();
        let (agent, credentials) = (config.build().into(), credentials.cloned());
        Ok(Self { agent, name: address.to_string(), asked: url.clone(), url, credentials, challenge: None })
    }

    /// Asks for what the address names. User and password are given only when the server asks for them, and never to another one.
    ///
    /// # Errors
    /// The camera cannot be reached, or refuses.
    pub(super) fn get(&mut self) -> Result<Response<Body>, SourceError> {
        let answer = self.call()?;
        let answer = if answer.status().as_u16() == 401 && self.is_challenged(&answer) { self.call()? } else { answer };
        let (status, code) = (answer.status(), answer.status().as_u16());
        let advice = match code {
            200..=299 => return Ok(answer),
            300..=399 => "; it has moved: name the new address",
            401 | 403 => LOGIN,
            404 | 410 => PATH,
            _ => "",
        };
        let reason = status.canonical_reason().unwrap_or_default();
        Err(self.error(format!("the camera answered {code} {reason}{advice}")))
    }

    /// The error that something about this camera is wrong.
    pub(super) fn error(&self, why: String) -> SourceError {
        SourceError::Network { name: self.name.clone(), why }
    }

    fn call(&mut self) -> Result<Response<Body>, SourceError> {
        let mut request = self.agent.get(&self.url);
        if let (Some(credentials), Some((challenge, count))) = (&self.credentials, &mut self.challenge) {
            *count += 1;
            let path = self.url.parse::<Uri>().ok().and_then(|uri| Some(uri.path_and_query()?.to_string()));
            let value = challenge.answer(credentials, path.as_deref().unwrap_or("/"), *count, &random());
            request = request.header("Authorization", value);
        }
        request.call().map_err(|error| {
            let (why, is_transient) = http::failure(&error, NETWORK_FIRST_FRAME);
            let advice = match http::certificate_error(&error) {
                Some(certificate) => advice(certificate),
                None if is_transient => HOST,
                None => "",
            };
            self.error(format!("{why}{advice}"))
        })
    }

    /// Remembers the challenge of an answer; `false` if it cannot be answered, or is another server's.
    fn is_challenged(&mut self, answer: &Response<Body>) -> bool {
        let (Ok(asked), now) = (self.asked.parse::<Uri>(), answer.get_uri()) else { return false };
        if self.credentials.is_none() || !is_same_server(&asked, now) {
            return false;
        }
        let headers = answer.headers().get_all(WWW_AUTHENTICATE);
        self.challenge =
            Challenge::strongest(headers.iter().filter_map(|header| header.to_str().ok())).map(|found| (found, 0));
        self.url = now.to_string();
        self.challenge.is_some()
    }
}

/// What to do about a certificate.
fn advice(error: &CertificateError) -> &'static str {
    match error {
        // A bad signature: the trusted certificate has the same name and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => UNKNOWN,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => OTHER_NAME,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => EXPIRED,
        // An error of webpki, which has no name in rustls.
        CertificateError::Other(error) if error.to_string().contains("CaUsedAsEndEntity") => AUTHORITY,
        _ => "",
    }
}

/// Returns whether a redirect stays with the server that was asked, or goes on to its encrypted form.
fn is_same_server(asked: &Uri, now: &Uri) -> bool {
    let is_tls = |uri: &Uri| uri.scheme_str() == Some("https");
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if is_tls(uri) { 443 } else { 80 });
    let is_same = is_tls(asked) == is_tls(now) && port(asked) == port(now);
    asked.host() == now.host() && (is_same || is_tls(now) && !is_tls(asked))
}

/// A number that the server cannot know.
fn random() -> String {
    let mut bytes = [0; 16];
    // Without it the answer only protects less against a server that collects answers.
    let _ = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_with_the_server_that_was_asked() {
        for (asked, now, expected) in [
            ("http://cam/a", "http://cam/b?c", true),
            ("http://cam/a", "http://cam:80/b", true),
            ("http://cam/a", "https://cam/a", true),
            ("http://cam:8080/a", "https://cam:8443/a", true),
            ("https://cam/a", "https://cam:443/", true),
            ("https://cam/a", "http://cam/a", false),
            ("https://cam/a", "https://cam:444/a", false),
            ("http://cam/a", "http://cam:8080/a", false),
            ("http://cam/a", "http://camera/a", false),
        ] {
            let found = is_same_server(&asked.parse().unwrap(), &now.parse().unwrap());
            assert_eq!(found, expected, "{asked}, then {now}");
        }
    }
}
