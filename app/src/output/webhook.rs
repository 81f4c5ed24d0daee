//! Notices to any server: the event as JSON, in the body of a POST.

use std::time::Duration;

use super::http::{Client, Request};
use super::json;
use super::notice::{Failure, Notice, Sender};
use crate::process::Stop;

/// Posts the event as JSON.
#[derive(Debug)]
pub(crate) struct Webhook {
    client: Client,
}

impl Webhook {
    /// Posts by `client`.
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Sender for Webhook {
    fn send(&mut self, notice: &Notice, _stop: &Stop) -> Result<(), Failure> {
        let body = json::decision(&notice.decision).map_err(|error| Failure::lasting(error.to_string()))?;
        self.client.post(Request { content_type: "application/json".to_owned(), body, ..Request::default() })
    }

    fn step_max(&self) -> Duration {
        self.client.step_max()
    }
}
