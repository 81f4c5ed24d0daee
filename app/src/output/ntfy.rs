//! Notices to an ntfy server: a line of text, or a picture with the text in a header.

use std::time::Duration;

use super::http::{Client, Request};
use super::notice::{Failure, Notice, Sender};
use crate::config::notify::{Message, NtfyOptions};
use crate::process::Stop;

/// Publishes messages on a topic, which the address names.
#[derive(Debug)]
pub(crate) struct Ntfy {
    client: Client,
    message: Message,
    options: NtfyOptions,
}

impl Ntfy {
    /// Publishes by `client`.
    pub(crate) fn new(client: Client, message: &Message, options: &NtfyOptions) -> Self {
        Self { client, message: message.clone(), options: options.clone() }
    }

    fn request(&self, notice: &Notice) -> Result<Request, Failure> {
        let mut headers = vec![("X-Title", header(&self.message.title))];
        if !self.message.tags.is_empty() {
            headers.push(("X-Tags", header(&self.message.tags.join(","))));
        }
        headers.extend(self.options.priority.map(|priority| ("X-Priority", priority.to_string())));
        let text = notice.text();
        let Some(picture) = &notice.picture else {
            let content_type = "text/plain; charset=utf-8".to_owned();
            return Ok(Request { content_type, headers, body: text.into_bytes() });
        };
        let body = picture.jpeg().map_err(|error| Failure::lasting(format!("the picture: {error}")))?;
        headers.extend([("X-Message", header(&text)), ("X-Filename", "picture.jpg".to_owned())]);
        Ok(Request { content_type: "image/jpeg".to_owned(), headers, body })
    }
}

impl Sender for Ntfy {
    fn send(&mut self, notice: &Notice, _stop: &Stop) -> Result<(), Failure> {
        self.client.post(self.request(notice)?)
    }

    fn step_max(&self) -> Duration {
        self.client.step_max()
    }
}

/// A text as the value of a header. What is not ASCII is encoded by RFC 2047, which ntfy decodes.
fn header(text: &str) -> String {
    let is_plain = text.chars().all(|c| c.is_ascii_graphic() || c == ' ') && !text.starts_with("=?");
    if is_plain { text.to_owned() } else { format!("=?UTF-8?B?{}?=", base64::encode(text)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::sync::Arc;

    use spotter_engine::decide::ChangeKind;
    use spotter_engine::picture::Picture;

    use super::super::notice::NoticePicture;
    use super::super::notice::tests::notice;
    use super::*;
    use crate::config::notify::{Credentials, Form, Http};

    fn ntfy(title: &str, tags: &[&str], priority: Option<u32>) -> Ntfy {
        let message = Message {
            title: title.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            picture: true,
        };
        let http = Http {
            form: Form::Webhook,
            url: "http://x/topic".to_owned(),
            credentials: Credentials::None,
            ca_file: None,
            retries: 0,
        };
        Ntfy::new(Client::new(&http, Duration::from_secs(1)), &message, &NtfyOptions { priority })
    }

    #[test]
    fn the_text_is_the_body_unless_there_is_a_picture() {
        let mut notice = notice(ChangeKind::Start, 7, None, Some("Kätzchen"), 10);
        let request = ntfy("Garage", &["eyes", "cat"], Some(4)).request(&notice).unwrap();
        assert_eq!(request.body, "Kätzchen (87 %)".as_bytes());
        let expected = [("X-Title", "Garage"), ("X-Tags", "eyes,cat"), ("X-Priority", "4")];
        assert_eq!(request.headers, expected.map(|(name, value)| (name, value.to_owned())));
        let frame = Picture { width: 2, height: 2, rgb: vec![9; 12], transparent: None };
        notice.picture = Some(Arc::new(NoticePicture::new(&frame)));
        let request = ntfy("Tür", &[], None).request(&notice).unwrap();
        assert!(request.content_type == "image/jpeg" && request.body.starts_with(b"\xff\xd8"));
        let expected = [
            ("X-Title", "=?UTF-8?B?VMO8cg==?="),
            ("X-Message", "=?UTF-8?B?S8OkdHpjaGVuICg4NyAlKQ==?="),
            ("X-Filename", "picture.jpg"),
        ];
        assert_eq!(request.headers, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_text_that_looks_encoded_is_encoded() {
        assert_eq!(header("a b"), "a b");
        assert_eq!(header("=?UTF-8?B?eA==?="), "=?UTF-8?B?PT9VVEYtOD9CP2VBPT0/PQ==?=");
    }
}
