//! Cameras that are read by HTTP: MJPEG as multipart, as ESP32-CAM, ustreamer, go2rtc and mjpg-streamer send it, and pictures that
//! are fetched again and again. What else there is behind an address is left to ffmpeg.
//!
//! A thread connects and fetches, as neither can be woken; it ends within the client's time limits.

mod client;
mod digest;

use std::io::{Cursor, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::Response;
use ureq::http::header::CONTENT_TYPE;

use self::client::Client;
use super::address::Address;
use super::command::CommandSource;
use super::ffmpeg::{self, NETWORK_FIRST_FRAME};
use super::stream::{JpegStream, MAX_FRAME_BYTES, PIECE_BYTES, Patience};
use super::{CaptureOptions, Frame, PixelFormat, Source, SourceError};
use crate::process::supervise::spawn;
use crate::process::{OnSet, Stop};
use crate::secret::Credentials;

/// Shortest time between two requests for a picture: small cameras serve nobody else meanwhile.
const PICTURE_EVERY_MIN: Duration = Duration::from_millis(100);

/// A camera that is read by HTTP.
pub(super) struct HttpSource {
    name: String,
    /// What ffmpeg gets to know.
    address: Address,
    credentials: Option<Credentials>,
    options: CaptureOptions,
    messages: Receiver<Message>,
    /// Sends [`Message::Woken`].
    sender: SyncSender<Message>,
    woken_by: Option<OnSet>,
    state: State,
    /// Ends the thread that fetches.
    over: Stop,
}

/// What there is behind the address.
enum State {
    /// Not known yet.
    Connecting,
    /// Pictures.
    Pictures,
    /// A stream of JPEG images.
    Stream(Box<JpegStream>),
    /// Something that ffmpeg decodes.
    Decoder(Box<CommandSource>),
}

/// A message of the thread that fetches.
enum Message {
    /// The reader of a stream of JPEG images.
    Stream(Box<dyn Read + Send>),
    /// A picture, when it arrived, and how long it took.
    Picture(Vec<u8>, Instant, Duration),
    /// Neither images nor a page.
    Video,
    /// The camera cannot be reached, or refuses.
    Failed(SourceError),
    /// The loop was stopped.
    Woken,
}

/// What an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stream,
    Picture,
    Page,
    Video,
    /// Its bytes tell.
    Unknown,
}

impl HttpSource {
    /// Begins to connect.
    pub(super) fn open(
        address: &Address,
        credentials: Option<&Credentials>,
        options: &CaptureOptions,
    ) -> Result<Self, SourceError> {
        let client = Client::new(address, credentials, options.ca_file.as_deref())?;
        let (name, over) = (address.to_string(), Stop::new());
        let (sender, messages) = sync_channel(1);
        let every = Duration::from_secs(1).div_f64(f64::from(options.fps.max(1))).max(PICTURE_EVERY_MIN);
        let (send, ended) = (sender.clone(), over.clone());
        spawn("fetcher", move || fetch(client, every, &send, &ended))
            .map_err(|source| SourceError::Start { name: name.clone(), source })?;
        let (address, credentials, options) = (address.clone(), credentials.cloned(), options.clone());
        let (woken_by, state) = (None, State::Connecting);
        Ok(Self { name, address, credentials, options, messages, sender, woken_by, state, over })
    }

    fn patience(&self) -> Patience {
        let timeout = self.options.timeout;
        Patience { first: timeout.max(NETWORK_FIRST_FRAME), next: timeout }
    }

    /// Waits for a message; `None` when stopped.
    fn receive(&mut self, began: Instant, stop: &Stop) -> Result<Option<Message>, SourceError> {
        if self.woken_by.as_ref().is_none_or(|known| !known.stop().is_same(stop)) {
            let sender = self.sender.clone();
            // If the channel is full, there is a message to receive, so the wait ends anyway.
            self.woken_by = Some(stop.on_set(move || drop(sender.try_send(Message::Woken))));
        }
        let patience = self.patience();
        let limit = if matches!(self.state, State::Connecting) { patience.first } else { patience.next };
        loop {
            if stop.is_set() {
                return Ok(None);
            }
            let left = limit.saturating_sub(began.elapsed());
            match self.messages.recv_timeout(left) {
                Ok(Message::Woken) => {}
                Ok(message) => return Ok(Some(message)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(self.hung(limit)),
            }
        }
    }

    fn hung(&self, limit: Duration) -> SourceError {
        SourceError::Hung { name: self.name.clone(), limit, found: String::new(), said: String::new() }
    }

    /// A stream's errors, as those of a camera that is called again.
    fn judge(&self, result: Result<bool, SourceError>, stop: &Stop) -> Result<bool, SourceError> {
        let ended = |how: &str| SourceError::Ended {
            name: self.name.clone(),
            how: how.to_owned(),
            found: String::new(),
            said: String::new(),
        };
        match result {
            Ok(false) if !stop.is_set() => Err(ended("the camera closed the connection")),
            Err(SourceError::Silent { limit, .. }) => Err(self.hung(limit)),
            // The error of the client names neither the address nor what was sent.
            Err(SourceError::Read { source, .. }) => Err(ended(&source.to_string())),
            Err(SourceError::NoFrames { bytes, found, .. }) => Err(SourceError::Network {
                name: self.name.clone(),
                why: format!("{bytes} bytes without a JPEG frame{found}; check the path of the address"),
            }),
            other => other,
        }
    }
}

impl Source for HttpSource {
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError> {
        let began = Instant::now();
        loop {
            match &mut self.state {
                State::Stream(stream) => {
                    let result = stream.next(frame, stop);
                    return self.judge(result, stop);
                }
                State::Decoder(command) => return command.next(frame, stop),
                State::Connecting | State::Pictures => {}
            }
            match self.receive(began, stop)? {
                None | Some(Message::Woken) => return Ok(false),
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::Stream(reader)) => {
                    let stream = JpegStream::new(&self.name, reader, true, Some(self.patience()));
                    self.state = State::Stream(Box::new(stream));
                }
                Some(Message::Video) => {
                    let program = ffmpeg::network(&self.address, self.credentials.as_ref(), &self.options);
                    self.state = State::Decoder(Box::new(CommandSource::start(program)?));
                }
                Some(Message::Picture(bytes, captured, took)) => {
                    self.state = State::Pictures;
                    frame.set_encoded(PixelFormat::Encoded);
                    (frame.bytes, frame.captured, frame.capture_time) = (bytes, captured, took);
                    return Ok(true);
                }
            }
        }
    }

    fn skipped(&mut self) -> Option<String> {
        match &mut self.state {
            State::Stream(stream) => stream.skipped(),
            State::Decoder(command) => command.skipped(),
            State::Connecting | State::Pictures => None,
        }
    }

    fn is_live(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        let what = match &self.state {
            State::Connecting => "a network camera",
            State::Pictures => "pictures",
            State::Stream(_) => "JPEG frames",
            State::Decoder(_) => "JPEG frames of ffmpeg",
        };
        format!("{}: {what}", self.name)
    }
}

impl Drop for HttpSource {
    fn drop(&mut self) {
        self.over.set();
    }
}

/// Connects, and sends what there is; pictures until the source is dropped.
fn fetch(mut client: Client, every: Duration, send: &SyncSender<Message>, over: &Stop) {
    loop {
        let start = Instant::now();
        let message = fetch_once(&mut client, over);
        let is_picture = matches!(message, Message::Picture(..));
        // Fails only when the source was dropped.
        if send.send(message).is_err() || !is_picture || over.sleep(every.saturating_sub(start.elapsed())) {
            return;
        }
    }
}

/// Asks the camera once.
fn fetch_once(client: &mut Client, over: &Stop) -> Message {
    let start = Instant::now();
    let answer = match client.get() {
        Ok(answer) => answer,
        Err(error) => return Message::Failed(error),
    };
    let (kind, has_length) = (kind(&answer), answer.body().content_length().is_some());
    let mut body: Box<dyn Read + Send> = Box::new(answer.into_body().into_with_config().limit(u64::MAX).reader());
    let kind = match kind {
        Kind::Unknown => {
            let mut first = [0; 2];
            let is_jpeg = body.read_exact(&mut first).is_ok() && first == [0xFF, 0xD8];
            body = Box::new(Cursor::new(first).chain(body));
            if !is_jpeg {
                Kind::Video
            } else if has_length {
                Kind::Picture
            } else {
                Kind::Stream
            }
        }
        kind => kind,
    };
    match kind {
        Kind::Stream => Message::Stream(body),
        Kind::Video | Kind::Unknown => Message::Video,
        Kind::Page => {
            let why = "found a web page, expected pictures or a video; the address of the stream is needed, which the \
                       camera's manual or settings name";
            Message::Failed(client.error(why.to_owned()))
        }
        Kind::Picture => match picture(body, over) {
            Ok(bytes) => Message::Picture(bytes, Instant::now(), start.elapsed()),
            Err(why) => Message::Failed(client.error(why)),
        },
    }
}

/// Reads a picture to its end.
fn picture(mut body: impl Read, over: &Stop) -> Result<Vec<u8>, String> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    while !over.is_set() {
        match body.read(&mut piece) {
            Ok(0) if bytes.is_empty() => return Err("the picture is empty".to_owned()),
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => return Err(format!("the picture cannot be read: {error}")),
        }
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(format!("the picture has more than {MAX_FRAME_BYTES} bytes"));
        }
    }
    Ok(bytes)
}

/// What an answer says that it holds.
fn kind(answer: &Response<Body>) -> Kind {
    let value = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let value = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match value.as_str() {
        "" | "application/octet-stream" => Kind::Unknown,
        "video/mjpeg" | "video/x-mjpeg" | "video/x-motion-jpeg" | "image/x-motion-jpeg" => Kind::Stream,
        "text/html" | "application/xhtml+xml" => Kind::Page,
        _ if value.starts_with("multipart/") => Kind::Stream,
        _ if value.starts_with("image/") => Kind::Picture,
        _ => Kind::Video,
    }
}
