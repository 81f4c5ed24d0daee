//! Built-in images and prompts on which two versions of a tower are compared. They are the same on every machine.

mod scenes;

use spotter_engine::picture::Picture;

/// English captions of one to twenty words.
pub fn prompts() -> Vec<&'static str> {
    include_str!("probes/captions.txt").lines().collect()
}

/// Number of images: four of each kind.
const IMAGES: usize = 16;

/// Gradients, checkerboards, shapes on a background, and noise, computed with integers only.
pub fn images([height, width]: [usize; 2]) -> Vec<Picture> {
    (0..IMAGES).map(|index| image(index, height, width)).collect()
}

/// Images on which activations are observed: every other one of [`images`] and some scenes.
pub(crate) fn observed(size: [usize; 2]) -> Vec<Picture> {
    let drawn = images(size).into_iter().step_by(3);
    drawn.chain(scenes::images(size).into_iter().step_by(3)).collect()
}

/// The images of a verification: [`images`], and scenes with the spectra of photographs: in daylight, dark, bright, noisy,
/// plain, and almost uniform.
pub(crate) fn verification_images(size: [usize; 2]) -> Vec<Picture> {
    images(size).into_iter().chain(scenes::images(size)).collect()
}

/// The texts of a verification: [`prompts`], and texts of one token up to `tokens_max`.
pub(crate) fn verification_texts(tokens_max: usize) -> Vec<String> {
    prompts().into_iter().map(str::to_owned).chain(texts(tokens_max)).collect()
}

/// Images that are none of the others, on which weights are rounded: scenes, and a few that are drawn.
pub(crate) fn others([height, width]: [usize; 2]) -> Vec<Picture> {
    let drawn = (IMAGES..2 * IMAGES).step_by(2).map(|index| image(index, height, width));
    drawn.chain(scenes::others([height, width])).collect()
}

/// Number of [`other_texts`].
const OTHER_TEXTS: usize = 192;

/// Texts that are none of the others, on which weights are rounded: of 1 to 24 words, or up to `tokens_max`.
pub(crate) fn other_texts(tokens_max: usize) -> Vec<String> {
    let words: Vec<&str> = prompts().into_iter().flat_map(str::split_whitespace).collect();
    let mut random = Random(77);
    let text = |index: usize| {
        let length = 1 + index % tokens_max.clamp(1, 24);
        let mut word = || words[(random.share() * words.len() as f32) as usize % words.len()];
        (0..length).map(|_| word()).collect::<Vec<_>>().join(" ")
    };
    (0..OTHER_TEXTS).map(text).collect()
}

/// Longest text in words. A text of a token takes as long as an image of a patch.
const WORDS_MAX: usize = 512;

/// Texts of the words of [`prompts`], mixed: of one word, and of about one and a half times as many up to `tokens_max`,
/// so that the longest has at least as many tokens. Two of each length.
fn texts(tokens_max: usize) -> Vec<String> {
    let words: Vec<&str> = prompts().into_iter().flat_map(str::split_whitespace).collect();
    let longest = tokens_max.clamp(1, WORDS_MAX);
    let mut random = Random(1);
    let mut texts = Vec::new();
    let mut length = 1;
    loop {
        for _ in 0..2 {
            let word = |random: &mut Random| words[(random.share() * words.len() as f32) as usize % words.len()];
            let text: Vec<&str> = (0..length).map(|_| word(&mut random)).collect();
            texts.push(text.join(" "));
        }
        if length == longest {
            return texts;
        }
        length = (length + length.div_ceil(2)).min(longest);
    }
}

/// Number of images and texts of a verification, about.
pub(crate) fn verification_count() -> u64 {
    count() + (scenes::IMAGES + texts(WORDS_MAX).len()) as u64
}

/// Number of images and prompts.
pub fn count() -> u64 {
    (IMAGES + prompts().len()) as u64
}

fn image(index: usize, height: usize, width: usize) -> Picture {
    let mut random = Random(index as u32 + 1);
    let (paint, ground) = (random.colour(), random.colour());
    // Two to five squares across the longer side.
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

/// Returns whether a pixel is in shape number `kind` in the middle of the image.
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

/// The linear congruential generator of Numerical Recipes; its upper bits are random enough for noise.
#[derive(Debug)]
struct Random(u32);

impl Random {
    /// A number from 0 to below 1, of 24 bits.
    fn share(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 24) as f32
    }

    fn colour(&mut self) -> [u8; 3] {
        [(); 3].map(|()| {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 24) as u8
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{images, prompts, scenes, texts};

    #[test]
    fn probes_are_varied() {
        for size in [[1, 1], [30, 30], [48, 32]] {
            let images = images(size);
            assert!(images.iter().all(|p| p.rgb.len() == size[0] * size[1] * 3), "{size:?}");
        }
        let images = images([32, 32]);
        for (index, image) in images.iter().enumerate() {
            assert!(images[..index].iter().all(|other| other.rgb != image.rgb), "image {index} is a copy");
        }
        for (index, scene) in scenes::images([48, 32]).iter().enumerate() {
            assert_eq!(scene.rgb.len(), 48 * 32 * 3, "scene {index}");
            assert!(scene.rgb.iter().any(|value| *value != scene.rgb[0]), "scene {index} is uniform");
        }
        let lengths: Vec<usize> = texts(20).iter().map(|text| text.split(' ').count()).collect();
        assert_eq!(lengths, [1, 1, 2, 2, 3, 3, 5, 5, 8, 8, 12, 12, 18, 18, 20, 20]);
        assert!(prompts().len() >= 16 && prompts().iter().all(|p| !p.is_empty()));
    }
}
