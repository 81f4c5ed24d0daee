//! Measures of a view: whether it is too dark, covered or blurred for any label to be judged, and whether it has changed.
//!
//! They are taken from a small image, whose shorter side has 48 cells: from each of red, green and blue, of which the one
//! that shows most counts, since outlines may be between colours of the same brightness. Bounds were chosen on 2,500
//! photographs (Flickr8k, Tiny-ImageNet, CIFAR-10) and the same ones degraded; their distance from every undegraded
//! photograph with sides of 64 pixels and more is given at each.

use std::hash::{DefaultHasher, Hasher as _};

use crate::picture::Picture;

/// Cells along the shorter side: details of this size are what a dual encoder needs to tell anything.
const CELLS: usize = 48;

/// Pixels of a cell that are looked at, along each side. The mean of 64 has an eighth of the noise of one.
const SAMPLES: usize = 8;

const CHANNELS: usize = 3;

/// The brightest parts of a dark view are below this, of 255. Undegraded photographs: 57 and more. Of photographs with a
/// tenth of their brightness, most are dark; with a twentieth, all.
const BRIGHTEST_MIN: f32 = 24.0;

/// The largest steps between neighbouring cells of a covered view are below this. Undegraded photographs: 33 and more.
/// Behind something that blurs by a quarter of the side, such as a finger on the lens or spider silk: 3 and less. Noise with a
/// deviation of 8 adds 4.
const STEP_MIN: f32 = 6.0;

/// The largest steps of a blurred view are below this share of its contrast. Undegraded photographs: 0.29 and more. Blurred
/// by a Gaussian with a deviation of 4% of the shorter side: half of them are below, with 6% nearly all.
const SHARPNESS_MIN: f32 = 0.16;

/// Share of cells that may be brighter than the brightness that is compared, such as lamps and reflections.
const LAMPS: f32 = 0.01;

/// Share of cells at each end that do not count for the contrast.
const ENDS: f32 = 0.02;

/// Share of steps that may be larger than the one that is compared.
const LARGER: f32 = 0.005;

/// Why nothing can be told from a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Even its brightest parts are nearly black.
    Dark,
    /// Nothing in it has an outline.
    Covered,
    /// All outlines are as wide as things are.
    Blurred,
}

/// Measures of a view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// Value that one cell in a hundred exceeds, 0 to 255.
    pub brightest: f32,
    /// Largest difference between neighbouring cells, but for one in two hundred, 0 to 255.
    pub step: f32,
    /// Such a difference as a share of the contrast, which is the difference between the brightest and the darkest cells, but
    /// for two in a hundred of each; 0 without outlines.
    pub sharpness: f32,
    /// Differs between images that differ in a pixel that is looked at.
    pub digest: u64,
}

impl View {
    /// The first flaw that the view has.
    pub fn flaw(&self) -> Option<Flaw> {
        if self.brightest < BRIGHTEST_MIN {
            Some(Flaw::Dark)
        } else if self.step < STEP_MIN {
            Some(Flaw::Covered)
        } else {
            (self.sharpness < SHARPNESS_MIN).then_some(Flaw::Blurred)
        }
    }
}

/// Measures views. Buffers are reused, so that images of one size allocate nothing once a first one was measured.
#[derive(Debug, Default)]
pub struct Viewer {
    /// Mean of each cell, 0 to 255, by rows; for red, green and blue.
    cells: [Vec<f32>; CHANNELS],
    steps: Vec<f32>,
}

impl Viewer {
    /// Measures an image.
    pub fn measure(&mut self, picture: &Picture) -> View {
        let shorter = picture.width.min(picture.height);
        // Smaller images are looked at as they are.
        let cells = |side: usize| if shorter > CELLS { side * CELLS / shorter } else { side };
        // Of panoramas, a part of the columns or rows is enough.
        let (columns, rows) = (cells(picture.width).min(8 * CELLS), cells(picture.height).min(8 * CELLS));
        let digest = self.shrink(picture, columns, rows);
        let mut view = View { brightest: 0.0, step: 0.0, sharpness: 0.0, digest };
        for channel in &mut self.cells {
            self.steps.clear();
            for (row, cells) in channel.chunks_exact(columns).enumerate() {
                self.steps.extend(cells.windows(2).map(|pair| (pair[0] - pair[1]).abs()));
                let below = channel.get((row + 1) * columns..).unwrap_or_default();
                self.steps.extend(cells.iter().zip(below).map(|(a, b)| (a - b).abs()));
            }
            let step = at_share(&mut self.steps, 1.0 - LARGER);
            let contrast = at_share(channel, 1.0 - ENDS) - at_share(channel, ENDS);
            view.brightest = view.brightest.max(at_share(channel, 1.0 - LAMPS));
            view.step = view.step.max(step);
            // Of a channel without outlines, noise is as steep as its contrast.
            if step >= STEP_MIN {
                view.sharpness = view.sharpness.max(step / contrast.max(1.0));
            }
        }
        view
    }

    /// Computes the means of the cells; returns the digest of what was looked at.
    fn shrink(&mut self, picture: &Picture, columns: usize, rows: usize) -> u64 {
        let Picture { width, height, rgb, .. } = picture;
        let mut hasher = DefaultHasher::new();
        hasher.write_usize(*width);
        self.cells.iter_mut().for_each(Vec::clear);
        for row in 0..rows {
            let (top, bottom) = (row * height / rows, (row + 1) * height / rows);
            for column in 0..columns {
                let (left, right) = (column * width / columns, (column + 1) * width / columns);
                let (mut sums, mut mixed) = ([0u32; CHANNELS], 0u64);
                let (down, across) = ((bottom - top).min(SAMPLES), (right - left).min(SAMPLES));
                for y in (0..down).map(|sample| top + sample * (bottom - top) / down) {
                    for x in (0..across).map(|sample| left + sample * (right - left) / across) {
                        let pixel = &rgb[CHANNELS * (y * width + x)..][..CHANNELS];
                        for (sum, value) in sums.iter_mut().zip(pixel) {
                            *sum += u32::from(*value);
                        }
                        let bits = u64::from(pixel[0]) << 16 | u64::from(pixel[1]) << 8 | u64::from(pixel[2]);
                        mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(bits);
                    }
                }
                hasher.write_u64(mixed);
                for (cells, sum) in self.cells.iter_mut().zip(sums) {
                    cells.push(sum as f32 / (down * across) as f32);
                }
            }
        }
        hasher.finish()
    }
}

/// The value that this share of all values is below; 0 if there are none. Changes the order of the values.
fn at_share(values: &mut [f32], share: f32) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let index = ((values.len() - 1) as f32 * share).round() as usize;
    *values.select_nth_unstable_by(index, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pseudo-random generator.
    struct Random(u64);

    impl Random {
        /// From 0 to 1.
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1 << 24) as f32
        }
    }

    const WIDTH: usize = 320;
    const HEIGHT: usize = 240;

    /// Rectangles of every size one over the other, as in natural scenes, which have as much contrast at one scale as at another.
    fn scene(random: &mut Random) -> Vec<f32> {
        let mut grey = vec![128.0; WIDTH * HEIGHT];
        for _ in 0..400 {
            let side = |random: &mut Random| ((4.0 / (random.next() + 0.02)) as usize).max(4);
            let (wide, high, value) = (side(random), side(random), 255.0 * random.next());
            let (left, top) = ((random.next() * WIDTH as f32) as usize, (random.next() * HEIGHT as f32) as usize);
            for y in top..(top + high).min(HEIGHT) {
                grey[y * WIDTH..][left..(left + wide).min(WIDTH)].fill(value);
            }
        }
        grey
    }

    /// Blurs along rows and columns by a box of `2 * radius + 1`, three times, which is close to a Gaussian.
    fn blurred(grey: &[f32], radius: usize) -> Vec<f32> {
        let mut values = grey.to_vec();
        for (count, length, step, stride) in [(HEIGHT, WIDTH, WIDTH, 1), (WIDTH, HEIGHT, 1, WIDTH)] {
            for line in 0..count {
                for _ in 0..3 {
                    let old: Vec<f32> = (0..length).map(|i| values[line * step + i * stride]).collect();
                    for i in 0..length {
                        let window = &old[i.saturating_sub(radius)..(i + radius + 1).min(length)];
                        values[line * step + i * stride] = window.iter().sum::<f32>() / window.len() as f32;
                    }
                }
            }
        }
        values
    }

    fn picture(grey: &[f32], noise: f32, random: &mut Random) -> Picture {
        let mut level = |value: f32| (value + 3.46 * noise * (random.next() - 0.5)).clamp(0.0, 255.0).round() as u8;
        let rgb = grey.iter().flat_map(|value| [level(*value); 3]).collect();
        Picture { width: WIDTH, height: HEIGHT, rgb, transparent: None }
    }

    #[test]
    fn scenes_have_no_flaw_until_they_are_degraded_far() {
        let (mut random, mut viewer) = (Random(1), Viewer::default());
        for number in 0..20 {
            let grey = scene(&mut random);
            let scaled = |factor: f32, offset: f32| grey.iter().map(|v| v * factor + offset).collect::<Vec<_>>();
            for (what, grey, expected) in [
                ("as it is", grey.clone(), None),
                ("at a third of the light", scaled(0.33, 0.0), None),
                ("in fog", scaled(0.3, 150.0), None),
                ("at a twentieth of the light", scaled(0.05, 0.0), Some(Flaw::Dark)),
                ("slightly out of focus", blurred(&grey, 1), None),
                ("out of focus by 7%", blurred(&grey, 17), Some(Flaw::Blurred)),
                ("behind a finger", blurred(&scaled(0.3, 60.0), 60), Some(Flaw::Covered)),
                ("behind a black cap", scaled(0.0, 3.0), Some(Flaw::Dark)),
                ("behind white paper", scaled(0.0, 230.0), Some(Flaw::Covered)),
            ] {
                for noise in [0.0, 4.0] {
                    let view = viewer.measure(&picture(&grey, noise, &mut random));
                    assert_eq!(view.flaw(), expected, "scene {number} {what}, noise {noise}: {view:?}");
                }
            }
        }
    }

    #[test]
    fn outlines_between_colours_of_one_brightness_are_seen() {
        let (mut viewer, mut random) = (Viewer::default(), Random(2));
        let mut picture = picture(&scene(&mut random), 0.0, &mut random);
        // 0.299 R + 0.587 G + 0.114 B is about 90 for both.
        for pixel in picture.rgb.chunks_exact_mut(3) {
            pixel.copy_from_slice(if pixel[0] < 128 { &[240, 30, 10] } else { &[20, 140, 20] });
        }
        assert_eq!(viewer.measure(&picture).flaw(), None);
    }

    #[test]
    fn every_pixel_that_is_looked_at_changes_the_digest() {
        let mut viewer = Viewer::default();
        let (width, height) = (31, 23);
        let mut picture = Picture { width, height, rgb: vec![90; 3 * width * height], transparent: None };
        let before = viewer.measure(&picture).digest;
        assert_eq!(viewer.measure(&picture).digest, before);
        for value in 0..picture.rgb.len() {
            picture.rgb[value] ^= 4;
            assert_ne!(viewer.measure(&picture).digest, before, "{value}");
            picture.rgb[value] ^= 4;
        }
    }

    #[test]
    fn any_size_is_measured() {
        let mut viewer = Viewer::default();
        for (width, height) in [(1, 1), (1, 700), (700, 1), (47, 48), (49, 50), (97, 400), (60_000, 49)] {
            let rgb = (0..3 * width * height).map(|i| if (i / 30) % 2 == 0 { 20 } else { 220 }).collect();
            let view = viewer.measure(&Picture { width, height, rgb, transparent: None });
            assert!(view.brightest >= 20.0 && view.step.is_finite() && view.sharpness.is_finite(), "{view:?}");
        }
    }
}
