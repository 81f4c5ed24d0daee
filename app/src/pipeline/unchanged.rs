//! Detects frames that show the same as the last labelled one, by a thumbnail of each.

use std::time::{Duration, Instant};

use spotter_engine::picture::Picture;

/// Columns of the thumbnail. A cell of a 640 x 480 frame is the mean of 20 x 20 pixels, which removes most sensor noise and
/// keeps objects that are a few pixels wide.
const COLUMNS: usize = 32;

/// Rows of the thumbnail.
const ROWS: usize = 24;

/// Red, green and blue, since an object may change its colour and keep its brightness.
const CHANNELS: usize = 3;

/// Longest reuse of scores, which bounds the delay of changes that the thumbnail does not show.
const KEPT_MAX: Duration = Duration::from_secs(2);

type Thumbnail = [f32; ROWS * COLUMNS * CHANNELS];

/// Compares frames with the last one that the model scored, not with the previous one: a slow change is noticed as soon as
/// the frame differs enough from the scored one.
#[derive(Debug)]
pub(crate) struct Unchanged {
    /// Grey levels at which a cell counts as different, in any channel.
    threshold: f32,
    small: Box<Thumbnail>,
    kept: Box<Thumbnail>,
    /// Size of the kept image, and when it was kept.
    kept_of: Option<(usize, usize, Instant)>,
    /// Size of the last image.
    size: (usize, usize),
}

impl Unchanged {
    /// Frames count as the same if no cell differs by `threshold` grey levels (0 to 255) or more.
    pub(crate) fn new(threshold: f32) -> Self {
        let empty = || Box::new([0.0; ROWS * COLUMNS * CHANNELS]);
        Self { threshold, small: empty(), kept: empty(), kept_of: None, size: (0, 0) }
    }

    /// Returns whether `picture` shows the same as the kept image, which is not too old.
    pub(crate) fn is_same(&mut self, picture: &Picture, now: Instant) -> bool {
        shrink(picture, &mut self.small);
        self.size = (picture.width, picture.height);
        let Some((width, height, at)) = self.kept_of else { return false };
        let fresh = (width, height) == self.size && now.saturating_duration_since(at) < KEPT_MAX;
        fresh && self.small.iter().zip(self.kept.iter()).all(|(a, b)| (a - b).abs() < self.threshold)
    }

    /// Keeps the last image, which is about to be scored.
    pub(crate) fn keep(&mut self, now: Instant) {
        std::mem::swap(&mut self.small, &mut self.kept);
        self.kept_of = Some((self.size.0, self.size.1, now));
    }
}

/// Writes the mean of each cell: rows, columns, channels. Every pixel belongs to one cell; images with fewer pixels than cells
/// leave some cells empty.
fn shrink(picture: &Picture, small: &mut Thumbnail) {
    let Picture { width, height, rgb, .. } = picture;
    for (row, cells) in small.chunks_exact_mut(COLUMNS * CHANNELS).enumerate() {
        let (top, bottom) = (row * height / ROWS, (row + 1) * height / ROWS);
        for (column, cell) in cells.chunks_exact_mut(CHANNELS).enumerate() {
            let (left, right) = (column * width / COLUMNS, (column + 1) * width / COLUMNS);
            let mut sums = [0u32; CHANNELS];
            for y in top..bottom {
                for pixel in rgb[CHANNELS * (y * width + left)..CHANNELS * (y * width + right)].chunks_exact(CHANNELS) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += u32::from(*value);
                    }
                }
            }
            // A sum fits: the largest image has five times 2^32 / 255 pixels, and there are 768 cells.
            let count = ((bottom - top) * (right - left)).max(1) as f32;
            for (mean, sum) in cell.iter_mut().zip(sums) {
                *mean = sum as f32 / count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{ShapesOptions, draw_shapes};

    /// A pseudo-random generator.
    struct Spread(u64);

    impl Spread {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % end
        }
    }

    const WIDTH: usize = 640;
    const HEIGHT: usize = 480;

    fn grey(value: u8) -> Picture {
        Picture { width: WIDTH, height: HEIGHT, rgb: vec![value; WIDTH * HEIGHT * 3], transparent: None }
    }

    /// Sensor noise of about `level` grey levels.
    fn noisy(picture: &Picture, level: usize, spread: &mut Spread) -> Picture {
        let mut noisy = picture.clone();
        for value in &mut noisy.rgb {
            let offset = spread.below(2 * level + 1) as i16 - level as i16;
            *value = (i16::from(*value) + offset).clamp(0, 255) as u8;
        }
        noisy
    }

    fn paint(picture: &mut Picture, left: usize, top: usize, side: usize, color: [u8; 3]) {
        for y in top..top + side {
            for x in left..left + side {
                picture.rgb[3 * (y * WIDTH + x)..][..3].copy_from_slice(&color);
            }
        }
    }

    /// Returns whether the second image counts as the same.
    fn same(first: &Picture, second: &Picture) -> bool {
        let (mut unchanged, now) = (Unchanged::new(4.0), Instant::now());
        assert!(!unchanged.is_same(first, now), "nothing to compare with yet");
        unchanged.keep(now);
        unchanged.is_same(second, now)
    }

    #[test]
    fn noise_is_no_change() {
        let mut spread = Spread(1);
        for level in [0, 2, 8, 16] {
            let picture = grey(120);
            assert!(same(&noisy(&picture, level, &mut spread), &noisy(&picture, level, &mut spread)), "{level}");
        }
    }

    #[test]
    fn small_objects_anywhere_are_a_change() {
        let mut spread = Spread(2);
        // Worst case: a side of 20 pixels over the corner of four cells fills a quarter of each.
        for (side, contrast) in [(20, 17), (20, 60), (12, 60), (40, 20)] {
            for _ in 0..40 {
                let before = noisy(&grey(100), 3, &mut spread);
                let mut after = noisy(&grey(100), 3, &mut spread);
                let (left, top) = (spread.below(WIDTH - side), spread.below(HEIGHT - side));
                paint(&mut after, left, top, side, [100 + contrast; 3]);
                assert!(!same(&before, &after), "{side} pixels, {contrast} levels at {left}, {top}");
            }
        }
    }

    #[test]
    fn a_colour_of_the_same_brightness_is_a_change() {
        let (mut red, mut green) = (grey(80), grey(80));
        paint(&mut red, 300, 200, 60, [170, 0, 0]);
        // 0.299 R = 0.587 G.
        paint(&mut green, 300, 200, 60, [0, 87, 0]);
        assert!(!same(&red, &green));
    }

    #[test]
    fn a_slow_change_adds_up() {
        let (mut unchanged, now) = (Unchanged::new(4.0), Instant::now());
        let mut looks = Vec::new();
        for value in 100..112u8 {
            if !unchanged.is_same(&grey(value), now) {
                unchanged.keep(now);
                looks.push(value);
            }
        }
        assert_eq!(looks, [100, 104, 108]);
    }

    #[test]
    fn scores_expire() {
        let (mut unchanged, start) = (Unchanged::new(4.0), Instant::now());
        let picture = grey(50);
        unchanged.is_same(&picture, start);
        unchanged.keep(start);
        for (after, expected) in [(0, true), (1999, true), (2000, false), (9000, false)] {
            assert_eq!(unchanged.is_same(&picture, start + Duration::from_millis(after)), expected, "{after} ms");
        }
    }

    #[test]
    fn other_sizes_are_a_change_and_tiny_ones_work() {
        for (width, height) in [(1, 1), (31, 23), (320, 240), (641, 481)] {
            let picture = Picture { width, height, rgb: vec![50; width * height * 3], transparent: None };
            assert!(!same(&grey(50), &picture), "{width} x {height}");
            assert!(same(&picture, &picture), "{width} x {height}");
        }
    }

    /// The first frame of a new scene never counts as the same.
    #[test]
    fn a_changed_scene_is_seen_in_its_first_frame() {
        let options = ShapesOptions { hold: 1, width: WIDTH, height: HEIGHT, ..ShapesOptions::default() };
        let (mut unchanged, mut spread, now) = (Unchanged::new(4.0), Spread(3), Instant::now());
        let (mut reused, mut scene) = (0, grey(0));
        for number in 0..200 {
            draw_shapes(&options, number / 4, &mut scene.rgb);
            let same = unchanged.is_same(&noisy(&scene, 3, &mut spread), now);
            assert!(!(same && number % 4 == 0), "frame {number} shows another scene");
            if same {
                reused += 1;
            } else {
                unchanged.keep(now);
            }
        }
        assert_eq!(reused, 150, "three of each four frames show the same");
    }
}
