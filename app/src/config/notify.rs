//! `[[notify]]`: whom to tell about changes of states, and about which.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use toml::Spanned;

use super::document::Section;
use super::{Position, file};

/// Maximum number of receivers: each has a thread.
const RECEIVERS_MAX: usize = 16;

/// A receiver of notices, and what it is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Notify {
    /// Who is told.
    pub receiver: Receiver,
    /// Labels and questions to tell about; `None` for all. `question: label` names a label of a question.
    pub labels: Option<Vec<String>>,
    /// Kinds of changes to tell.
    pub events: Vec<EventChoice>,
    /// Shortest time between the starts of a label, or the states of a question, that are told.
    pub min_interval: Duration,
    /// Longest time for one attempt.
    pub timeout: Duration,
    /// Position of the table in the file.
    pub position: Position,
}

/// Who is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Receiver {
    /// A program and its arguments, which gets the event on its standard input.
    Command(Vec<String>),
    /// A server, which gets an HTTP request.
    Http(Http),
}

/// An HTTP receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// What it expects.
    pub form: Form,
    /// Its address. Path and query may be secret.
    pub url: String,
    /// How it knows the sender.
    pub credentials: Credentials,
    /// Certificates to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Attempts after the first one that failed.
    pub retries: u32,
}

/// What an HTTP receiver expects.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// The event as JSON.
    Webhook,
    /// A message as ntfy takes it.
    Ntfy(Message, NtfyOptions),
    /// A message as the Apprise API takes it.
    Apprise(Message),
}

/// What messages for people have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Title of every message.
    pub title: String,
    /// Tags of every message.
    pub tags: Vec<String>,
    /// Attach the frame.
    pub picture: bool,
}

/// What only ntfy knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NtfyOptions {
    /// 1 to 5; `None` for the server's default.
    pub priority: Option<u32>,
}

/// How an HTTP receiver knows the sender. Secrets are read from files whenever they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// It does not.
    None,
    /// By the bearer token in this file.
    Token(PathBuf),
    /// By a name and the password in this file.
    Password(String, PathBuf),
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum EventChoice {
    /// A label has started.
    Start,
    /// A label is over.
    End,
    /// A question has another label, or is unknown.
    State,
}

impl Notify {
    /// Reads all of `[[notify]]`; relative paths are relative to `folder`.
    pub(super) fn read_all(root: &Section<'_>, folder: &Path) -> Vec<Self> {
        let mut count = 0;
        let read = |section: &Section<'_>| {
            count += 1;
            if count == RECEIVERS_MAX + 1 {
                section.problem(section.span(), format!("more than {RECEIVERS_MAX} `[[notify]]`"));
            }
            Self::read(section, folder)
        };
        root.tables("notify", read).unwrap_or_default().into_iter().flatten().collect()
    }

    fn read(section: &Section<'_>, folder: &Path) -> Option<Self> {
        let receiver = receiver(section, folder);
        let is_for_people =
            matches!(&receiver, Some(Receiver::Http(Http { form: Form::Ntfy(..) | Form::Apprise(_), .. })));
        let default = if is_for_people { &[EventChoice::Start][..] } else { EventChoice::value_variants() };
        // Longer than a day is a mistake.
        let min_interval = section.number("min_interval_s", 0.0..=86_400.0).unwrap_or(0.0);
        let timeout = section.number("timeout_s", 0.1..=300.0).unwrap_or(10.0);
        Some(Self {
            labels: section
                .strings("labels")
                .map(|names| names.into_iter().map(|n| n.into_inner().to_owned()).collect()),
            events: section.choices("events").unwrap_or_else(|| default.to_vec()),
            min_interval: Duration::from_secs_f32(min_interval),
            timeout: Duration::from_secs_f32(timeout),
            position: section.position(&section.span()),
            receiver: receiver?,
        })
    }
}

/// Reads the key that says who is told, and those that only that kind has.
fn receiver(section: &Section<'_>, folder: &Path) -> Option<Receiver> {
    const KINDS: [&str; 4] = ["exec", "webhook", "ntfy", "apprise"];
    const OF_HTTP: [&str; 9] =
        ["token_file", "user", "password_file", "ca_file", "retries", "title", "tags", "picture", "priority"];
    let given: Vec<&str> = KINDS.into_iter().filter(|kind| section.has(kind)).collect();
    match given[..] {
        ["exec"] => command(section).map(Receiver::Command),
        ["webhook"] => http(section, folder, "webhook", |_| Form::Webhook),
        ["ntfy"] => http(section, folder, "ntfy", |section| {
            let priority = section.integer("priority", 1..=5);
            Form::Ntfy(message(section), NtfyOptions { priority })
        }),
        ["apprise"] => http(section, folder, "apprise", |section| Form::Apprise(message(section))),
        [] => {
            section.know(&KINDS);
            section.know(&OF_HTTP);
            let expected = "expected one of `exec`, `webhook`, `ntfy`, `apprise`";
            section.problem(section.span(), format!("`[[notify]]` without a receiver: {expected}"));
            None
        }
        _ => {
            section.know(&KINDS);
            section.know(&OF_HTTP);
            let expected = "expected one; write a `[[notify]]` for each";
            section.problem(section.span(), format!("`[[notify]]` with `{}`: {expected}", given.join("` and `")));
            None
        }
    }
}

fn command(section: &Section<'_>) -> Option<Vec<String>> {
    let words = section.strings("exec")?;
    if let Some(program) = words.first().filter(|program| program.get_ref().trim().is_empty()) {
        section.problem(program.span(), "`exec`: expected a program, found nothing between the quotes".to_owned());
    }
    if let Some(word) = words.iter().find(|word| word.get_ref().contains('\0')) {
        section.problem(word.span(), "`exec`: no argument of a program can hold a zero byte".to_owned());
    }
    Some(words.into_iter().map(|word| word.into_inner().to_owned()).collect())
}

fn http(
    section: &Section<'_>,
    folder: &Path,
    kind: &'static str,
    form: impl FnOnce(&Section<'_>) -> Form,
) -> Option<Receiver> {
    let url = section.string(kind)?;
    if !cfg!(feature = "http") {
        let message =
            "this build has no HTTP client: use `exec`, for example with curl, or a build with the feature `http`";
        section.problem(url.span(), format!("`{kind}`: {message}"));
    } else if let Err(why) = check_url(url.get_ref()) {
        // Without the address, which may be secret.
        section.problem(url.span(), format!("`{kind}`: {why}"));
    }
    let form = form(section);
    let credentials = credentials(section, folder);
    let ca_file = file(section, "ca_file", folder);
    // With the longest waits between them, ten take about eight minutes.
    let retries = section.integer("retries", 0..=10).unwrap_or(3);
    Some(Receiver::Http(Http { form, url: (*url.get_ref()).to_owned(), credentials, ca_file, retries }))
}

fn check_url(url: &str) -> Result<(), String> {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return Err("expected an address that begins with `https://` or `http://`".to_owned());
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        Err("name and password do not belong into the address: use `user` with `password_file`, or `token_file`"
            .to_owned())
    } else if authority.is_empty() || authority.starts_with(':') {
        Err("the address names no host".to_owned())
    } else if url.contains(|c: char| !c.is_ascii_graphic()) {
        Err("the address holds a character that addresses cannot hold: write it as `%` and two digits".to_owned())
    } else {
        Ok(())
    }
}

fn credentials(section: &Section<'_>, folder: &Path) -> Credentials {
    let token = file(section, "token_file", folder);
    let user = section.string("user");
    let password = file(section, "password_file", folder);
    match (token, user, password) {
        (None, None, None) => Credentials::None,
        (Some(token), None, None) => Credentials::Token(token),
        (None, Some(user), Some(password)) => {
            if user.get_ref().contains(|c: char| c == ':' || c.is_control()) {
                section.problem(user.span(), "`user`: expected a name without `:` and control characters".to_owned());
            }
            Credentials::Password((*user.get_ref()).to_owned(), password)
        }
        _ => {
            let expected = "expected `token_file`, or both `user` and `password_file`";
            section.problem(section.span(), format!("`[[notify]]`: {expected}"));
            Credentials::None
        }
    }
}

fn message(section: &Section<'_>) -> Message {
    let is_line = |text: &Spanned<&str>, key: &str| {
        if text.get_ref().contains(char::is_control) {
            section.problem(text.span(), format!("`{key}`: expected one line without control characters"));
        }
    };
    let title = section.string("title");
    let tags = section.strings("tags").unwrap_or_default();
    title.iter().for_each(|text| is_line(text, "title"));
    tags.iter().for_each(|text| is_line(text, "tags"));
    Message {
        title: title.map_or_else(|| "Spotter".to_owned(), |title| (*title.get_ref()).to_owned()),
        tags: tags.into_iter().map(|tag| tag.into_inner().to_owned()).collect(),
        picture: section.boolean("picture").unwrap_or(false),
    }
}

#[cfg(test)]
mod tests;
