//! Finds the additional images of a Multi-Picture Format file (CIPA DC-007), such as previews and gain maps.

/// Maximum number of images in a file; cameras write two to four.
const IMAGES_MAX: usize = 16;

/// Start of an APP2 segment with the index of the images.
const MAGIC: &[u8] = b"MPF\0";

/// Tag of the list of images: attributes, size and offset of each.
const MP_ENTRY: u16 = 0xB002;

/// The images that belong to the current one, by their offsets in the stream.
#[derive(Debug, Default)]
pub(super) struct Trailing {
    offsets: [u64; IMAGES_MAX],
    count: usize,
    /// The current image is one of them.
    is_inside: bool,
}

impl Trailing {
    /// Notes that an image starts at `offset`.
    pub(super) fn begin(&mut self, offset: u64) {
        self.is_inside = self.is_one(offset);
        if !self.is_inside {
            self.count = 0;
        }
    }

    /// Returns whether the image at `offset` belongs to another one.
    pub(super) fn is_one(&self, offset: u64) -> bool {
        self.offsets[..self.count].contains(&offset)
    }

    /// Reads the content of the APP2 segment at `offset`. Anything but a whole index is ignored.
    pub(super) fn read(&mut self, content: &[u8], offset: u64) {
        if self.is_inside {
            return;
        }
        let Some(tiff) = content.strip_prefix(MAGIC) else { return };
        let base = offset + MAGIC.len() as u64;
        self.count = 0;
        for relative in entries(tiff).into_iter().flatten() {
            // Offset 0 is the image with the index itself.
            if relative != 0 && self.count < IMAGES_MAX {
                self.offsets[self.count] = base + u64::from(relative);
                self.count += 1;
            }
        }
    }
}

/// Offsets of the images from the start of the TIFF header.
fn entries(tiff: &[u8]) -> Option<impl Iterator<Item = u32> + '_> {
    let big_endian = match tiff.get(..4)? {
        b"MM\0*" => true,
        b"II*\0" => false,
        _ => return None,
    };
    let u16_at = move |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let u32_at = move |at: usize| {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let directory = u32_at(4)? as usize;
    let fields = usize::from(u16_at(directory)?);
    let field = (0..fields).map(|field| directory + 2 + 12 * field).find(|at| u16_at(*at) == Some(MP_ENTRY))?;
    let (bytes, list) = (u32_at(field + 4)? as usize, u32_at(field + 8)? as usize);
    Some((0..bytes / 16).map_while(move |entry| u32_at(list.checked_add(16 * entry + 8)?)))
}
