//! The colour that a PNG's `tRNS` chunk marks as transparent, as Pillow's `convert("RGB")` stores it in
//! `info["transparency"]` for `convert("RGBA")`.

/// The transparent colour of the image as RGB, if there is exactly one.
pub(super) fn color_of_png(bytes: &[u8]) -> Option<[u8; 3]> {
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
    // Pillow compares the low bytes of levels, and uses a single level as red.
    let low = |at: usize| Some(level(at)? as u8);
    match (color_type, bits) {
        (0, 1) => Some([if level(0)? == 0 { 0 } else { 255 }, 0, 0]),
        (0, 16) => Some([low(0)?, 0, 0]),
        // For 2 and 4 bits, pixels are scaled to 8 bits, but the transparent level is not.
        (0, _) => Some([level(0)?.min(255) as u8; 3]),
        (2, _) => Some([low(0)?, low(1)?, low(2)?]),
        (3, _) => Some(entry(palette, only_transparent(transparency)?)),
        _ => None,
    }
}

/// The index of the only palette entry that is not opaque, if that is fully transparent.
fn only_transparent(alphas: &[u8]) -> Option<usize> {
    // Pillow's regular expression ends with `$`, which also matches before a final newline.
    let alphas = alphas.strip_suffix(b"\n").unwrap_or(alphas);
    let at = alphas.iter().position(|&alpha| alpha != 255)?;
    (alphas[at] == 0 && alphas[at + 1..].iter().all(|&alpha| alpha == 255)).then_some(at)
}

/// A palette colour; black beyond its end.
fn entry(palette: &[u8], index: usize) -> [u8; 3] {
    palette.as_chunks().0.get(index).copied().unwrap_or_default()
}
