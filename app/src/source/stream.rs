//! MJPEG, concatenated JPEG files or multipart MJPEG from a pipe or a file.

mod splitter;

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use self::splitter::{Skipped, Splitter};
use super::found::found;
use super::{Frame, PixelFormat, Source, SourceError};
use crate::process::supervise::{fault_point, supervised};
use crate::process::{OnSet, Stop};

/// Time that a camera program gets to start the camera and measure the light before its first frame.
pub(crate) const FIRST_FRAME: Duration = Duration::from_secs(10);

/// Larger images are skipped: twice the size that a 64-megapixel camera writes.
pub(super) const MAX_FRAME_BYTES: usize = 32 << 20;

/// Bytes of one read: the size of a pipe's buffer.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// Maximum number of pieces in the queue; beyond it the writer has to wait.
const PIECES: usize = 4;

/// JPEG images from a reader. The reader runs on a thread of its own, since a read from a silent pipe cannot be woken; that
/// thread ends with the stream or the process.
pub(super) struct JpegStream {
    name: String,
    is_live: bool,
    /// `None` if frames may take any time.
    patience: Option<Patience>,
    messages: Receiver<Message>,
    /// Sends [`Message::Woken`].
    sender: SyncSender<Message>,
    /// Wakes the thread that waits for messages, once it waits for the first.
    woken_by: Option<OnSet>,
    /// The reader has ended or failed.
    ended: bool,
    /// When the last bytes arrived.
    arrived: Instant,
    /// Returns used pieces to the reader, so that nothing is allocated per piece.
    used: SyncSender<Vec<u8>>,
    splitter: Splitter,
    read_bytes: u64,
    /// Frames so far.
    frames: u64,
}

/// A message to the thread that waits for frames.
enum Message {
    /// Bytes, and when they were read.
    Piece(Vec<u8>, Instant),
    /// The reader failed.
    Failed(io::Error),
    /// The reader has ended.
    End,
    /// The loop was stopped.
    Woken,
}

/// Result of a wait for bytes.
enum Received {
    Piece(Vec<u8>, Instant),
    End,
    Stopped,
}

/// Time limits after which a stream counts as silent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the first frame.
    pub(super) first: Duration,
    /// For every other frame.
    pub(super) next: Duration,
}

impl JpegStream {
    /// Images from standard input. A pipe is reported as silent after `timeout`, and may still continue.
    pub(super) fn stdin(timeout: Duration) -> Self {
        // Frames of a pipe become outdated while they wait; those of a file do not.
        let is_file = std::fs::metadata("/dev/stdin").is_ok_and(|data| data.is_file());
        let patience = Patience { first: timeout.max(FIRST_FRAME), next: timeout };
        Self::new("standard input", io::stdin(), !is_file, (!is_file).then_some(patience))
    }

    pub(super) fn new(
        name: &str,
        reader: impl Read + Send + 'static,
        is_live: bool,
        patience: Option<Patience>,
    ) -> Self {
        let (sender, messages) = sync_channel(PIECES);
        let (used, reuse) = sync_channel(PIECES);
        let send = sender.clone();
        thread::spawn(move || supervised("reader", || read_pieces(reader, &send, &reuse)));
        JpegStream {
            name: name.to_owned(),
            is_live,
            patience,
            messages,
            sender,
            woken_by: None,
            ended: false,
            arrived: Instant::now(),
            used,
            splitter: Splitter::new(MAX_FRAME_BYTES),
            read_bytes: 0,
            frames: 0,
        }
    }

    /// Has `stop` wake the wait for bytes.
    fn wake_by(&mut self, stop: &Stop) {
        if self.woken_by.as_ref().is_none_or(|known| !known.stop().is_same(stop)) {
            let sender = self.sender.clone();
            // If the channel is full, there is a message to receive, so the wait ends anyway.
            self.woken_by = Some(stop.on_set(move || drop(sender.try_send(Message::Woken))));
        }
    }

    /// Waits for bytes; at most for `patience` since `began`.
    fn receive(&mut self, began: Instant, patience: Option<Duration>, stop: &Stop) -> Result<Received, SourceError> {
        loop {
            if stop.is_set() {
                return Ok(Received::Stopped);
            }
            if self.ended {
                return Ok(Received::End);
            }
            let message = match patience {
                Some(limit) if began.elapsed() >= limit => {
                    return Err(SourceError::Silent { name: self.name.clone(), limit });
                }
                Some(limit) => self.messages.recv_timeout(limit.saturating_sub(began.elapsed())),
                None => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(Message::Piece(bytes, arrived)) => return Ok(Received::Piece(bytes, arrived)),
                Ok(Message::Failed(source)) => {
                    self.ended = true;
                    return Err(SourceError::Read { name: self.name.clone(), source });
                }
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => self.ended = true,
                Ok(Message::Woken) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Describes the bytes since the last frame that belong to none, after the words `before`; empty if there are none.
    pub(super) fn found(&self, before: &str) -> String {
        found(before, &self.splitter.noise())
    }

    /// The end of a stream that never had a frame is an error.
    fn end(&self) -> Result<bool, SourceError> {
        match self.frames {
            0 => Err(SourceError::NoFrames {
                name: self.name.clone(),
                bytes: self.read_bytes,
                found: self.found(", which start with"),
                said: String::new(),
            }),
            _ => Ok(false),
        }
    }
}

/// Reads until the end, an error, or until the stream is dropped.
fn read_pieces(mut reader: impl Read, send: &SyncSender<Message>, reuse: &Receiver<Vec<u8>>) {
    fault_point("reader");
    loop {
        let mut piece = reuse.try_recv().unwrap_or_default();
        piece.resize(PIECE_BYTES, 0);
        let message = match reader.read(&mut piece) {
            Ok(0) => Message::End,
            Ok(len) => {
                piece.truncate(len);
                Message::Piece(piece, Instant::now())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Message::Failed(error),
        };
        let is_last = !matches!(message, Message::Piece(..));
        // Fails only when the stream was dropped.
        if send.send(message).is_err() || is_last {
            return;
        }
    }
}

/// Splits a whole stream into its JPEG images as a pipe is split; images of more than 32 MiB are left out. `pieces` are the
/// stream's bytes, divided in any way.
///
/// The loop reads a stream as it comes and does not call this. It is public so that a caller with a recording in memory, such
/// as a fuzz target, gets exactly the frames that the loop would.
pub fn split_jpegs<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut splitter, mut frame, mut frames) = (Splitter::new(MAX_FRAME_BYTES), Vec::new(), Vec::new());
    for piece in pieces {
        splitter.push(piece);
        while splitter.take_frame(&mut frame) {
            frames.push(frame.clone());
        }
    }
    while splitter.take_last(&mut frame) {
        frames.push(frame.clone());
    }
    frames
}

impl Source for JpegStream {
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError> {
        let mut start = Instant::now();
        let began = start;
        self.wake_by(stop);
        let patience = self.patience.map(|patience| if self.frames == 0 { patience.first } else { patience.next });
        while !self.splitter.take_frame(&mut frame.bytes) {
            if self.frames == 0 && self.splitter.garbage_bytes() > MAX_FRAME_BYTES as u64 {
                return self.end();
            }
            let (piece, arrived) = match self.receive(began, patience, stop)? {
                Received::Piece(piece, arrived) => (piece, arrived),
                Received::End if self.splitter.take_last(&mut frame.bytes) => break,
                Received::End => return self.end(),
                Received::Stopped => return Ok(false),
            };
            start = Instant::now();
            self.arrived = arrived;
            self.read_bytes += piece.len() as u64;
            self.splitter.push(&piece);
            // A piece that the reader has no room for is freed.
            let _ = self.used.try_send(piece);
        }
        frame.set_encoded(PixelFormat::Mjpeg);
        frame.captured = self.arrived;
        frame.capture_time = start.elapsed();
        self.frames += 1;
        Ok(true)
    }

    fn skipped(&mut self) -> Option<String> {
        let Skipped { images, bytes, reason } = self.splitter.take_skipped()?;
        let images = (images > 0).then(|| format!("{images} broken JPEG frames"));
        let bytes = (bytes > 0).then(|| format!("{bytes} bytes between frames"));
        let what: Vec<_> = images.into_iter().chain(bytes).collect();
        let reason = reason.map_or_else(String::new, |reason| format!(", the last because {reason}"));
        Some(format!("{}: {}{reason}", self.name, what.join(" and ")))
    }

    fn is_live(&self) -> bool {
        self.is_live
    }

    fn describe(&self) -> String {
        format!("{}: JPEG frames", self.name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::io::Cursor;

    use super::*;

    const TINY: [u8; 8] = [0xFF, 0xD8, 0xFF, 0xE0, 0, 2, 0xFF, 0xD9];

    #[test]
    fn frames_then_the_end() {
        let bytes = [&TINY[..], b"--boundary", &TINY, &TINY[..5]].concat();
        let mut source = JpegStream::new("test", Cursor::new(bytes), true, None);
        let (mut frame, stop) = (Frame::default(), Stop::new());
        for _ in 0..2 {
            assert!(source.next(&mut frame, &stop).unwrap());
            assert_eq!((frame.format, &frame.bytes[..]), (PixelFormat::Mjpeg, &TINY[..]));
        }
        assert!(!source.next(&mut frame, &stop).unwrap());
        assert!(source.is_live());
    }

    #[test]
    fn long_streams_are_split_whole() {
        let mut image = TINY[..2].to_vec();
        image.extend([&[0xFF, 0xDA, 0, 2][..], &vec![7; 3 * PIECE_BYTES], &[0xFF, 0xD9]].concat());
        let mut source = JpegStream::new("test", Cursor::new(image.repeat(40)), false, None);
        let (mut frame, stop, mut count) = (Frame::default(), Stop::new(), 0);
        while source.next(&mut frame, &stop).unwrap() {
            assert!(frame.bytes == image);
            count += 1;
        }
        assert_eq!((count, source.splitter.garbage_bytes()), (40, 0));
    }

    #[test]
    fn a_stream_without_frames_is_an_error() {
        for (bytes, name) in [(vec![], "empty"), (b"\0\0\0\x01\x67H264".to_vec(), "h264")] {
            let expected = format!("test: {} bytes without a JPEG frame", bytes.len());
            let mut source = JpegStream::new("test", Cursor::new(bytes), true, None);
            let error = source.next(&mut Frame::default(), &Stop::new()).unwrap_err();
            assert!(error.to_string().starts_with(&expected), "{name}: {error}");
        }
        let mut endless = JpegStream::new("test", io::repeat(7), true, None);
        assert!(matches!(endless.next(&mut Frame::default(), &Stop::new()), Err(SourceError::NoFrames { .. })));
    }

    #[test]
    fn a_silent_pipe_can_be_stopped() {
        struct Silent;
        impl Read for Silent {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                thread::sleep(Duration::from_secs(600));
                Ok(0)
            }
        }
        let mut source = JpegStream::new("test", Silent, true, None);
        let stop = Stop::new();
        let other = stop.clone();
        let thread = thread::spawn(move || source.next(&mut Frame::default(), &other).unwrap());
        stop.set();
        assert!(!thread.join().unwrap());
    }

    #[test]
    fn bytes_without_a_frame_count_as_silence_and_can_be_stopped() {
        /// Endless starts of images within segments.
        struct Endless(usize);
        impl Read for Endless {
            fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                const NESTED: [u8; 10] = [0xFF, 0xE0, 0, 8, 0xFF, 0xD8, 0xFF, 0xE0, 0, 2];
                for byte in bytes.iter_mut() {
                    *byte = NESTED[self.0 % NESTED.len()];
                    self.0 += 1;
                }
                Ok(bytes.len())
            }
        }
        let patience = Patience { first: Duration::from_secs(600), next: Duration::from_millis(60) };
        let mut source = JpegStream::new("test", Cursor::new(TINY).chain(Endless(0)), true, Some(patience));
        let (mut frame, stop) = (Frame::default(), Stop::new());
        assert!(source.next(&mut frame, &stop).unwrap());
        let error = source.next(&mut frame, &stop).unwrap_err();
        assert!(matches!(error, SourceError::Silent { .. }), "{error}");
        stop.set();
        assert!(!source.next(&mut frame, &stop).unwrap());
    }

    #[test]
    fn read_errors_are_passed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let mut source = JpegStream::new("test", Broken, true, None);
        let error = source.next(&mut Frame::default(), &Stop::new()).unwrap_err();
        assert_eq!(error.to_string(), "test: cannot read");
    }

    #[test]
    fn silence_is_reported_until_a_frame_comes() {
        let (reader, mut pipe) = io::pipe().unwrap();
        let patience = Patience { first: Duration::from_millis(60), next: Duration::from_millis(30) };
        let mut source = JpegStream::new("test", reader, true, Some(patience));
        let (mut frame, stop) = (Frame::default(), Stop::new());
        let silent = |source: &mut JpegStream, expected: Duration| {
            let began = Instant::now();
            let error = source.next(&mut Frame::default(), &stop).unwrap_err();
            // A busy machine may be late, never early.
            assert!(began.elapsed() >= expected);
            let SourceError::Silent { ref name, limit } = error else { panic!("{error}") };
            assert_eq!((name.as_str(), limit), ("test", expected));
        };
        silent(&mut source, patience.first);
        io::Write::write_all(&mut pipe, &TINY).unwrap();
        assert!(source.next(&mut frame, &Stop::new()).unwrap());
        for _ in 0..2 {
            silent(&mut source, patience.next);
        }
        // Half a frame is none.
        io::Write::write_all(&mut pipe, &TINY[..4]).unwrap();
        silent(&mut source, patience.next);
        io::Write::write_all(&mut pipe, &TINY[4..]).unwrap();
        assert!(source.next(&mut frame, &Stop::new()).unwrap());
        assert_eq!(frame.bytes, TINY);
    }
}
