//! Images with the spectra of photographs: discs of all sizes that cover each other ("dead leaves"), texture whose
//! amplitude falls with its frequency, uneven light, and the noise of a sensor.

use spotter_engine::picture::Picture;

use super::Random;

/// Number of images: four of each kind of light.
pub(super) const IMAGES: usize = 24;

/// Discs of a scene. Later ones cover earlier ones.
const DISCS: usize = 60;

/// Light and noise of a scene.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Brightness at which the scene is centred, 0 to 255.
    level: f32,
    contrast: f32,
    /// Largest deviation of a pixel by the sensor's noise.
    noise: f32,
    discs: usize,
}

/// Daylight, dark, bright, noisy, plain, and almost uniform scenes.
const LOOKS: [Look; 6] = [
    Look { level: 120.0, contrast: 1.0, noise: 4.0, discs: DISCS },
    Look { level: 22.0, contrast: 0.15, noise: 6.0, discs: DISCS },
    Look { level: 235.0, contrast: 0.35, noise: 3.0, discs: DISCS },
    Look { level: 100.0, contrast: 0.7, noise: 60.0, discs: DISCS },
    Look { level: 140.0, contrast: 0.5, noise: 3.0, discs: 2 },
    Look { level: 128.0, contrast: 0.05, noise: 2.0, discs: 0 },
];

/// Scenes of the given height and width; the same on every machine.
pub(super) fn images(size: [usize; 2]) -> Vec<Picture> {
    (0..IMAGES).map(|index| scene(index as u32, LOOKS[index % LOOKS.len()], size)).collect()
}

/// Number of [`others`].
const OTHERS: usize = 42;

/// Scenes that are none of [`images`].
pub(super) fn others(size: [usize; 2]) -> Vec<Picture> {
    (IMAGES..IMAGES + OTHERS).map(|index| scene(index as u32, LOOKS[index % LOOKS.len()], size)).collect()
}

fn scene(seed: u32, look: Look, [height, width]: [usize; 2]) -> Picture {
    let mut random = Random(seed.wrapping_mul(2_654_435_761).wrapping_add(17));
    for _ in 0..3 {
        random.share();
    }
    let side = height.max(width) as f32;
    let ground = [(); 3].map(|()| random.share() * 255.0 - 127.0);
    let discs: Vec<Disc> = (0..look.discs).map(|_| Disc::new(&mut random, side)).collect();
    let texture = Texture::new(&mut random);
    let slope = [random.share() - 0.5, random.share() - 0.5];
    let mut rgb = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            let at = [x as f32, y as f32];
            let top = discs.iter().rev().find(|disc| disc.covers(at));
            let colour = top.map_or(ground, |disc| disc.colour);
            let light = 1.0 + slope[0] * (at[0] / side - 0.5) + slope[1] * (at[1] / side - 0.5);
            let texture = texture.at(at[0] / side, at[1] / side) * 60.0;
            for channel in colour {
                let noise = (random.share() + random.share() - 1.0) * look.noise;
                let value = (look.level + (channel + texture) * look.contrast) * light + noise;
                rgb.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    Picture { width, height, rgb, transparent: None }
}

#[derive(Debug)]
struct Disc {
    centre: [f32; 2],
    radius: f32,
    colour: [f32; 3],
}

impl Disc {
    /// A disc of a radius from a 40th to a third of `side`; small ones are many.
    fn new(random: &mut Random, side: f32) -> Self {
        let centre = [(); 2].map(|()| random.share() * side);
        let radius = side / (3.0 + 37.0 * random.share());
        Self { centre, radius, colour: [(); 3].map(|()| random.share() * 255.0 - 127.0) }
    }

    fn covers(&self, [x, y]: [f32; 2]) -> bool {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        dx * dx + dy * dy <= self.radius * self.radius
    }
}

/// Noise on lattices of 2, 4, 8, ... cells across the image, each of half the amplitude of the one before.
#[derive(Debug)]
struct Texture {
    lattices: Vec<(usize, Vec<f32>)>,
}

impl Texture {
    fn new(random: &mut Random) -> Self {
        let lattice = |octave: u32, random: &mut Random| {
            let cells = 1usize << octave;
            (cells, (0..(cells + 1) * (cells + 1)).map(|_| random.share() * 2.0 - 1.0).collect())
        };
        Self { lattices: (1..=6).map(|octave| lattice(octave, random)).collect() }
    }

    /// The value at shares of the image's longer side, about -1 to 1.
    fn at(&self, x: f32, y: f32) -> f32 {
        let mut sum = 0.0;
        for (cells, values) in &self.lattices {
            let [(column, across), (row, down)] = [x, y].map(|at| {
                let place = at * *cells as f32;
                let cell = (place as usize).min(cells - 1);
                (cell, place - cell as f32)
            });
            let value = |row: usize, column: usize| values[row * (cells + 1) + column];
            let top = value(row, column) * (1.0 - across) + value(row, column + 1) * across;
            let bottom = value(row + 1, column) * (1.0 - across) + value(row + 1, column + 1) * across;
            sum += (top * (1.0 - down) + bottom * down) * 2.0 / *cells as f32;
        }
        sum
    }
}
