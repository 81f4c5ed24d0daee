//! Answers to the challenge of a server that wants to know who asks: digest (RFC 7616 and 2617, MD5 and SHA-256) and basic.

use std::fmt;

use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::secret::Credentials;

/// A challenge of the header `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Digest(Digest),
}

/// A digest challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    algorithm: Algorithm,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// The server wants the quality of protection `auth`; without it, the answer has the older form.
    has_qop: bool,
}

/// In the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Challenge {
    /// The strongest of the challenges that can be answered.
    pub(super) fn strongest<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let rank = |challenge: &Self| match challenge {
            Self::Basic => None,
            Self::Digest(digest) => Some(digest.algorithm),
        };
        headers.into_iter().flat_map(challenges).filter_map(|(scheme, fields)| parse(scheme, &fields)).max_by_key(rank)
    }

    /// The value of the header `Authorization` for a GET of `path` (with its query). `count` numbers the answers to this challenge
    /// from 1; `cnonce` is random.
    pub(super) fn answer(&self, credentials: &Credentials, path: &str, count: u32, cnonce: &str) -> String {
        match self {
            Self::Basic => {
                format!("Basic {}", base64::encode(format!("{}:{}", credentials.user, credentials.password)))
            }
            Self::Digest(digest) => digest.answer(credentials, path, count, cnonce),
        }
    }
}

impl Digest {
    fn answer(&self, credentials: &Credentials, path: &str, count: u32, cnonce: &str) -> String {
        let Self { algorithm, realm, nonce, opaque, has_qop } = self;
        let Credentials { user, password } = credentials;
        let secret = algorithm.hash(&format!("{user}:{realm}:{password}"));
        let request = algorithm.hash(&format!("GET:{path}"));
        let response = algorithm.hash(&match has_qop {
            true => format!("{secret}:{nonce}:{count:08x}:{cnonce}:auth:{request}"),
            false => format!("{secret}:{nonce}:{request}"),
        });
        let quoted = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
        let mut answer = format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{path}\", response=\"{response}\", algorithm={algorithm}",
            quoted(user),
            quoted(realm),
            quoted(nonce),
        );
        if *has_qop {
            answer += &format!(", qop=auth, nc={count:08x}, cnonce=\"{cnonce}\"");
        }
        if let Some(opaque) = opaque {
            answer += &format!(", opaque=\"{}\"", quoted(opaque));
        }
        answer
    }
}

impl Algorithm {
    fn hash(self, text: &str) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(&Sha256::digest(text)),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        })
    }
}

fn parse(scheme: &str, fields: &[(String, String)]) -> Option<Challenge> {
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    let field =
        |name: &str| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
    let algorithm = match field("algorithm").map(|name| name.to_ascii_uppercase()).as_deref() {
        None | Some("MD5") => Algorithm::Md5,
        Some("SHA-256") => Algorithm::Sha256,
        Some(_) => return None,
    };
    let qop = field("qop");
    let has_qop = qop.is_some();
    // Only bodies would need `auth-int`.
    let is_auth = |qop: String| qop.split(',').any(|one| one.trim().eq_ignore_ascii_case("auth"));
    if !scheme.eq_ignore_ascii_case("digest") || !qop.is_none_or(is_auth) {
        return None;
    }
    let (realm, nonce) = (field("realm")?, field("nonce")?);
    Some(Challenge::Digest(Digest { algorithm, realm, nonce, opaque: field("opaque"), has_qop }))
}

/// The challenges of a header, each with its scheme and fields.
fn challenges(header: &str) -> Vec<(&str, Vec<(String, String)>)> {
    let mut found: Vec<(&str, Vec<(String, String)>)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let after = after.trim_start();
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, fields))) => {
                let (value, after) = field_value(value.trim_start());
                fields.push((name.to_owned(), value));
                rest = after;
            }
            // A field without a scheme.
            (Some(_), None) => return found,
            (None, _) => {
                found.push((name, Vec::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
}

/// A quoted or plain value, and what follows it.
fn field_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, next)| next)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn login(user: &str, password: &str) -> Credentials {
        Credentials { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn answers_are_those_of_the_rfcs() {
        let of_7616 = |algorithm: &str| {
            format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            )
        };
        let of_2617 = "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
                       nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        for (header, credentials, path, cnonce, response) in [
            (
                of_7616("MD5"),
                login("Mufasa", "Circle of Life"),
                "/dir/index.html",
                cnonce,
                "8ca523f5e9506fed4657c9700eebdbec",
            ),
            (
                of_7616("SHA-256"),
                login("Mufasa", "Circle of Life"),
                "/dir/index.html",
                cnonce,
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
            (
                of_2617.to_owned(),
                login("Mufasa", "Circle Of Life"),
                "/dir/index.html",
                "0a4f113b",
                "6629fae49393a05397450978507c4ef1",
            ),
        ] {
            let challenge = Challenge::strongest([header.as_str()]).unwrap();
            let answer = challenge.answer(&credentials, path, 1, cnonce);
            assert!(answer.contains(&format!("response=\"{response}\"")), "{answer}");
            assert!(answer.contains("nc=00000001, ") && answer.contains(", opaque=\""), "{answer}");
        }
        let basic = Challenge::Basic.answer(&login("Aladdin", "open sesame"), "/", 1, "");
        assert_eq!(basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn the_strongest_known_challenge_is_answered() {
        for (headers, expected) in [
            (&["Basic realm=\"a, b\", Digest realm=\"x\", nonce=\"n\""][..], "Md5"),
            (&["Digest realm=\"x\", nonce=\"n\"", "Digest realm=\"x\", nonce=n, algorithm=sha-256"], "Sha256"),
            (&["Digest realm=\"x\", nonce=\"n\", algorithm=MD5-sess", "Basic realm=\"x\""], "Basic"),
            (&["Digest realm=\"x\", nonce=\"n\", qop=\"auth-int\""], "None"),
            (&["Digest realm=\"x"], "None"),
            (&["Negotiate", "Basic"], "Basic"),
            (&["", "=", ",,", "realm=\"x\"", "\"", "Digest =\\"], "None"),
        ] {
            let found = format!("{:?}", Challenge::strongest(headers.iter().copied()));
            assert!(found.contains(expected), "{headers:?}: {found}");
        }
        let plain = Challenge::strongest(["Digest realm=\"a\\\"b\", nonce=\"n\""]).unwrap();
        let answer = plain.answer(&login("me", "x"), "/", 1, "c");
        assert!(answer.contains(r#"realm="a\"b""#) && !answer.contains("qop"), "{answer}");
    }
}
