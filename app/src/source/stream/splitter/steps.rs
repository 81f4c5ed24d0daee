//! The steps of the parser: from marker to marker through the segments and scans of an image.

use spotter_engine::picture::jpeg_marker::{APP0, APP2, APP15, COM, EOI, FILL, RST0, RST7, SOF0, SOI, SOS, STUFFED};

use super::{Segment, Splitter, State, Step};

/// Largest search budget that is saved up.
const BUDGET_MAX_BYTES: u64 = 64 << 20;

/// Bytes that may be searched per byte that comes in.
const BUDGET_PER_BYTE: u64 = 4;

impl Splitter {
    /// Searches for SOI and the first byte of another marker; right after another image SOI is enough.
    pub(super) fn find_start(&mut self) -> Step {
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

    pub(super) fn marker(&mut self) -> Step {
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
    pub(super) fn image_in(&mut self, segment: Segment, cut: bool) -> Option<usize> {
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

    pub(super) fn segment(&mut self, segment: Segment) -> Step {
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

    pub(super) fn scan(&mut self) -> Step {
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
    pub(super) fn cut(&mut self, end: usize, next: usize) -> Step {
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
