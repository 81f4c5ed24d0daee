//! Where the hub and its cache are, by the environment variables of `huggingface_hub`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use spotter_engine::files;

use super::HubError;

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Longest file with a token, in bytes. A token has about 40.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Where the hub and its cache are.
#[derive(Debug)]
pub(super) struct Settings {
    /// Address of the hub, without a slash at the end: `HF_ENDPOINT`.
    pub(super) endpoint: String,
    /// Folder of the cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub(super) cache: PathBuf,
    /// `HF_TOKEN`, or the content of the file `HF_TOKEN_PATH`.
    pub(super) token: Option<Token>,
    /// File of the certificates to trust instead of the system's: `SSL_CERT_FILE`.
    pub(super) certificates: Option<PathBuf>,
    /// True if nothing may be downloaded: `HF_HUB_OFFLINE`.
    pub(super) offline: bool,
}

/// A secret, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

impl Token {
    /// The value of the header that shows it to the hub.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl Settings {
    /// Reads the variables with `get`.
    ///
    /// # Errors
    /// There is no home folder, `HF_ENDPOINT` is no address, or the token cannot be read or be sent.
    pub(super) fn from_environment(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let set = |key: &str| get(key).filter(|value| !value.is_empty());
        let home = set("HOME").map(PathBuf::from);
        let folder = |key: &str| set(key).map(|value| expanded(PathBuf::from(value), home.as_deref()));
        let no_home = || HubError::Setting {
            key: "HF_HOME",
            expected: "the folder of the hub's cache, as HOME is not set either",
            found: String::new(),
        };
        let hub_home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_deref().map(|home| home.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hub_home.as_deref().map(|home| home.join("hub")))
            .ok_or_else(no_home)?;
        let is_true = |key: &str| {
            let value = set(key).and_then(|value| value.into_string().ok()).unwrap_or_default();
            ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
        };
        let token_path = folder("HF_TOKEN_PATH").or_else(|| hub_home.map(|home| home.join("token")));
        let token = token(&set, token_path.as_deref())?;
        let implicit = !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN");
        let offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");
        let (endpoint, certificates) = (endpoint(&set)?, folder("SSL_CERT_FILE"));
        Ok(Self { endpoint, cache, token: token.filter(|_| implicit), certificates, offline })
    }
}

/// The path with the home folder in place of `~`.
fn expanded(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

fn endpoint(set: &dyn Fn(&str) -> Option<OsString>) -> Result<String, HubError> {
    let Some(value) = set("HF_ENDPOINT") else { return Ok(ENDPOINT.to_owned()) };
    let value = value.to_string_lossy().trim().trim_end_matches('/').to_owned();
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.contains(['@', '?', '#']) || host.contains(char::is_whitespace)) {
        let expected = "the hub's address, such as https://huggingface.co";
        return Err(HubError::Setting { key: "HF_ENDPOINT", expected, found: value });
    }
    Ok(value)
}

fn token(set: &dyn Fn(&str) -> Option<OsString>, path: Option<&Path>) -> Result<Option<Token>, HubError> {
    for key in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(value) = set(key) {
            return checked(&value.to_string_lossy(), key);
        }
    }
    let Some(path) = path else { return Ok(None) };
    match files::read(path, TOKEN_BYTES_MAX) {
        Ok(bytes) => checked(&String::from_utf8_lossy(&bytes), "HF_TOKEN_PATH"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::file(path, source)),
    }
}

/// A token that can be a header.
fn checked(value: &str, key: &'static str) -> Result<Option<Token>, HubError> {
    let value = value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let expected = "a token of letters, digits and punctuation in one line";
        // The value is a secret.
        return Err(HubError::Setting { key, expected, found: "something else".to_owned() });
    }
    Ok(Some(Token(value.to_owned())))
}
