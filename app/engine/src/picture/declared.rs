//! Sizes that headers declare, for formats whose decoders allocate before they report a size.

use image::ImageFormat;

/// Sizes in the headers of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// Widths and heights: of a PNG, or of each lossy frame of a WebP.
    pub(super) sizes: Vec<(usize, usize)>,
    /// True if a WebP is animated.
    pub(super) is_animated: bool,
}

impl Declared {
    /// Reads the headers of a file. Damage is left to the decoder.
    pub(super) fn read(format: ImageFormat, bytes: &[u8]) -> Self {
        match format {
            ImageFormat::Png => Self { sizes: png(bytes).into_iter().collect(), is_animated: false },
            ImageFormat::WebP => webp(bytes),
            _ => Self::default(),
        }
    }
}

/// Width and height of a PNG, whose first chunk is its header.
fn png(bytes: &[u8]) -> Option<(usize, usize)> {
    let sides = bytes.get(12..)?.strip_prefix(b"IHDR")?;
    let (width, rest) = sides.split_first_chunk()?;
    let (height, _) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*width) as usize, u32::from_be_bytes(*height) as usize))
}

/// The chunks of a WebP, those of frames included.
fn webp(bytes: &[u8]) -> Declared {
    const RIFF_BYTES: usize = 12;
    /// Header of a frame, before its chunks.
    const FRAME_BYTES: usize = 16;
    let mut declared = Declared::default();
    let mut rest = bytes.get(RIFF_BYTES..).unwrap_or_default();
    while let Some((kind, after)) = rest.split_first_chunk::<4>() {
        let Some((length, body)) = after.split_first_chunk::<4>() else { break };
        let length = u32::from_le_bytes(*length) as usize;
        let skipped = match kind {
            b"ANMF" => {
                declared.is_animated = true;
                FRAME_BYTES
            }
            b"VP8 " => {
                declared.sizes.extend(vp8(body));
                length
            }
            _ => length,
        };
        // Chunks start at even offsets.
        rest = body.get(skipped.saturating_add(skipped % 2)..).unwrap_or_default();
    }
    declared
}

/// Width and height in the header of a VP8 frame: 14 bits each, after a tag and a start code.
fn vp8(body: &[u8]) -> Option<(usize, usize)> {
    let &[w0, w1, h0, h1] = body.get(6..10)? else { return None };
    let side = |low, high| usize::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Some((side(w0, w1), side(h0, h1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let padding: &[u8] = if body.len() % 2 == 1 { &[0] } else { &[] };
        [&kind[..], &(body.len() as u32).to_le_bytes(), body, padding].concat()
    }

    #[test]
    fn declared_sizes_are_found() {
        let check = |what: &str, format, bytes: &[u8], sizes: &[(usize, usize)], is_animated| {
            let expected = Declared { sizes: sizes.to_vec(), is_animated };
            assert_eq!(Declared::read(format, bytes), expected, "{what}");
        };
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\x05\x55\x55\x55\0\0\0\x01\x01\0\0\0\0";
        check("a PNG", ImageFormat::Png, png, &[(89_478_485, 1)], false);
        check("a PNG that ends", ImageFormat::Png, &png[..20], &[], false);
        check("another format", ImageFormat::Bmp, png, &[], false);
        let frame = chunk(b"VP8 ", &[0, 0, 0, 0x9d, 1, 0x2a, 0xff, 0x7f, 3, 0, 9]);
        let head = b"RIFF\0\0\0\0WEBP";
        let plain = [&head[..], &frame].concat();
        check("a lossy frame", ImageFormat::WebP, &plain, &[(16_383, 3)], false);
        let odd = [&head[..], &chunk(b"ICCP", b"odd"), &frame].concat();
        check("behind others", ImageFormat::WebP, &odd, &[(16_383, 3)], false);
        let frames = chunk(b"ANMF", &[&[0_u8; 16][..], &chunk(b"ALPH", &[0; 5]), &frame].concat());
        let animated = [&head[..], &chunk(b"VP8X", &[2; 10]), &frames, &frames].concat();
        check("two frames", ImageFormat::WebP, &animated, &[(16_383, 3), (16_383, 3)], true);
        for length in 0..animated.len() {
            Declared::read(ImageFormat::WebP, &animated[..length]);
        }
        let endless = [&head[..], b"VP8L\xff\xff\xff\xff"].concat();
        check("a length that lies", ImageFormat::WebP, &endless, &[], false);
    }
}
