//! The frame of a notice, small enough to wait in memory and to be sent.

use image::ImageResult;
use image::codecs::jpeg::JpegEncoder;
use spotter_engine::picture::Picture;

/// Longest side in pixels: enough to see what happened on a telephone, and at most 1.2 MB while it waits.
const SIDE_MAX: usize = 640;

/// Quality of the JPEG, 1 to 100: no visible blocks, about 60 kB.
const QUALITY: u8 = 85;

/// A frame, reduced by a whole factor. It is encoded only when it is sent, on the sender's thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoticePicture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl NoticePicture {
    /// Copies a frame; each pixel is the mean of a square.
    pub(crate) fn new(picture: &Picture) -> Self {
        let factor = picture.width.max(picture.height).div_ceil(SIDE_MAX).max(1);
        if factor == 1 {
            return Self { width: picture.width, height: picture.height, rgb: picture.rgb.clone() };
        }
        // What is left over at the right and at the bottom is dropped; a picture thinner than the square keeps a line.
        let (across, down) = (factor.min(picture.width), factor.min(picture.height));
        let (width, height) = (picture.width / across, picture.height / down);
        let mut rgb = Vec::with_capacity(width * height * 3);
        let count = (across * down) as u32;
        for y in 0..height {
            for x in 0..width {
                let mut sums = [0_u32; 3];
                for row in y * down..(y + 1) * down {
                    let start = (row * picture.width + x * across) * 3;
                    for pixel in picture.rgb[start..start + across * 3].as_chunks::<3>().0 {
                        sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u32::from(*value));
                    }
                }
                rgb.extend(sums.map(|sum| ((sum + count / 2) / count) as u8));
            }
        }
        Self { width, height, rgb }
    }

    /// The picture as a JPEG file.
    ///
    /// # Errors
    /// It has no pixels.
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only servers take pictures"))]
    pub(crate) fn jpeg(&self) -> ImageResult<Vec<u8>> {
        let mut bytes = Vec::new();
        let (width, height) = (self.width as u32, self.height as u32);
        JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode(
            &self.rgb,
            width,
            height,
            image::ExtendedColorType::Rgb8,
        )?;
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Picture {
        let rgb = (0..width * height).flat_map(|pixel| [(pixel % width % 251) as u8, 7, 200]).collect();
        Picture { width, height, rgb, transparent: None }
    }

    #[test]
    fn large_frames_are_reduced_by_a_whole_factor() {
        for (size, expected) in [
            ((64, 48), (64, 48)),
            ((640, 480), (640, 480)),
            ((641, 480), (320, 240)),
            ((1920, 1080), (640, 360)),
            ((4000, 1), (571, 1)),
            ((1, 1300), (1, 433)),
        ] {
            let found = NoticePicture::new(&picture(size.0, size.1));
            assert_eq!(
                (found.width, found.height, found.rgb.len()),
                (expected.0, expected.1, expected.0 * expected.1 * 3)
            );
            assert!(found.rgb.as_chunks::<3>().0.iter().all(|pixel| pixel[1..] == [7, 200]), "{size:?}");
        }
        let halved = NoticePicture::new(&picture(1280, 2));
        assert_eq!(halved.rgb[..9], [1, 7, 200, 3, 7, 200, 5, 7, 200], "means of 0 and 1, 2 and 3, rounded up");
    }

    #[test]
    fn the_file_can_be_decoded() {
        let jpeg = NoticePicture::new(&picture(1920, 1080)).jpeg().unwrap();
        let decoded = spotter_engine::picture::decode(&jpeg).unwrap();
        assert_eq!((decoded.width, decoded.height), (640, 360));
        assert!(NoticePicture { width: 0, height: 0, rgb: Vec::new() }.jpeg().is_err());
    }
}
