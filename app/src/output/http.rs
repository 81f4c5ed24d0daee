//! HTTP requests to receivers of notices.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;

use super::notice::Failure;
use crate::config::notify::{Credentials, Http};
use crate::http::{self, certificates};
use crate::secret;

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
            Err(error) => {
                let (message, is_transient) = http::failure(&error, self.timeout);
                Err(Failure { message, is_transient })
            }
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
    // Without TLS no certificates are needed, and some boards have none.
    let certificates = url.starts_with("https:").then(|| certificates(ca_file)).transpose()?;
    let config = http::settings(certificates)
        .timeout_global(Some(timeout))
        // A redirected POST becomes a GET, or is sent to somebody else.
        .max_redirects(0)
        // Notices are rare: a connection that waits for the next one is usually dead by then.
        .max_idle_connections(0);
    Ok(config.build().into())
}

/// The value of the header `Authorization`.
fn authorization(credentials: &Credentials) -> Result<Option<String>, String> {
    Ok(match credentials {
        Credentials::None => None,
        Credentials::Token(path) => Some(format!("Bearer {}", secret::read(path)?)),
        Credentials::Password(user, path) => {
            Some(format!("Basic {}", base64::encode(format!("{user}:{}", secret::read(path)?))))
        }
    })
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
