//! Splits a byte stream into JPEG images.

mod multi_picture;
mod steps;

use spotter_engine::picture::jpeg_marker::{EOI, SOS};

use self::multi_picture::Trailing;

/// Bytes of non-image data that are kept for messages.
const NOISE_BYTES: usize = 200;

/// Initial search budget: two searches of the longest segment.
const BUDGET_BYTES: u64 = 4 << 16;

/// Longest header of a multipart stream; a longer text between two images is something else.
const PART_HEADER_BYTES: u64 = 1024;

/// Splits a byte stream into JPEG images. It follows the images' segments, so that a thumbnail does not end its image.
///
/// An image ends with its end marker (EOI), at the start of the next image, or with the stream; a missing marker is added.
/// Stray bytes before a marker stay in the image, since decoders skip them. Images that belong to the one before
/// (Multi-Picture Format) are left out, as in a file.
///
/// Every byte is examined once. Segments of a wrong length are searched again, within a budget that grows with the bytes that
/// come in, so the time is linear in the stream whatever it holds.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
    /// Start of the current image, or of the search for one; bytes before it are consumed.
    start: usize,
    /// Scan position; bytes before it are parsed.
    at: usize,
    /// Position of `buffer` in the stream.
    base: u64,
    state: State,
    /// True if the current image has a scan; without one it has no pixels.
    has_scan: bool,
    /// The last segment of arbitrary content, until a marker was found after it.
    open_segment: Option<Segment>,
    /// Bytes of segments that may still be searched for images.
    budget: u64,
    /// Stream position up to which bytes were added to the budget.
    budgeted: u64,
    trailing: Trailing,
    max_frame_bytes: usize,
    garbage_bytes: u64,
    gap: Gap,
    skipped: Skipped,
    noise: Vec<u8>,
}

/// State of the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Outside of an image, looking for its start.
    Between,
    /// Expecting a marker.
    Marker,
    /// In a segment.
    Segment(Segment),
    /// In entropy-coded data, which ends at the first marker that is not a restart.
    Scan,
}

/// A marker segment; positions refer to the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    code: u8,
    /// Position of its marker.
    marker: usize,
    /// Position after it.
    end: usize,
}

/// Result of one step of the parser.
enum Step {
    /// It made progress.
    Again,
    /// It needs more bytes.
    More,
    /// The image ends before `end`; the search continues at `next`.
    Whole { end: usize, next: usize },
}

/// The bytes since the last image.
#[derive(Debug, Default)]
struct Gap {
    bytes: u64,
    /// Bytes that are neither text, as in a multipart header, nor padding.
    odd_bytes: u64,
    /// The bytes are the rest of a broken image, which was counted.
    is_rest: bool,
}

/// Images and bytes that were skipped since the last query.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Broken images.
    pub(super) images: u64,
    /// Bytes between images.
    pub(super) bytes: u64,
    /// Why the last image was broken.
    pub(super) reason: Option<&'static str>,
}

impl Splitter {
    /// Images of more than `max_frame_bytes` are skipped.
    pub(super) fn new(max_frame_bytes: usize) -> Self {
        Splitter {
            buffer: Vec::new(),
            start: 0,
            at: 0,
            base: 0,
            state: State::Between,
            has_scan: false,
            open_segment: None,
            budget: BUDGET_BYTES,
            budgeted: 0,
            trailing: Trailing::default(),
            max_frame_bytes,
            garbage_bytes: 0,
            gap: Gap::default(),
            skipped: Skipped::default(),
            noise: Vec::new(),
        }
    }

    /// Bytes that belonged to no whole image.
    pub(super) fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes
    }

    /// The first bytes since the last image that belong to no image.
    pub(super) fn noise(&self) -> Vec<u8> {
        let mut noise = self.noise.clone();
        if self.state == State::Between {
            let rest = &self.buffer[self.start..];
            noise.extend_from_slice(&rest[..rest.len().min(NOISE_BYTES - noise.len())]);
        }
        noise
    }

    /// Takes what was skipped since the last call; `None` if nothing was.
    pub(super) fn take_skipped(&mut self) -> Option<Skipped> {
        let skipped = std::mem::take(&mut self.skipped);
        (skipped != Skipped::default()).then_some(skipped)
    }

    /// Appends bytes of the stream. Take out all images before the next call, or they pile up.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let gone = self.start;
        self.buffer.drain(..gone);
        self.base += gone as u64;
        self.at -= gone;
        self.start = 0;
        let moved = |segment: Segment| Segment { marker: segment.marker - gone, end: segment.end - gone, ..segment };
        self.open_segment = self.open_segment.map(moved);
        if let State::Segment(segment) = self.state {
            self.state = State::Segment(moved(segment));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Replaces `frame` with the next image, from SOI to EOI; `false` if more bytes are needed.
    pub(super) fn take_frame(&mut self, frame: &mut Vec<u8>) -> bool {
        loop {
            let step = match self.state {
                State::Between => self.find_start(),
                State::Marker => self.marker(),
                State::Segment(segment) => self.segment(segment),
                State::Scan => self.scan(),
            };
            if self.state != State::Between && self.at - self.start > self.max_frame_bytes {
                self.give_up(self.at, "it is larger than an image may be");
                continue;
            }
            match step {
                Step::Again => {}
                Step::More => return false,
                Step::Whole { end, next } => {
                    if self.hand_on(frame, end, next) {
                        return true;
                    }
                }
            }
        }
    }

    /// After the last bytes: replaces `frame` with an image that the end of the stream ends. Call it until it returns `false`.
    pub(super) fn take_last(&mut self, frame: &mut Vec<u8>) -> bool {
        loop {
            if self.take_frame(frame) {
                return true;
            }
            let len = self.buffer.len();
            let end = match self.state {
                State::Between => {
                    self.skip_gap(len);
                    self.end_gap();
                    return false;
                }
                // The rest is too short to hold the start of another image.
                State::Segment(segment) if segment.end <= len => {
                    self.has_scan |= segment.code == SOS;
                    len
                }
                State::Segment(segment) => {
                    // A segment that reaches beyond the end is none, and images may lie in it.
                    if let Some(next) = self.image_in(Segment { end: len, ..segment }, true) {
                        if let Step::Whole { end, next } = self.cut(segment.marker, next)
                            && self.hand_on(frame, end, next)
                        {
                            return true;
                        }
                        continue;
                    }
                    segment.marker
                }
                State::Marker | State::Scan => len,
            };
            if !self.has_scan {
                self.give_up(len, "it ends before its pixels");
                return false;
            }
            return self.hand_on(frame, end, len);
        }
    }

    /// Copies the image before `end` to `frame`, with EOI; `false` if it belongs to the image before.
    fn hand_on(&mut self, frame: &mut Vec<u8>, end: usize, next: usize) -> bool {
        let is_trailing = self.trailing.is_one(self.base + self.start as u64);
        if !is_trailing {
            frame.clear();
            frame.extend_from_slice(&self.buffer[self.start..end]);
            if !frame.ends_with(&[0xFF, EOI]) {
                frame.extend([0xFF, EOI]);
            }
            self.noise.clear();
        }
        self.garbage_bytes += (next - end) as u64;
        self.gap = Gap::default();
        self.look_from(next, State::Between);
        !is_trailing
    }

    /// Continues at `to`.
    fn look_from(&mut self, to: usize, state: State) {
        (self.start, self.at, self.state) = (to, to, state);
        (self.has_scan, self.open_segment) = (false, None);
    }

    /// Counts an image as broken and the bytes before `to` as garbage, and searches for an image from there.
    fn give_up(&mut self, to: usize, reason: &'static str) {
        self.skipped.images += 1;
        self.skipped.reason = Some(reason);
        self.skip(to);
        self.gap = Gap { is_rest: true, ..Gap::default() };
        self.look_from(to, State::Between);
    }

    /// Counts the bytes before `to` as garbage.
    fn skip(&mut self, to: usize) {
        self.garbage_bytes += (to - self.start) as u64;
        let room = NOISE_BYTES - self.noise.len();
        self.noise.extend_from_slice(&self.buffer[self.start..to.min(self.start + room)]);
    }

    /// Counts the bytes before `to` as bytes between images.
    fn skip_gap(&mut self, to: usize) {
        self.skip(to);
        let odd = |byte: &&u8| !matches!(byte, 0x20..=0x7E | b'\r' | b'\n' | b'\t' | 0x00 | 0xFF);
        let bytes = &self.buffer[self.start..to];
        self.gap.odd_bytes += bytes.iter().filter(odd).count() as u64;
        self.gap.bytes += bytes.len() as u64;
        self.start = to;
        self.at = to;
    }

    /// At the start of an image or the end of the stream: counts bytes before it that should not be there.
    fn end_gap(&mut self) {
        let Gap { bytes, odd_bytes, is_rest } = std::mem::take(&mut self.gap);
        if !is_rest && (odd_bytes > 0 || bytes > PART_HEADER_BYTES) {
            self.skipped.bytes += bytes;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
