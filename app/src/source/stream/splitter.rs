//! Cuts a byte stream into JPEG images.

mod multi_picture;

use self::multi_picture::Trailing;

/// Second bytes of markers (ITU-T T.81, table B.1); the first is 0xFF.
const STUFFED: u8 = 0x00;
const RST0: u8 = 0xD0;
const RST7: u8 = 0xD7;
const SOF0: u8 = 0xC0;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const APP0: u8 = 0xE0;
const APP2: u8 = 0xE2;
const APP15: u8 = 0xEF;
const COM: u8 = 0xFE;
const FILL: u8 = 0xFF;

/// The first bytes that are no image, which messages show.
const NOISE_BYTES: usize = 200;

/// Two searches of the longest segment.
const BUDGET_BYTES: u64 = 4 << 16;

/// So much is kept for later.
const BUDGET_MAX_BYTES: u64 = 64 << 20;

/// Bytes that may be searched for each that comes in.
const BUDGET_PER_BYTE: u64 = 4;

/// A multipart header is shorter; a longer text between two images is something else.
const PART_HEADER_BYTES: u64 = 1024;

/// Cuts a byte stream into JPEG images, following their segments, so that a thumbnail in one does not end the image.
///
/// An image ends with its end marker (EOI), with the start of the next image, or with the stream; where the marker is
/// missing it is added. Stray bytes before a marker stay in the image, as decoders pass over them. Images that
/// the one before announces as its own (Multi-Picture Format) are left out, as they are of a file.
///
/// Every byte is looked at once, and some in a segment of a wrong length again, for which each byte that comes in allows a
/// few; so the time grows with the bytes, whatever they are.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
    /// Where the current image, or the search for one, starts; what is before it was given away.
    start: usize,
    /// What is before this was understood.
    at: usize,
    /// Where `buffer` starts in the stream.
    base: u64,
    state: State,
    /// Whether the current image has a scan: without one it shows nothing.
    has_scan: bool,
    /// The last segment whose content may be anything, while it is not known that a marker follows it.
    open_segment: Option<Segment>,
    /// Bytes of segments that may still be searched for images.
    budget: u64,
    /// What is before this place of the stream was counted into the budget.
    budgeted: u64,
    trailing: Trailing,
    max_frame_bytes: usize,
    garbage_bytes: u64,
    gap: Gap,
    skipped: Skipped,
    noise: Vec<u8>,
}

/// Where the scan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Outside of an image, looking for its start.
    Between,
    /// A marker must come.
    Marker,
    /// In a segment.
    Segment(Segment),
    /// In entropy-coded data, which ends at the first marker that is no restart.
    Scan,
}

/// A marker segment; positions are those of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    code: u8,
    /// Its marker.
    marker: usize,
    /// What follows it.
    end: usize,
}

/// What one step of the scan found.
enum Step {
    /// It went on.
    Again,
    /// It needs more bytes.
    More,
    /// The image ends before `end`; the search goes on at `next`.
    Whole { end: usize, next: usize },
}

/// The bytes since the last image.
#[derive(Debug, Default)]
struct Gap {
    bytes: u64,
    /// Those that are neither text, as in a multipart header, nor padding.
    odd_bytes: u64,
    /// They are the rest of an image that was counted.
    is_rest: bool,
}

/// What was left out since this was last asked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Images that were broken.
    pub(super) images: u64,
    /// Bytes between images.
    pub(super) bytes: u64,
    /// What was wrong with the last image.
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

    /// How many bytes belonged to no whole image.
    pub(super) fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes
    }

    /// The first bytes since the last image that belong to none.
    pub(super) fn noise(&self) -> Vec<u8> {
        let mut noise = self.noise.clone();
        if self.state == State::Between {
            let rest = &self.buffer[self.start..];
            noise.extend_from_slice(&rest[..rest.len().min(NOISE_BYTES - noise.len())]);
        }
        noise
    }

    /// What was left out since the last call; `None` where nothing was.
    pub(super) fn take_skipped(&mut self) -> Option<Skipped> {
        let skipped = std::mem::take(&mut self.skipped);
        (skipped != Skipped::default()).then_some(skipped)
    }

    /// Takes more of the stream in. Images are to be taken out before the next call, or they pile up.
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

    /// Replaces `frame` by the next image, from SOI to EOI; `false` when more bytes are needed.
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

    /// After the last bytes: says whether `frame` was replaced by an image that the end of the stream ends. To be called
    /// until it says no.
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
                // What follows it is too short to hold the start of another image.
                State::Segment(segment) if segment.end <= len => {
                    self.has_scan |= segment.code == SOS;
                    len
                }
                State::Segment(segment) => {
                    // A segment that reaches beyond the end was none, and images may lie where it was taken to be.
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

    /// Copies the image before `end` to `frame`, with EOI; `false` where it belongs to the one before.
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

    /// Goes on at `to`.
    fn look_from(&mut self, to: usize, state: State) {
        (self.start, self.at, self.state) = (to, to, state);
        (self.has_scan, self.open_segment) = (false, None);
    }

    /// Counts an image as broken and what is before `to` as garbage, and looks for an image from there.
    fn give_up(&mut self, to: usize, reason: &'static str) {
        self.skipped.images += 1;
        self.skipped.reason = Some(reason);
        self.skip(to);
        self.gap = Gap { is_rest: true, ..Gap::default() };
        self.look_from(to, State::Between);
    }

    /// Counts what is before `to` as garbage.
    fn skip(&mut self, to: usize) {
        self.garbage_bytes += (to - self.start) as u64;
        let room = NOISE_BYTES - self.noise.len();
        self.noise.extend_from_slice(&self.buffer[self.start..to.min(self.start + room)]);
    }

    /// Counts what is before `to` as bytes between images.
    fn skip_gap(&mut self, to: usize) {
        self.skip(to);
        let odd = |byte: &&u8| !matches!(byte, 0x20..=0x7E | b'\r' | b'\n' | b'\t' | 0x00 | 0xFF);
        let bytes = &self.buffer[self.start..to];
        self.gap.odd_bytes += bytes.iter().filter(odd).count() as u64;
        self.gap.bytes += bytes.len() as u64;
        self.start = to;
        self.at = to;
    }

    /// An image starts, or the stream ends: notes bytes before it that should not be there.
    fn end_gap(&mut self) {
        let Gap { bytes, odd_bytes, is_rest } = std::mem::take(&mut self.gap);
        if !is_rest && (odd_bytes > 0 || bytes > PART_HEADER_BYTES) {
            self.skipped.bytes += bytes;
        }
    }

    /// An image starts with SOI and the first byte of another marker; right behind another image SOI will do.
    fn find_start(&mut self) -> Step {
        let rest = &self.buffer[self.start..];
        let found = if self.gap.bytes == 0 && !self.gap.is_rest && rest.starts_with(&[0xFF, SOI]) {
            Some(0)
        } else {
            start_of_image(rest)
        };
        // The last two bytes may be the first ones of a start.
        self.skip_gap(self.start + found.unwrap_or(rest.len().saturating_sub(2)));
        if found.is_none() {
            return Step::More;
        }
        self.end_gap();
        self.begin(self.start);
        Step::Again
    }

    /// An image starts at `start`.
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
            // Restarts, and what has no meaning.
            STUFFED..SOF0 | RST0..=RST7 => self.at += 2,
            SOF0..=RST7 | SOS..FILL => {
                let Some(&[high, low, after]) = self.buffer.get(self.at + 2..self.at + 5) else { return Step::More };
                let length = usize::from(u16::from_be_bytes([high, low]));
                let (marker, end) = (self.at, self.at + 2 + length);
                if [high, low, after] == [0xFF, SOI, 0xFF] {
                    return self.cut(marker, marker + 2);
                }
                self.at += 2;
                // A length that cannot be is passed over like stray bytes.
                if length >= 2 {
                    self.state = State::Segment(Segment { code, marker, end });
                }
            }
        }
        Step::Again
    }

    /// Passes over bytes that are no marker.
    fn stray(&mut self) -> Step {
        // Where they follow a segment, its length may be wrong, as after a cut; then images lie in it.
        if let Some(segment) = self.open_segment.take()
            && let Some(next) = self.image_in(segment, false)
        {
            return self.cut(segment.marker, next);
        }
        let rest = &self.buffer[self.at..];
        self.at += rest.iter().position(|byte| *byte == 0xFF).unwrap_or(rest.len());
        Step::Again
    }

    /// Counts the bytes before this place of the stream into the budget; those that came in behind it count later, so that
    /// what is found does not depend on the size of the pieces.
    fn count_into_budget(&mut self, place: u64) {
        let bytes = place.saturating_sub(self.budgeted);
        self.budgeted += bytes;
        self.budget = (self.budget + BUDGET_PER_BYTE * bytes).min(BUDGET_MAX_BYTES);
    }

    /// Where the first image starts that a segment of any content holds; not where all of them end in it too, as
    /// thumbnails do, unless the segment is `cut`. `None` too where the budget is spent.
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
            // Such a segment may hold anything, images included.
            if self.buffer.len() < end {
                return Step::More;
            }
            if code == APP2 && !self.has_scan {
                self.trailing.read(&self.buffer[marker + 4..end], self.base + marker as u64 + 4);
            }
            self.open_segment = Some(segment);
        } else {
            // No other can hold the start of an image; where it seems to, its end was lost.
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

    /// The image ends before `end`, and another one starts at `next`.
    fn cut(&mut self, end: usize, next: usize) -> Step {
        if self.has_scan {
            return Step::Whole { end, next };
        }
        self.give_up(next, "another one starts before its pixels");
        self.begin(next);
        Step::Again
    }
}

/// Where bytes hold the start of an image and the first byte of its next marker.
fn start_of_image(bytes: &[u8]) -> Option<usize> {
    bytes.windows(3).position(|window| window == [0xFF, SOI, 0xFF])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
