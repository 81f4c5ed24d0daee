//! Random changes of an image before it is preprocessed, so that every family of image towers gets the same.

use spotter_engine::picture::Picture;

use super::random::Random;

/// Smallest share of the image's area that is kept.
const AREA_MIN: f64 = 0.6;

/// Largest change of the aspect ratio, as a factor.
const ASPECT_MAX: f64 = 4.0 / 3.0;

/// Largest change of brightness, contrast and saturation, as a share.
const COLOR_MAX: f64 = 0.2;

/// Crops, mirrors and recolours an image.
pub(super) fn augmented(picture: &Picture, random: &mut Random) -> Picture {
    let mut out = cropped(picture, random);
    if random.unit() < 0.5 {
        mirror(&mut out);
    }
    let [brightness, contrast, saturation] = [0; 3].map(|_| random.between(1.0 - COLOR_MAX, 1.0 + COLOR_MAX) as f32);
    recolor(&mut out.rgb, brightness, contrast, saturation);
    out
}

/// A random part of the image.
fn cropped(picture: &Picture, random: &mut Random) -> Picture {
    let (width, height) = (picture.width, picture.height);
    let area = random.between(AREA_MIN, 1.0);
    let aspect = (random.between(-1.0, 1.0) * ASPECT_MAX.ln()).exp();
    let side = |whole: usize, share: f64| ((whole as f64 * share).round() as usize).clamp(1, whole);
    let columns = side(width, (area * aspect).sqrt());
    let rows = side(height, (area / aspect).sqrt());
    let (left, top) = (random.below(width - columns + 1), random.below(height - rows + 1));
    let mut rgb = Vec::with_capacity(rows * columns * 3);
    for row in picture.rgb.chunks_exact(width * 3).skip(top).take(rows) {
        rgb.extend_from_slice(&row[left * 3..(left + columns) * 3]);
    }
    Picture { width: columns, height: rows, rgb, transparent: None }
}

fn mirror(picture: &mut Picture) {
    for row in picture.rgb.chunks_exact_mut(picture.width * 3) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

/// Multiplies brightness, the distance to the mean grey, and the distance of each pixel to its grey.
fn recolor(rgb: &mut [u8], brightness: f32, contrast: f32, saturation: f32) {
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    let grey = |pixel: &[u8; 3]| {
        // ITU-R 601, as in Pillow.
        let [red, green, blue] = pixel.map(f32::from);
        0.299 * red + 0.587 * green + 0.114 * blue
    };
    let mean = pixels.iter().map(|pixel| f64::from(grey(pixel))).sum::<f64>() / pixels.len().max(1) as f64;
    let mean = mean as f32 * brightness;
    for pixel in pixels {
        let own = grey(pixel);
        for value in pixel {
            let saturated = own + (f32::from(*value) - own) * saturation;
            let changed = mean + (saturated * brightness - mean) * contrast;
            *value = changed.round().clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Picture {
        let rgb = (0..width * height * 3).map(|index| (index * 7 % 256) as u8).collect();
        Picture { width, height, rgb, transparent: None }
    }

    #[test]
    fn images_of_any_size_stay_images() {
        for (width, height) in [(1, 1), (1, 40), (40, 1), (17, 33), (64, 64)] {
            for seed in 0..50 {
                let found = augmented(&picture(width, height), &mut Random::new(&[seed]));
                assert_eq!(found.rgb.len(), found.width * found.height * 3, "{width} x {height}");
                assert!(found.width <= width && found.height <= height, "{width} x {height}");
                let area = (found.width * found.height) as f64 / (width * height) as f64;
                assert!(width.min(height) < 17 || area > AREA_MIN * 0.85, "{width} x {height}: {area}");
            }
        }
    }

    #[test]
    fn a_seed_always_gives_the_same_and_another_seed_another() {
        let of = |seed| augmented(&picture(32, 32), &mut Random::new(&[seed])).rgb;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn colours_change_by_hand() {
        let check = |factors: [f32; 3], expected: [u8; 6]| {
            let mut rgb = [100, 100, 100, 200, 100, 0];
            recolor(&mut rgb, factors[0], factors[1], factors[2]);
            assert_eq!(rgb, expected, "{factors:?}");
        };
        check([1.0; 3], [100, 100, 100, 200, 100, 0]);
        check([1.2, 1.0, 1.0], [120, 120, 120, 240, 120, 0]);
        // The greys are 100 and 118.5, their mean is 109.25.
        check([1.0, 0.8, 1.0], [102, 102, 102, 182, 102, 22]);
        check([1.0, 1.0, 0.0], [100, 100, 100, 119, 119, 119]);
    }
}
