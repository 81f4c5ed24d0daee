//! `test://shapes`: drawn, animated coloured shapes with known labels.

mod outline;
mod random;
mod raster;
mod scene;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use self::scene::Scene;
use super::{Frame, Matrix, PixelFormat, Range, Source, SourceError};
use crate::process::Stop;

/// Options of the drawn shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapesOptions {
    /// Seed of everything random; each gives other images.
    pub seed: u64,
    /// Frames per second; 0 draws as fast as frames are taken and drops none.
    pub fps: u32,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Number of frames; `None` for no end.
    pub frames: Option<u64>,
    /// Frames per object, 1 or more.
    pub hold: u64,
}

impl ShapesOptions {
    /// Largest `fps`: no loop is faster.
    pub const MAX_FPS: u32 = 1000;
    /// Valid widths and heights: below there is nothing to see, and no camera gives more.
    pub const SIDES: RangeInclusive<usize> = 16..=4096;
}

impl Default for ShapesOptions {
    fn default() -> Self {
        ShapesOptions { seed: 0, fps: 30, width: 640, height: 480, frames: None, hold: 30 }
    }
}

impl fmt::Display for ShapesOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShapesOptions { seed, fps, width, height, frames, hold } = self;
        write!(f, "test://shapes?seed={seed}&fps={fps}&size={width}x{height}&hold={hold}")?;
        frames.map_or(Ok(()), |frames| write!(f, "&frames={frames}"))
    }
}

/// Draws frame `number` into `rgb` (`width * height * 3` bytes) and returns what it shows, such as `red circle`. The same
/// options and number give the same image. All 48 objects are drawn before one repeats.
pub fn draw(options: &ShapesOptions, number: u64, rgb: &mut Vec<u8>) -> String {
    let scene = Scene::new(options, number);
    rgb.resize(options.width * options.height * 3, 0);
    scene.background(number, options, rgb);
    raster::fill(&scene.outline(), scene.rgb, options.width, options.height, rgb);
    format!("{} {}", scene.color, scene.shape)
}

/// Draws frames at the rate of its options.
pub(super) struct Shapes {
    options: ShapesOptions,
    number: u64,
    due: Instant,
}

impl Shapes {
    pub(super) fn new(options: ShapesOptions) -> Self {
        Shapes { options, number: 0, due: Instant::now() }
    }

    /// Waits until the next frame is due. Returns whether it was stopped.
    fn pace(&mut self, stop: &Stop) -> bool {
        if self.options.fps == 0 {
            return stop.is_set();
        }
        let now = Instant::now();
        let period = Duration::from_secs(1) / self.options.fps;
        // After a pause frames go on from now; missed ones are not made up for.
        self.due = self.due.max(now.checked_sub(period).unwrap_or(now));
        let stopped = stop.sleep(self.due.saturating_duration_since(now));
        self.due += period;
        stopped
    }
}

impl Source for Shapes {
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError> {
        if self.options.frames.is_some_and(|frames| self.number >= frames) || self.pace(stop) {
            return Ok(false);
        }
        let start = Instant::now();
        frame.truth = Some(draw(&self.options, self.number, &mut frame.bytes));
        frame.format = PixelFormat::Rgb24;
        (frame.width, frame.height) = (self.options.width, self.options.height);
        frame.stride = self.options.width * 3;
        (frame.range, frame.matrix) = (Range::Full, Matrix::Bt601);
        frame.captured = Instant::now();
        frame.capture_time = start.elapsed();
        self.number += 1;
        Ok(true)
    }

    fn is_live(&self) -> bool {
        self.options.fps > 0
    }

    fn describe(&self) -> String {
        self.options.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
