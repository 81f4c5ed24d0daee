//! The hub's two answers: what a model consists of, and the bytes of a file.

use std::time::Duration;

use serde::Deserialize;
use spotter_engine::printable::printable;
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::HubError;
use super::cache::is_hash;
use super::name::Name;
use super::settings::{Settings, Token};
use super::tls;

/// Times without an answer after which the hub counts as unreachable.
const CONNECT: Duration = Duration::from_secs(15);
const RESPONSE: Duration = Duration::from_secs(60);

/// Time without a byte after which a connection counts as broken.
const READ: Duration = Duration::from_secs(30);

/// Redirects from the hub to the place where a file is: one or two.
const REDIRECTS_MAX: usize = 8;

/// Largest description of a model, in bytes. That of a model with 10,000 files has 3 MB.
const INFO_BYTES_MAX: u64 = 32 << 20;

/// Waits before a request is made again.
const WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8)];

/// Longest wait that the hub may ask for; after longer ones it is tried again sooner.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path in the model's folder, by parts that are separated by slashes.
    pub(super) path: String,
    /// Size in bytes.
    pub(super) bytes: u64,
    /// Name of the blob: SHA-256 of a large file (64 digits), or git's hash of a small one (40).
    pub(super) hash: String,
}

/// What a revision of a model consists of.
#[derive(Debug)]
pub(super) struct Info {
    /// The commit, 40 hexadecimal digits.
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A connection to the hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

#[derive(Deserialize)]
struct ModelAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, HubError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, so that the token stays with the hub.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("spotter-model-prep/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(RESPONSE))
            .timeout_per_read(Some(READ));
        match tls::config(settings.certificates.clone()) {
            Ok(tls) => config = config.tls_config(tls),
            // A hub in the own network may do without.
            Err(_) if settings.endpoint.starts_with("http:") => {}
            Err(error) => return Err(error),
        }
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        Ok(Self { agent: config.build().into(), endpoint, token })
    }

    /// Host of the hub, for messages.
    pub(super) fn host(&self) -> String {
        host_of(&self.endpoint)
    }

    /// Asks what a model consists of.
    pub(super) fn info(&self, name: &Name) -> Result<Info, HubError> {
        let Name { repo, revision } = name;
        let revision = revision.replace('/', "%2F");
        let url = format!("{}/api/models/{repo}/revision/{revision}?blobs=true", self.endpoint);
        let mut answer = self.request(name, &url, None)?;
        let wrong = |found: String| HubError::Answer {
            host: self.host(),
            expected: format!("the files of {name} as JSON"),
            found,
        };
        let bytes = answer.body_mut().with_config().limit(INFO_BYTES_MAX).read_to_vec();
        let bytes = bytes.map_err(|error| self.unreachable(&self.endpoint, &error))?;
        let answer: ModelAnswer = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if !is_hash(&answer.sha) || answer.sha.len() != 40 {
            return Err(wrong(format!("the commit `{}`", printable(&answer.sha))));
        }
        let files = answer.siblings.into_iter().map(|sibling| {
            let path = sibling.rfilename;
            let (bytes, hash) = match sibling.lfs {
                Some(lfs) => (Some(lfs.size), Some(lfs.sha256)),
                None => (sibling.size, sibling.blob_id),
            };
            match (bytes, hash) {
                (Some(bytes), Some(hash)) if is_hash(&hash) && is_plain(&path) => Ok(RemoteFile { path, bytes, hash }),
                (bytes, hash) => {
                    Err(wrong(format!("the file `{}` of {bytes:?} bytes with hash {hash:?}", printable(&path))))
                }
            }
        });
        Ok(Info { commit: answer.sha, files: files.collect::<Result<_, _>>()? })
    }

    /// Asks for a file of a commit, from a byte on. The answer is either 200, from the first byte on, or 206.
    pub(super) fn file(&self, name: &Name, commit: &str, path: &str, from: u64) -> Result<Response<Body>, HubError> {
        let path: Vec<String> = path.split('/').map(escaped).collect();
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, name.repo, path.join("/"));
        self.request(name, &url, Some(from))
    }

    /// Makes a request, again if the hub is busy; errors of the hub become messages.
    fn request(&self, name: &Name, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut waits = WAITS.iter();
        loop {
            let found = self.follow(url, from);
            let is_busy = |status: StatusCode| status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            let asked = match &found {
                Ok(answer) if is_busy(answer.status()) => retry_after(answer),
                // Whoever downloads wants to go on; whoever asks first may do with what is in the cache.
                Err(error) if error.is_unreachable() && from.is_some() => None,
                _ => return self.understood(name, found?),
            };
            match waits.next() {
                Some(wait) => {
                    let wait = asked.unwrap_or(*wait).min(WAIT_MAX);
                    let why = match &found {
                        Ok(answer) => format!("{} answers {}", self.host(), answer.status()),
                        Err(error) => error.to_string(),
                    };
                    log::info!("{why}; trying again in {:.1} s", wait.as_secs_f32());
                    std::thread::sleep(wait);
                }
                None => return self.understood(name, found?),
            }
        }
    }

    /// Makes a request and follows redirects. The token goes to the hub's own host only.
    fn follow(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS_MAX {
            log::debug!("GET {}", shown(&url));
            let mut request = self.agent.get(&url).header(header::ACCEPT_ENCODING, "identity");
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header(header::AUTHORIZATION, token.header());
            }
            let answer = request.call().map_err(|error| self.unreachable(&url, &error))?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            url = self.next(&url, to)?;
        }
        let (expected, found) = ("a file".to_owned(), format!("more than {REDIRECTS_MAX} redirects"));
        Err(HubError::Answer { host: self.host(), expected, found })
    }

    /// Where a redirect leads.
    fn next(&self, from: &str, to: &str) -> Result<String, HubError> {
        let is_address = |to: &str| origin(to).is_some() && (to.starts_with("https://") || to.starts_with("http://"));
        let next = match origin(from) {
            Some((scheme, authority)) if to.starts_with('/') && !to.starts_with("//") => {
                format!("{scheme}://{authority}{to}")
            }
            _ => to.to_owned(),
        };
        let is_weaker = from.starts_with("https:") && !next.starts_with("https:");
        if !is_address(&next) || is_weaker {
            let expected = "a redirect to an https address".to_owned();
            return Err(HubError::Answer {
                host: host_of(from),
                expected,
                found: format!("one to {}", host_of(&next)),
            });
        }
        Ok(next)
    }

    /// The answer if it is what was asked for, else what it means.
    fn understood(&self, name: &Name, answer: Response<Body>) -> Result<Response<Body>, HubError> {
        let (status, host, name) = (answer.status(), self.host(), name.clone());
        let has_token = self.token.is_some();
        let code = answer.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let says = answer.headers().get("x-error-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
        if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
            return Ok(answer);
        }
        Err(match (code, status.as_u16()) {
            ("GatedRepo", _) => {
                let address = format!("{}/{}", self.endpoint, name.repo);
                HubError::Gated { name, address, has_token }
            }
            ("RevisionNotFound", _) => HubError::NoRevision { name },
            ("RepoNotFound", _) => HubError::NoModel { name, host, has_token },
            (_, 401) if has_token && says.contains("Invalid") => HubError::BadToken { host },
            (_, 401 | 403 | 404) => HubError::NoModel { name, host, has_token },
            (_, 429) => HubError::TooMany { host },
            _ => {
                let says = if says.is_empty() { String::new() } else { format!(" ({})", printable(says)) };
                HubError::Answer { host, expected: "status 200".to_owned(), found: format!("{status}{says}") }
            }
        })
    }

    fn unreachable(&self, url: &str, error: &ureq::Error) -> HubError {
        HubError::Unreachable { host: host_of(url), why: error.to_string() }
    }
}

/// How long the hub asks to wait.
fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Scheme and authority of an address.
fn origin(url: &str) -> Option<(String, String)> {
    let url: Uri = url.parse().ok()?;
    Some((url.scheme_str()?.to_owned(), url.authority()?.as_str().to_ascii_lowercase()))
}

/// The host in an address, for messages: what follows may be signed, and is nobody's business.
fn host_of(url: &str) -> String {
    let url: Option<Uri> = url.parse().ok();
    url.as_ref().and_then(Uri::host).map_or_else(|| "an unknown host".to_owned(), |host| printable(host).into_owned())
}

/// An address without its parameters, which may be a signature.
fn shown(url: &str) -> String {
    printable(url.split(['?', '#']).next().unwrap_or_default()).into_owned()
}

/// Returns whether a path stays in the folder it is joined to.
fn is_plain(path: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
    path.split('/').all(is_part)
}

/// A part of a path with everything but letters, digits and `-_.~` as percent signs and digits.
fn escaped(part: &str) -> String {
    let escape = |byte: u8| match byte {
        b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    part.bytes().map(escape).collect()
}
