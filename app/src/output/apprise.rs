//! Notices to an Apprise API server: JSON, or a form with the picture as an attachment.

use std::time::Duration;

use serde::Serialize;

use super::http::{Client, Request};
use super::notice::{Failure, Notice, Sender};
use crate::config::notify::Message;
use crate::process::Stop;

/// Asks an Apprise API server to notify those that its address or the tags name.
#[derive(Debug)]
pub(crate) struct Apprise {
    client: Client,
    message: Message,
}

/// The fields of a message.
#[derive(Serialize)]
struct Fields<'a> {
    title: &'a str,
    body: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
}

impl Apprise {
    /// Posts by `client`.
    pub(crate) fn new(client: Client, message: &Message) -> Self {
        Self { client, message: message.clone() }
    }

    fn request(&self, notice: &Notice) -> Result<Request, Failure> {
        let Message { title, tags, .. } = &self.message;
        let fields = Fields {
            title,
            body: &notice.text(),
            r#type: if notice.is_warning() { "warning" } else { "info" },
            tag: (!tags.is_empty()).then(|| tags.join(",")),
        };
        if let Some(picture) = &notice.picture {
            let picture = picture.jpeg().map_err(|error| Failure::lasting(format!("the picture: {error}")))?;
            return Ok(form(&fields, &picture));
        }
        let body = serde_json::to_vec(&fields).map_err(|error| Failure::lasting(error.to_string()))?;
        Ok(Request { content_type: "application/json".to_owned(), body, ..Request::default() })
    }
}

impl Sender for Apprise {
    fn send(&mut self, notice: &Notice, _stop: &Stop) -> Result<(), Failure> {
        self.client.post(self.request(notice)?)
    }

    fn step_max(&self) -> Duration {
        self.client.step_max()
    }
}

/// A form with a file, as browsers send it.
fn form(fields: &Fields<'_>, picture: &[u8]) -> Request {
    let texts = [("title", Some(fields.title)), ("body", Some(fields.body)), ("type", Some(fields.r#type))];
    let texts = texts.into_iter().chain([("tag", fields.tag.as_deref())]);
    let texts: Vec<_> = texts.filter_map(|(name, value)| Some((name, value?))).collect();
    let is_in = |boundary: &[u8], bytes: &[u8]| bytes.windows(boundary.len()).any(|window| window == boundary);
    // No part may hold the boundary.
    let mut number = 0_u64;
    let boundary = loop {
        let boundary = format!("spotter-{number:016x}");
        let mut parts = texts.iter().map(|(_, value)| value.as_bytes()).chain([picture]);
        if !parts.any(|part| is_in(boundary.as_bytes(), part)) {
            break boundary;
        }
        number += 1;
    };
    let mut body = Vec::with_capacity(picture.len() + 1024);
    for (name, value) in texts {
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(value.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    let file =
        "Content-Disposition: form-data; name=\"attachment\"; filename=\"picture.jpg\"\r\nContent-Type: image/jpeg";
    body.extend_from_slice(format!("--{boundary}\r\n{file}\r\n\r\n").as_bytes());
    body.extend_from_slice(picture);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Request { content_type: format!("multipart/form-data; boundary={boundary}"), headers: Vec::new(), body }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::sync::Arc;

    use spotter_engine::decide::{ChangeKind, Reason};
    use spotter_engine::picture::Picture;

    use super::super::notice::NoticePicture;
    use super::super::notice::tests::notice;
    use super::*;
    use crate::config::notify::{Credentials, Form, Http};

    fn apprise(tags: &[&str]) -> Apprise {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let message = Message { title: "Garage".to_owned(), tags, picture: true };
        let http = Http {
            form: Form::Webhook,
            url: "http://x/notify/key".to_owned(),
            credentials: Credentials::None,
            ca_file: None,
            retries: 0,
        };
        Apprise::new(Client::new(&http, Duration::from_secs(1)), &message)
    }

    #[test]
    fn messages_are_json() {
        let mut notice = notice(ChangeKind::State, 7, Some("door"), Some("open"), 10);
        let request = apprise(&[]).request(&notice).unwrap();
        assert_eq!(request.content_type, "application/json");
        assert_eq!(request.body, br#"{"title":"Garage","body":"door: open (87 %)","type":"info"}"#);
        notice.decision.change.reason = Some(Reason::SourceLost);
        let body = String::from_utf8(apprise(&["a", "b"]).request(&notice).unwrap().body).unwrap();
        assert!(body.ends_with(r#""type":"warning","tag":"a,b"}"#), "{body}");
    }

    #[test]
    fn pictures_are_attached_to_a_form() {
        // A label that holds the first boundary.
        let mut notice = notice(ChangeKind::Start, 7, None, Some("spotter-0000000000000000"), 10);
        let frame = Picture { width: 2, height: 2, rgb: vec![9; 12], transparent: None };
        let picture = NoticePicture::new(&frame);
        notice.picture = Some(Arc::new(picture.clone()));
        let request = apprise(&["a"]).request(&notice).unwrap();
        assert_eq!(request.content_type, "multipart/form-data; boundary=spotter-0000000000000001");
        let part = |name: &str, value: &str| {
            format!("--spotter-0000000000000001\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let texts = [
            part("title", "Garage"),
            part("body", "spotter-0000000000000000 (87 %)"),
            part("type", "info"),
            part("tag", "a"),
            "--spotter-0000000000000001\r\nContent-Disposition: form-data; name=\"attachment\"; filename=\"picture.jpg\"\r\n\
             Content-Type: image/jpeg\r\n\r\n"
                .to_owned(),
        ];
        let expected =
            [texts.concat().as_bytes(), &picture.jpeg().unwrap(), b"\r\n--spotter-0000000000000001--\r\n"].concat();
        assert_eq!(request.body, expected);
    }
}
