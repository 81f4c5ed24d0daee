//! Pictures and prompts on which two versions of the same towers are compared; the same on every machine.

use spotter_engine::picture::Picture;

/// English captions from one word to twenty.
pub fn prompts() -> Vec<&'static str> {
    include_str!("probes/captions.txt").lines().collect()
}

/// How many pictures [`pictures`] draws: four of each kind.
const PICTURES: usize = 16;

/// Gradients, checkerboards, shapes on a background, and noise, in whole numbers throughout.
pub fn pictures([height, width]: [usize; 2]) -> Vec<Picture> {
    (0..PICTURES).map(|index| picture(index, height, width)).collect()
}

/// How many pictures and prompts there are.
pub fn count() -> u64 {
    (PICTURES + prompts().len()) as u64
}

fn picture(index: usize, height: usize, width: usize) -> Picture {
    let mut random = Random(index as u32 + 1);
    let (paint, ground) = (random.colour(), random.colour());
    // From 2 to 5 squares or rings across the picture.
    let step = (height.max(width) / (2 + index / 4)).max(1);
    let mut rgb = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            let pixel = match index % 4 {
                0 => {
                    let (across, down) = ((x * 255 / width) as u8, (y * 255 / height) as u8);
                    [across, down, paint[2] ^ (across / 2)]
                }
                1 => pick((x / step + y / step).is_multiple_of(2), paint, ground),
                2 => pick(inside(index / 4, x, y, [height, width]), paint, ground),
                _ => random.colour(),
            };
            rgb.extend(pixel);
        }
    }
    Picture { width, height, rgb, transparent: None }
}

fn pick(first: bool, one: [u8; 3], other: [u8; 3]) -> [u8; 3] {
    if first { one } else { other }
}

/// Whether a pixel lies in shape number `kind` in the middle of the picture.
fn inside(kind: usize, x: usize, y: usize, [height, width]: [usize; 2]) -> bool {
    let (dx, dy) = (x.abs_diff(width / 2), y.abs_diff(height / 2));
    let radius = height.min(width) / 3;
    match kind {
        0 => dx * dx + dy * dy <= radius * radius,
        1 => dx.max(dy) <= radius,
        2 => dx + dy <= radius,
        _ => dx.min(dy) <= radius / 4 && dx.max(dy) <= radius,
    }
}

/// Numerical Recipes' linear congruential generator; its upper bits are noise enough for a picture.
struct Random(u32);

impl Random {
    fn colour(&mut self) -> [u8; 3] {
        [(); 3].map(|()| {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 24) as u8
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{pictures, prompts};

    #[test]
    fn probes_are_varied() {
        for size in [[1, 1], [30, 30], [48, 32]] {
            let pictures = pictures(size);
            assert!(pictures.iter().all(|p| p.rgb.len() == size[0] * size[1] * 3), "{size:?}");
        }
        let pictures = pictures([32, 32]);
        for (index, picture) in pictures.iter().enumerate() {
            assert!(pictures[..index].iter().all(|other| other.rgb != picture.rgb), "picture {index} is a copy");
        }
        assert!(prompts().len() >= 16 && prompts().iter().all(|p| !p.is_empty()));
    }
}
