//! The colour that a PNG's `tRNS` chunk or a GIF's graphic control marks as transparent, as Pillow's
//! `convert("RGB")` leaves it in `info["transparency"]` and its `convert("RGBA")` reads it there.

use image::ImageFormat;

/// The colour of which pixels are transparent in the picture as RGB, if there is exactly one.
pub(super) fn color(format: ImageFormat, bytes: &[u8]) -> Option<[u8; 3]> {
    match format {
        ImageFormat::Png => png(bytes),
        ImageFormat::Gif => gif(bytes),
        _ => None,
    }
}

fn png(bytes: &[u8]) -> Option<[u8; 3]> {
    const SIGNATURE: usize = 8;
    let (mut header, mut palette, mut transparency) = (None, &[][..], None);
    let mut rest = bytes.get(SIGNATURE..)?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (kind, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let data = after.get(..length)?;
        match kind {
            b"IHDR" => header = Some((*data.get(9)?, *data.get(8)?)),
            b"PLTE" => palette = data,
            b"tRNS" => transparency = Some(data),
            b"IDAT" => break,
            _ => {}
        }
        const CHECKSUM: usize = 4;
        rest = after.get(length + CHECKSUM..)?;
    }
    let ((color_type, bits), transparency) = (header?, transparency?);
    let level = |at: usize| Some(u16::from_be_bytes([*transparency.get(2 * at)?, *transparency.get(2 * at + 1)?]));
    // Pillow compares the low bytes of levels, and where it keeps one number only, that one as red.
    let low = |at: usize| Some(level(at)? as u8);
    match (color_type, bits) {
        (0, 1) => Some([if level(0)? == 0 { 0 } else { 255 }, 0, 0]),
        (0, 16) => Some([low(0)?, 0, 0]),
        // Of 2 and 4 bits, the pixels are scaled to 8 and the transparent level is not.
        (0, _) => Some([level(0)?.min(255) as u8; 3]),
        (2, _) => Some([low(0)?, low(1)?, low(2)?]),
        (3, _) => Some(entry(palette, only_transparent(transparency)?)),
        _ => None,
    }
}

/// The index of the only entry that is not opaque, where that is wholly transparent.
fn only_transparent(alphas: &[u8]) -> Option<usize> {
    // Pillow's pattern ends in `$`, before which a newline may stand.
    let alphas = alphas.strip_suffix(b"\n").unwrap_or(alphas);
    let at = alphas.iter().position(|&alpha| alpha != 255)?;
    (alphas[at] == 0 && alphas[at + 1..].iter().all(|&alpha| alpha == 255)).then_some(at)
}

/// A palette's colour; black behind its end.
fn entry(palette: &[u8], index: usize) -> [u8; 3] {
    palette.as_chunks().0.get(index).copied().unwrap_or_default()
}

fn gif(bytes: &[u8]) -> Option<[u8; 3]> {
    const EXTENSION: u8 = b'!';
    const GRAPHIC_CONTROL: u8 = 0xf9;
    const IMAGE: u8 = b',';
    const HEADER: usize = 13;
    const DESCRIPTOR: usize = 9;
    let (mut palette, mut rest) = table(*bytes.get(10)?, bytes.get(HEADER..)?)?;
    let mut transparent = None;
    while let Some((&kind, after)) = rest.split_first() {
        rest = after;
        match kind {
            EXTENSION => {
                let (&label, mut after) = rest.split_first()?;
                if label == GRAPHIC_CONTROL && after.get(1)? & 1 == 1 {
                    transparent = Some(*after.get(4)?);
                }
                while let Some((&length, block)) = after.split_first() {
                    after = block.get(usize::from(length)..)?;
                    if length == 0 {
                        break;
                    }
                }
                rest = after;
            }
            IMAGE => {
                let (local, _) = table(*rest.get(DESCRIPTOR - 1)?, rest.get(DESCRIPTOR..)?)?;
                palette = local.or(palette);
                break;
            }
            _ => {}
        }
    }
    let transparent = transparent?;
    // A table of grey levels in order is none to Pillow: pixels are grey levels then.
    let (colors, _) = palette.unwrap_or_default().as_chunks::<3>();
    if colors.iter().enumerate().all(|(level, color)| color.iter().all(|&value| usize::from(value) == level)) {
        return Some([transparent; 3]);
    }
    Some(entry(palette.unwrap_or_default(), usize::from(transparent)))
}

/// The colour table that follows if `flags` say so, and what follows it.
fn table(flags: u8, bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    if flags & 128 == 0 {
        return Some((None, bytes));
    }
    let (table, rest) = bytes.split_at_checked(3 << ((flags & 7) + 1))?;
    Some((Some(table), rest))
}
