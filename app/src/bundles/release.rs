//! Releases of signed bundles, for downgrade protection.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The release that a signature's trusted comment names. A number counts as newer than any timestamp, so that a signer can
/// start to count at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// Time of signing in seconds since 1970, which `minisign` writes by default.
    Timestamp(u64),
    /// Release number of the signer.
    Number(u64),
}

impl Release {
    /// Parses a trusted comment that begins with `release` or `timestamp` and a number, such as `release 7`, `release: 7` or
    /// `timestamp:1555779966`. Other comments name no release.
    pub(super) fn of(trusted_comment: &str) -> Option<Self> {
        let separator = |c: char| c.is_whitespace() || matches!(c, ':' | '=');
        let mut words = trusted_comment.split(separator).filter(|word| !word.is_empty());
        let (kind, number) = (words.next()?, words.next()?.parse().ok()?);
        if kind.eq_ignore_ascii_case("release") {
            Some(Self::Number(number))
        } else if kind.eq_ignore_ascii_case("timestamp") {
            Some(Self::Timestamp(number))
        } else {
            None
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timestamp(seconds) => write!(f, "signed at {seconds}"),
            Self::Number(number) => write!(f, "release {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_parsed() {
        for (comment, expected) in [
            ("release 7", Some(Release::Number(7))),
            ("Release: 7 of the cats", Some(Release::Number(7))),
            ("release=07\tfile:cats.tar", Some(Release::Number(7))),
            ("timestamp:1555779966\tfile:test\thashed", Some(Release::Timestamp(1_555_779_966))),
            ("release 18446744073709551616", None),
            ("release -1", None),
            ("release 7.2", None),
            ("release", None),
            ("the release 7", None),
            ("file:x\ttimestamp:5", None),
            ("by somebody", None),
            ("", None),
        ] {
            assert_eq!(Release::of(comment), expected, "{comment:?}");
        }
    }

    #[test]
    fn releases_are_ordered_by_kind_then_number() {
        let order = [None, Some("timestamp:9"), Some("timestamp:10"), Some("release 2"), Some("release 10")];
        let releases = order.map(|comment| comment.and_then(Release::of));
        assert!(releases.is_sorted_by(|one, next| one < next), "{releases:?}");
    }
}
