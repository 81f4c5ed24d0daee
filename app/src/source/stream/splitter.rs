//! Cuts a byte stream into JPEG images.

/// Second bytes of markers (ITU-T T.81, table B.1); the first is 0xFF.
const STUFFED: u8 = 0x00;
const TEM: u8 = 0x01;
const RST0: u8 = 0xD0;
const RST7: u8 = 0xD7;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const FILL: u8 = 0xFF;

/// Cuts a byte stream into JPEG images, following their segments, so that a thumbnail in one does not end the image.
/// What belongs to no whole image is skipped and counted.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
    /// Where the current image, or the search for one, starts; what is before it was given away.
    start: usize,
    /// What is before this was understood.
    at: usize,
    state: State,
    max_frame_bytes: usize,
    garbage_bytes: u64,
}

/// Where the scan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Outside of an image, looking for its start.
    Between,
    /// A marker must come.
    Marker,
    /// In entropy-coded data, which ends at the first marker that is no restart.
    Scan,
}

/// What one step of the scan found.
enum Step {
    /// It went on.
    Again,
    /// It needs more bytes.
    More,
    /// The image ends at `at`.
    Whole,
}

impl Splitter {
    /// Images of more than `max_frame_bytes` count as garbage.
    pub(super) fn new(max_frame_bytes: usize) -> Self {
        let state = State::Between;
        Splitter { buffer: Vec::new(), start: 0, at: 0, state, max_frame_bytes, garbage_bytes: 0 }
    }

    /// How many bytes belonged to no whole image.
    pub(super) fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes
    }

    /// Takes more of the stream in. Images are to be taken out before the next call, or they pile up.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.at -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Replaces `frame` by the next whole image; `false` when more bytes are needed.
    pub(super) fn take_frame(&mut self, frame: &mut Vec<u8>) -> bool {
        loop {
            let step = match self.state {
                State::Between => self.find_start(),
                State::Marker => self.marker(),
                State::Scan => self.scan(),
            };
            if self.at - self.start > self.max_frame_bytes {
                self.give_up(self.at);
                continue;
            }
            match step {
                Step::Again => {}
                Step::More => return false,
                Step::Whole => {
                    frame.clear();
                    frame.extend_from_slice(&self.buffer[self.start..self.at]);
                    self.start = self.at;
                    self.state = State::Between;
                    return true;
                }
            }
        }
    }

    /// After the last bytes: where a segment seems to reach beyond them, it was none, and images may lie where it was taken
    /// to be. Says whether to look for them.
    pub(super) fn end(&mut self) -> bool {
        let beyond = self.at > self.buffer.len();
        if beyond {
            self.give_up(self.start + 2);
        }
        beyond
    }

    /// Counts what is before `to` as garbage and looks for an image from there.
    fn give_up(&mut self, to: usize) {
        self.garbage_bytes += (to - self.start) as u64;
        (self.start, self.at, self.state) = (to, to, State::Between);
    }

    /// An image starts with SOI and the first byte of another marker.
    fn find_start(&mut self) -> Step {
        let rest = &self.buffer[self.start..];
        let found = rest.windows(3).position(|window| window == [0xFF, SOI, 0xFF]);
        // The last two bytes may be the first ones of a start.
        self.give_up(self.start + found.unwrap_or(rest.len().saturating_sub(2)));
        if found.is_none() {
            return Step::More;
        }
        self.at = self.start + 2;
        self.state = State::Marker;
        Step::Again
    }

    fn marker(&mut self) -> Step {
        let Some(&[first, code]) = self.buffer.get(self.at..self.at + 2) else { return Step::More };
        match (first, code) {
            (0xFF, FILL) => self.at += 1,
            (0xFF, TEM | RST0..=RST7) => self.at += 2,
            (0xFF, SOI) => self.begin_again(),
            (0xFF, EOI) => {
                self.at += 2;
                return Step::Whole;
            }
            (0xFF, STUFFED) | (..=0xFE, _) => self.give_up(self.start + 2),
            (0xFF, _) => {
                let Some(&[high, low]) = self.buffer.get(self.at + 2..self.at + 4) else { return Step::More };
                let segment_bytes = usize::from(u16::from_be_bytes([high, low]));
                // A segment that ends later than an image may is none.
                let longest = self.max_frame_bytes - (self.at + 2 - self.start).min(self.max_frame_bytes);
                if !(2..=longest).contains(&segment_bytes) {
                    self.give_up(self.start + 2);
                } else {
                    self.at += 2 + segment_bytes;
                    self.state = if code == SOS { State::Scan } else { State::Marker };
                }
            }
        }
        Step::Again
    }

    fn scan(&mut self) -> Step {
        let Some(rest) = self.buffer.get(self.at..) else { return Step::More };
        let Some(found) = rest.iter().position(|&byte| byte == 0xFF) else {
            self.at = self.buffer.len();
            return Step::More;
        };
        self.at += found;
        match self.buffer.get(self.at + 1) {
            None => return Step::More,
            Some(&FILL) => self.at += 1,
            Some(&(STUFFED | TEM | RST0..=RST7)) => self.at += 2,
            Some(_) => self.state = State::Marker,
        }
        Step::Again
    }

    /// Another image starts at `at`: the one before was cut off.
    fn begin_again(&mut self) {
        self.give_up(self.at);
        self.at += 2;
        self.state = State::Marker;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
