//! The scene of a frame: one object on a background, both chosen by the seed.

use std::f32::consts::TAU;

use super::ShapesOptions;
use super::outline::Shape;
use super::random::Random;

/// Names and values of the colours.
const COLORS: [(&str, [u8; 3]); 8] = [
    ("red", [215, 35, 35]),
    ("green", [35, 160, 60]),
    ("blue", [40, 70, 215]),
    ("yellow", [240, 220, 40]),
    ("orange", [245, 140, 25]),
    ("purple", [130, 45, 165]),
    ("white", [245, 245, 245]),
    ("black", [15, 15, 15]),
];

/// Every shape in every colour.
const OBJECTS: usize = COLORS.len() * Shape::ALL.len();

/// Smallest sum of channel differences between background and object, so that the object is visible.
const MIN_CONTRAST: i32 = 160;

/// Relative amplitude of the radius.
const PULSE: f32 = 0.04;

/// Rows of an image whose noise has a grain of one pixel; larger images have coarser noise.
const GRAIN_ROWS: usize = 144;

/// Number of different noise values; a power of two.
const NOISE_VALUES: usize = 4096;

/// One object at one moment.
pub(super) struct Scene {
    pub(super) color: &'static str,
    pub(super) shape: Shape,
    /// The drawn colour, a little off the named one.
    pub(super) rgb: [u8; 3],
    center: (f32, f32),
    radius: f32,
    tilt: f32,
    ground: [u8; 3],
    /// Brightness added from the top (negative) to the bottom row (positive).
    gradient: f32,
    /// Standard deviation of the noise.
    noise: f32,
}

impl Scene {
    pub(super) fn new(options: &ShapesOptions, number: u64) -> Self {
        let hold = options.hold.max(1);
        let (object, phase) = (number / hold, (number % hold) as f32 / hold as f32);
        let (color, shape) = pick(options.seed, object);
        let (color, named) = COLORS[color];
        let mut random = Random::new([options.seed, object, 1]);
        let rgb = named.map(|value| (f32::from(value) + 12.0 * random.normal()).clamp(0.0, 255.0) as u8);
        let ground = ground(&mut random, named);
        let plain = random.unit() < 0.75;
        let (noise, gradient) = (random.between(3.0, 25.0), random.between(-60.0, 60.0));

        // The square root makes large objects more common.
        let small = options.width.min(options.height) as f32;
        let mean_radius = small * (0.16 + 0.28 * random.unit().sqrt());
        let tilt = 0.2 * random.normal();
        let wave = (TAU * (phase + random.unit())).sin();
        let radius = mean_radius * (1.0 + PULSE * wave);
        let reach = mean_radius * (1.0 + PULSE) * Shape::REACH;
        let glide = phase * phase * (3.0 - 2.0 * phase);
        let center = [options.width, options.height].map(|side| {
            let room = (side as f32 - 2.0 * reach).max(0.0);
            let from = random.unit();
            let to = (from + random.between(-0.5, 0.5)).clamp(0.0, 1.0);
            (side as f32 - room) / 2.0 + room * (from + (to - from) * glide)
        });
        Scene {
            color,
            shape,
            rgb,
            center: (center[0], center[1]),
            radius,
            tilt: tilt + 0.06 * wave,
            ground,
            gradient: if plain { 0.0 } else { gradient },
            noise: if plain { 0.0 } else { noise },
        }
    }

    /// The object's corners in the image.
    pub(super) fn outline(&self) -> Vec<(f32, f32)> {
        let (sin, cos) = self.tilt.sin_cos();
        let place = |(x, y): (f32, f32)| {
            (self.center.0 + self.radius * (x * cos - y * sin), self.center.1 + self.radius * (x * sin + y * cos))
        };
        self.shape.corners().into_iter().map(place).collect()
    }

    /// Paints the background over the whole image.
    pub(super) fn background(&self, number: u64, options: &ShapesOptions, rgb: &mut [u8]) {
        let row_bytes = options.width * 3;
        if self.noise == 0.0 {
            for pixel in rgb.chunks_exact_mut(3) {
                pixel.copy_from_slice(&self.ground);
            }
            return;
        }
        let mut random = Random::new([options.seed, number, 2]);
        let values: Vec<i16> = (0..NOISE_VALUES).map(|_| (self.noise * random.normal()) as i16).collect();
        let grain = (options.height / GRAIN_ROWS).max(1);
        let mut noise = vec![0; options.width];
        for (y, row) in rgb.chunks_exact_mut(row_bytes).enumerate() {
            if y % grain == 0 {
                let from = random.below(NOISE_VALUES);
                for (i, cell) in noise.chunks_mut(grain).enumerate() {
                    cell.fill(values[(from + i) % NOISE_VALUES]);
                }
            }
            let lift = self.gradient * (2.0 * y as f32 / options.height as f32 - 1.0);
            let base = self.ground.map(|value| i16::from(value) + lift as i16);
            for (pixel, noise) in row.chunks_exact_mut(3).zip(&noise) {
                for (value, base) in pixel.iter_mut().zip(base) {
                    *value = (base + noise).clamp(0, 255) as u8;
                }
            }
        }
    }
}

/// Colour and shape of an object: all combinations in a shuffled order, then again in another one.
fn pick(seed: u64, object: u64) -> (usize, Shape) {
    let mut order: [usize; OBJECTS] = std::array::from_fn(|i| i);
    let mut random = Random::new([seed, object / OBJECTS as u64, 0]);
    for i in (1..OBJECTS).rev() {
        order.swap(i, random.below(i + 1));
    }
    let index = order[(object % OBJECTS as u64) as usize];
    (index % COLORS.len(), Shape::ALL[index / COLORS.len()])
}

/// A random background on which the object is visible.
fn ground(random: &mut Random, object: [u8; 3]) -> [u8; 3] {
    loop {
        let ground = [(); 3].map(|()| random.below(256) as u8);
        let contrast = ground.iter().zip(object).map(|(a, b)| (i32::from(*a) - i32::from(b)).abs()).sum::<i32>();
        if contrast > MIN_CONTRAST {
            return ground;
        }
    }
}
