use super::*;
use crate::config::Config;

fn parse(text: &str) -> Result<Vec<Notify>, Vec<String>> {
    let found = Config::parse(Path::new("/etc/s.toml"), text, |_| None);
    found.map(|config| config.notify).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn problems(text: &str) -> Vec<String> {
    parse(text).err().unwrap_or_default()
}

#[test]
fn a_program_is_told_everything_unless_chosen() {
    let found = parse("[[notify]]\nexec = ['/bin/tell', '-v']").expect("a receiver");
    let expected = Notify {
        receiver: Receiver::Command(vec!["/bin/tell".to_owned(), "-v".to_owned()]),
        labels: None,
        events: EventChoice::value_variants().to_vec(),
        min_interval: Duration::ZERO,
        timeout: Duration::from_secs(10),
        position: Position { line: 1, column: 1 },
    };
    assert_eq!(found, std::slice::from_ref(&expected));
    let chosen = "[[notify]]\nexec = ['/bin/tell', '-v']\nlabels = ['cat']\nevents = ['end']\nmin_interval_s = 60\ntimeout_s = 0.5";
    let expected = Notify {
        labels: Some(vec!["cat".to_owned()]),
        events: vec![EventChoice::End],
        min_interval: Duration::from_secs(60),
        timeout: Duration::from_millis(500),
        ..expected
    };
    assert_eq!(parse(chosen), Ok(vec![expected]));
}

#[test]
fn problems_say_what_is_expected() {
    let check = |text: &str, expected: &[&str]| {
        let found = problems(&format!("[[notify]]\n{text}"));
        assert_eq!(found.len(), expected.len(), "{text}: {found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{text}: {expected:?} is not in {found:?}");
        }
    };
    check("labels = ['cat']", &["1:1: `[[notify]]` without a receiver: expected one of `exec`, `webhook`"]);
    check("exce = ['x']", &["without a receiver", "unknown key `exce`: did you mean `exec`?"]);
    check("exec = ['x']\nntfy = 'https://x/y'", &["with `exec` and `ntfy`: expected one"]);
    check("exec = 'x'", &["2:8: `exec`: expected an array of strings"]);
    check("exec = ['']", &["expected a program"]);
    check("exec = ['x', \"\\u0000\"]", &["zero byte"]);
    check("exec = ['x']\ntoken_file = 'y'", &["unknown key `token_file`"]);
    check("exec = ['x']\nevents = ['begin']", &["expected one of `start`, `end`, `state`, found `begin`"]);
    check("exec = ['x']\ntimeout_s = 0", &["`timeout_s`: expected 0.1 to 300, found 0"]);
    let many = "[[notify]]\nexec = ['x']\n".repeat(RECEIVERS_MAX + 1);
    assert_eq!(problems(&many).len(), 1, "more than the limit");
}

#[test]
#[cfg(feature = "http")]
fn servers_are_read_with_their_secrets_in_files() {
    let text = "[[notify]]\nntfy = 'https://ntfy.sh/x'\ntoken_file = 'token'\npriority = 4\ntags = ['eyes']\n\
                picture = true\n[[notify]]\napprise = 'http://a:8000/notify/k'\ntitle = 'Door'\nuser = 'me'\n\
                password_file = '/p'\nretries = 0\n[[notify]]\nwebhook = 'https://x'\nca_file = 'ca.pem'";
    let found = parse(text).expect("receivers");
    let message = |title: &str, tags: &[&str], picture| Message {
        title: title.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        picture,
    };
    let http = |form, url: &str, credentials, ca_file, retries| {
        Receiver::Http(Http { form, url: url.to_owned(), credentials, ca_file, retries })
    };
    let options = NtfyOptions { priority: Some(4) };
    let token = Credentials::Token("/etc/token".into());
    let password = Credentials::Password("me".to_owned(), "/p".into());
    let expected = [
        http(Form::Ntfy(message("Spotter", &["eyes"], true), options), "https://ntfy.sh/x", token, None, 3),
        http(Form::Apprise(message("Door", &[], false)), "http://a:8000/notify/k", password, None, 0),
        http(Form::Webhook, "https://x", Credentials::None, Some("/etc/ca.pem".into()), 3),
    ];
    let receivers: Vec<_> = found.iter().map(|notify| notify.receiver.clone()).collect();
    assert_eq!(receivers, expected);
    let events: Vec<_> = found.iter().map(|notify| notify.events.len()).collect();
    assert_eq!(events, [1, 1, 3], "people are told what starts, programs everything");
}

#[test]
#[cfg(feature = "http")]
fn addresses_that_cannot_work_are_refused_and_not_repeated() {
    for (url, expected) in [
        ("ftp://hidden/", "begins with `https://`"),
        ("https://", "names no host"),
        ("https://:80/hidden", "names no host"),
        ("https://me:hidden@x/", "`password_file`"),
        ("https://x/hidden y", "a character"),
        ("https://x/hiddené", "a character"),
    ] {
        let found = problems(&format!("[[notify]]\nwebhook = '{url}'"));
        assert!(found.len() == 1 && found[0].contains(expected) && !found[0].contains("hidden"), "{url}: {found:?}");
    }
    for text in ["user = 'x'", "password_file = 'x'", "token_file = 'x'\nuser = 'y'\npassword_file = 'z'"] {
        let found = problems(&format!("[[notify]]\nwebhook = 'http://x'\n{text}"));
        assert!(found.len() == 1 && found[0].contains("expected `token_file`, or both"), "{text}: {found:?}");
    }
    let found = problems("[[notify]]\nntfy = 'http://x'\ntitle = \"a\\nb\"");
    assert!(found[0].contains("`title`: expected one line"), "{found:?}");
}

#[test]
#[cfg(not(feature = "http"))]
fn a_build_without_the_client_says_so() {
    for kind in ["webhook", "ntfy", "apprise"] {
        let found = problems(&format!("[[notify]]\n{kind} = 'https://x'"));
        assert!(found.len() == 1 && found[0].contains("this build has no HTTP client"), "{found:?}");
    }
}
