//! Splits a byte stream into JPEG images.

mod multi_picture;

use self::multi_picture::Trailing;

use spotter_engine::picture::jpeg_marker::{APP0, APP2, APP15, COM, EOI, FILL, RST0, RST7, SOF0, SOI, SOS, STUFFED};

/// Bytes of non-image data that are kept for messages.
const NOISE_BYTES: usize = 200;

/// Initial search budget: two searches of the longest segment.
const BUDGET_BYTES: u64 = 4 << 16;

/// Largest search budget that is saved up.
const BUDGET_MAX_BYTES: u64 = 64 << 20;

/// Bytes that may be searched per byte that comes in.
const BUDGET_PER_BYTE: u64 = 4;

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

    /// Searches for SOI and the first byte of another marker; right after another image SOI is enough.
    fn find_start(&mut self) -> Step {
        let rest = &self.buffer[self.start..];
        let found = if self.gap.bytes == 0 && !self.gap.is_rest && rest.starts_with(&[0xFF, SOI]) {
            Some(0)
        } else {
            start_of_image(rest)
        };
        // The last two bytes may begin an image.
        self.skip_gap(self.start + found.unwrap_or(rest.len().saturating_sub(2)));
        if found.is_none() {
            return Step::More;
        }
        self.end_gap();
        self.begin(self.start);
        Step::Again
    }

    /// Begins an image at `start`.
    fn begin(&mut self, start: usize) {
        self.look_from(start, State::Marker);
        self.at += 2;
        self.trailing.begin(self.base + start as u64);
    }

    fn marker(&mut self) -> Step {
        let Some(&first) = self.buffer.get(self.at) else { return Step::More };
        if first != 0xFF {
            return self.stray();
        }
        let Some(&code) = self.buffer.get(self.at + 1) else { return Step::More };
        self.open_segment = None;
        match code {
            FILL => self.at += 1,
            SOI => return self.cut(self.at, self.at),
            EOI => {
                self.at += 2;
                return Step::Whole { end: self.at, next: self.at };
            }
            // Restart markers and reserved codes.
            STUFFED..SOF0 | RST0..=RST7 => self.at += 2,
            SOF0..=RST7 | SOS..FILL => {
                let Some(&[high, low, after]) = self.buffer.get(self.at + 2..self.at + 5) else { return Step::More };
                let length = usize::from(u16::from_be_bytes([high, low]));
                let (marker, end) = (self.at, self.at + 2 + length);
                if [high, low, after] == [0xFF, SOI, 0xFF] {
                    return self.cut(marker, marker + 2);
                }
                self.at += 2;
                // An invalid length is skipped like stray bytes.
                if length >= 2 {
                    self.state = State::Segment(Segment { code, marker, end });
                }
            }
        }
        Step::Again
    }

    /// Skips bytes that are no marker.
    fn stray(&mut self) -> Step {
        // After a segment they may mean that its length is wrong, as after a cut; then images lie in it.
        if let Some(segment) = self.open_segment.take()
            && let Some(next) = self.image_in(segment, false)
        {
            return self.cut(segment.marker, next);
        }
        let rest = &self.buffer[self.at..];
        self.at += rest.iter().position(|byte| *byte == 0xFF).unwrap_or(rest.len());
        Step::Again
    }

    /// Adds the bytes up to this position of the stream to the budget. Later bytes count later, so that the result does not
    /// depend on how the stream is divided.
    fn count_into_budget(&mut self, place: u64) {
        let bytes = place.saturating_sub(self.budgeted);
        self.budgeted += bytes;
        self.budget = (self.budget + BUDGET_PER_BYTE * bytes).min(BUDGET_MAX_BYTES);
    }

    /// Start of the first image within a segment of arbitrary content. `None` if all images in it also end in it, as
    /// thumbnails do, unless the segment is `cut`; and if the budget is spent.
    fn image_in(&mut self, segment: Segment, cut: bool) -> Option<usize> {
        let (from, end) = (segment.marker + 2, segment.end.min(self.buffer.len()));
        self.count_into_budget(self.base + end as u64);
        let content = self.buffer.get(from..end)?;
        if self.budget < 2 * content.len() as u64 {
            return None;
        }
        let first = start_of_image(content);
        self.budget -= first.unwrap_or(content.len()) as u64;
        let first = first?;
        if cut {
            return Some(from + first);
        }
        let last = content.windows(2).rposition(|pair| pair == [0xFF, SOI] || pair == [0xFF, EOI])?;
        self.budget -= (content.len() - last) as u64;
        (content[last + 1] == SOI).then_some(from + first)
    }

    fn segment(&mut self, segment: Segment) -> Step {
        let Segment { code, marker, end } = segment;
        if matches!(code, APP0..=APP15 | COM) {
            // Such a segment may hold anything, even images.
            if self.buffer.len() < end {
                return Step::More;
            }
            if code == APP2 && !self.has_scan {
                self.trailing.read(&self.buffer[marker + 4..end], self.base + marker as u64 + 4);
            }
            self.open_segment = Some(segment);
        } else {
            // Other segments cannot hold the start of an image; if one seems to, its end was lost.
            let seen = &self.buffer[self.at..self.buffer.len().min(end + 2)];
            if let Some(found) = start_of_image(seen).filter(|found| self.at + found < end) {
                return self.cut(marker, self.at + found);
            }
            self.at = end.min((self.at + seen.len()).saturating_sub(2).max(self.at));
            if self.at < end {
                return Step::More;
            }
        }
        self.at = end;
        self.has_scan |= code == SOS;
        self.state = if code == SOS { State::Scan } else { State::Marker };
        Step::Again
    }

    fn scan(&mut self) -> Step {
        let rest = &self.buffer[self.at..];
        let Some(found) = rest.iter().position(|&byte| byte == 0xFF) else {
            self.at = self.buffer.len();
            return Step::More;
        };
        self.at += found;
        match self.buffer.get(self.at + 1) {
            None => return Step::More,
            Some(&FILL) => self.at += 1,
            Some(&(STUFFED..SOF0 | RST0..=RST7)) => self.at += 2,
            Some(_) => self.state = State::Marker,
        }
        Step::Again
    }

    /// Ends the image before `end`; another one starts at `next`.
    fn cut(&mut self, end: usize, next: usize) -> Step {
        if self.has_scan {
            return Step::Whole { end, next };
        }
        self.give_up(next, "another one starts before its pixels");
        self.begin(next);
        Step::Again
    }
}

/// Position of the start of an image and the first byte of its next marker.
fn start_of_image(bytes: &[u8]) -> Option<usize> {
    bytes.windows(3).position(|window| window == [0xFF, SOI, 0xFF])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
