//! Addresses of network cameras, and what of them may be shown: the one place that hides their secrets.

use std::fmt;

use crate::secret::Credentials;

/// Shown in place of a secret.
const HIDDEN: &str = "…";

/// Characters of a part of a path from which on it is taken for a token, if it has digits and no separators.
const TOKEN_CHARACTERS: usize = 16;

/// Digits of a value that is shown, such as a channel's number. Longer ones may be passwords.
const SHOWN_DIGITS: usize = 3;

/// The address of a network camera. Displaying it hides user, password, and what may be a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// In lower case.
    scheme: String,
    /// The user and the password of the address, decoded.
    credentials: Option<Credentials>,
    /// Host, port, path and query, without user and password.
    rest: String,
}

impl Address {
    /// Parses what follows `scheme://`.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn parse(scheme: &str, rest: &str) -> Result<Self, &'static str> {
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("an address without spaces; write a space as `%20`");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (user, host) = rest[..end].rsplit_once('@').map_or((None, &rest[..end]), |(user, host)| (Some(user), host));
        let port = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
        let is_port = |port: &str| port.parse::<u16>().is_ok();
        if (host.is_empty() || host.starts_with(':')) && scheme != "udp" || !port.is_none_or(is_port) {
            return Err(
                "a host, a port if need be, and a path, as in `camera.local:554/stream`; in a password write `/` \
                        as `%2F`, `@` as `%40`, `#` as `%23` and `?` as `%3F`",
            );
        }
        let credentials = match user.filter(|user| !user.is_empty()) {
            None => None,
            Some(text) => {
                let (user, password) = text.split_once(':').unwrap_or((text, ""));
                let decode = |text| percent_decoded(text).and_then(|bytes| String::from_utf8(bytes).ok());
                let (user, password) =
                    decode(user).zip(decode(password)).ok_or("user and password in UTF-8, a `%` in them as `%25`")?;
                if [&user, &password].iter().any(|text| text.contains(char::is_control)) {
                    return Err("user and password without control characters");
                }
                Some(Credentials { user, password })
            }
        };
        let rest = format!("{host}{}", &rest[end..]);
        Ok(Self { scheme: scheme.to_owned(), credentials, rest })
    }

    /// The scheme, in lower case.
    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns whether it is read by HTTP.
    pub(crate) fn is_http(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https")
    }

    /// User and password of the address.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The address without user and password; its path may hold secrets.
    pub(super) fn without_login(&self) -> String {
        format!("{}://{}", self.scheme, self.rest)
    }

    /// The address with a user and a password, or without.
    pub(super) fn with_login(&self, credentials: Option<&Credentials>) -> String {
        match credentials {
            None => self.without_login(),
            Some(Credentials { user, password }) => {
                format!("{}://{}:{}@{}", self.scheme, percent_encoded(user), percent_encoded(password), self.rest)
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.without_login()))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address, valid or not, without its secrets: everything before the last `@`, values of parameters, and what looks like a
/// token. Text that is no address stays as it is.
pub(crate) fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let (host, mut path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let mut shown = format!("{scheme}://{host}");
    while let Some(separator) = path.chars().next() {
        let part = &path[separator.len_utf8()..];
        let (part, after) = part.split_at(part.find(['/', '?', '#', '&', ';']).unwrap_or(part.len()));
        shown.push(separator);
        match part.split_once('=') {
            Some((name, value)) => {
                let is_number = value.len() <= SHOWN_DIGITS && value.bytes().all(|byte| byte.is_ascii_digit());
                shown.extend([name, "=", if is_number { value } else { HIDDEN }]);
            }
            None if is_token(part) => shown.push_str(HIDDEN),
            None => shown.push_str(part),
        }
        path = after;
    }
    shown
}

fn is_token(part: &str) -> bool {
    part.len() >= TOKEN_CHARACTERS
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && part.bytes().any(|byte| byte.is_ascii_digit())
}

/// What a program wrote, without the secrets of addresses in it, and without those of `secrets`, which it may have written in
/// other ways.
pub(super) fn scrubbed(text: &str, secrets: &[String]) -> String {
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        // Something may stand before the scheme, such as a bracket.
        let Some(at) = word.find("://") else { return word.to_owned() };
        let start = word[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric())
            .map_or(0, |before| before + word[before..].chars().next().map_or(0, char::len_utf8));
        let (address, space) = word[start..].split_at(word[start..].trim_end().len());
        format!("{}{}{space}", &word[..start], shown(address))
    });
    let mut text: String = words.collect();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), HIDDEN);
    }
    text
}

/// The secrets of a login, in every way in which a program may write them.
pub(super) fn secrets(credentials: Option<&Credentials>) -> Vec<String> {
    let Some(Credentials { user, password }) = credentials else { return Vec::new() };
    let mut secrets =
        vec![format!("{}:{}", percent_encoded(user), percent_encoded(password)), format!("{user}:{password}")];
    // A word of a message, or a digit, would be hidden wherever it stands.
    secrets
        .extend([percent_encoded(password), password.clone()].into_iter().filter(|secret| secret.len() > SHOWN_DIGITS));
    secrets
}

/// The bytes of percent-encoded text; `None` if it is badly encoded.
pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut encoded = text.bytes();
    while let Some(byte) = encoded.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(encoded.next()?)? * 16 + digit(encoded.next()?)?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(bytes)
}

/// Encodes everything but RFC 3986's unreserved characters.
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, &'static str> {
        let (scheme, rest) = text.split_once("://").unwrap();
        Address::parse(scheme, rest)
    }

    #[test]
    fn user_and_password_are_taken_apart_and_never_shown() {
        for (text, login, encoded, displayed) in [
            ("rtsp://cam/1", None, "rtsp://cam/1", "rtsp://cam/1"),
            ("rtsp://[fe80::1]:8554/1", None, "rtsp://[fe80::1]:8554/1", "rtsp://[fe80::1]:8554/1"),
            ("rtsp://[fe80::1]", None, "rtsp://[fe80::1]", "rtsp://[fe80::1]"),
            ("rtsp://a:b@cam:554/1", Some(("a", "b")), "rtsp://a:b@cam:554/1", "rtsp://cam:554/1"),
            ("rtsp://a@cam", Some(("a", "")), "rtsp://a:@cam", "rtsp://cam"),
            ("http://a:b:c@d@cam/", Some(("a", "b:c@d")), "http://a:b%3Ac%40d@cam/", "http://cam/"),
            ("http://%C3%BC:a%2Fb@cam/", Some(("ü", "a/b")), "http://%C3%BC:a%2Fb@cam/", "http://cam/"),
            ("udp://@:1234", None, "udp://:1234", "udp://:1234"),
            (
                "rtsp://cam/user=admin&password=&channel=1&stream=0.sdp?real_stream",
                None,
                "rtsp://cam/user=admin&password=&channel=1&stream=0.sdp?real_stream",
                "rtsp://cam/user=…&password=&channel=1&stream=…?real_stream",
            ),
            (
                "http://cam/snap.cgi?channel=0&pwd=hunter2#x",
                None,
                "http://cam/snap.cgi?channel=0&pwd=hunter2#x",
                "http://cam/snap.cgi?channel=0&pwd=…#x",
            ),
            ("rtsps://cam:7441/aB3dE6gH9jK2mN5p?enableSrtp", None, "", "rtsps://cam:7441/…?enableSrtp"),
            ("rtsp://cam/h264Preview_01_main", None, "", "rtsp://cam/h264Preview_01_main"),
        ] {
            let address = parse(text).unwrap();
            let found = address.credentials();
            assert_eq!(found.map(|found| (found.user.as_str(), found.password.as_str())), login, "{text}");
            if !encoded.is_empty() {
                assert_eq!(address.with_login(found), encoded, "{text}");
            }
            assert_eq!((address.to_string(), format!("{address:?}")), (displayed.to_owned(), displayed.to_owned()));
        }
    }

    #[test]
    fn invalid_addresses_say_what_is_expected() {
        for (text, part) in [
            ("rtsp://", "a host"),
            ("rtsp:///1", "a host"),
            ("rtsp://:554/1", "a host"),
            ("rtsp://cam:x/1", "a host"),
            ("rtsp://cam:70000/1", "a host"),
            ("rtsp://a:b/c@cam/1", "write `/` as `%2F`"),
            ("rtsp://a:%@cam/1", "a `%` in them as `%25`"),
            ("rtsp://a:%0a@cam/1", "without control characters"),
            ("rtsp://cam/a b", "write a space as `%20`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(shown("rtsp://a:b/c@cam/1"), "rtsp://cam/1", "an invalid one is shown without its secrets, too");
    }

    #[test]
    fn what_programs_write_is_scrubbed() {
        let credentials = Credentials { user: "me".to_owned(), password: "to p/s".to_owned() };
        let secrets = secrets(Some(&credentials));
        for (text, expected) in [
            ("", ""),
            ("rtsp://a:b@cam/1: 401 Unauthorized", "rtsp://cam/1: 401 Unauthorized"),
            ("[rtsp @ 0x5] (http://a:b@cam/?token=abc)\nx", "[rtsp @ 0x5] (http://cam/?token=…\nx"),
            ("`http://a@cam`", "`http://cam`"),
            ("user me:to p/s, to%20p%2Fs", "user …, …"),
            ("no secret", "no secret"),
        ] {
            assert_eq!(scrubbed(text, &secrets), expected, "{text}");
        }
    }
}
