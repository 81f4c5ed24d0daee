//! `spotter snapshot`: one picture of the source, to aim a camera by and to see what Spotter sees.

use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::{ExtendedColorType, ImageEncoder as _, ImageFormat};
use spotter_engine::console::write_line;
use spotter_engine::picture::Picture;

use crate::config::Config;
use crate::recognizer::decode::Decoder;
use crate::source::{self, Frame, Stop, Uri};
use crate::store;

/// Frames that a camera gets for exposure and colours.
const SKIP: u32 = 10;

/// Writes the first frame after `skip` others into `file`, in the format that its ending names, and says what it is.
/// Without `skip`, cameras get some frames to settle, pictures and recordings none.
pub fn run(config: &Config, uri: &Uri, file: &Path, skip: Option<u32>, out: &mut dyn Write) -> Result<()> {
    let format = ImageFormat::from_path(file)
        .ok()
        .filter(ImageFormat::writing_enabled)
        .with_context(|| format!("{}: expected a name that ends in .png, .jpg or .ppm", file.display()))?;
    let mut source = source::open(uri, &config.capture.options())?.source;
    let (mut frame, stop) = (Frame::default(), Stop::new());
    for _ in 0..=skip.unwrap_or(if source.is_live() { SKIP } else { 0 }) {
        if !source.next(&mut frame, &stop)? {
            bail!("{}: ended before there was a picture", source.describe());
        }
    }
    let mut picture = Picture::default();
    Decoder::new().decode(&frame, &mut picture)?;
    let (width, height) = (u32::try_from(picture.width)?, u32::try_from(picture.height)?);
    let mut bytes = Cursor::new(Vec::new());
    let written = match format {
        // By itself it would be a PAM, which few programs read.
        ImageFormat::Pnm => PnmEncoder::new(&mut bytes)
            .with_subtype(PnmSubtype::Pixmap(SampleEncoding::Binary))
            .write_image(&picture.rgb, width, height, ExtendedColorType::Rgb8),
        _ => image::write_buffer_with_format(&mut bytes, &picture.rgb, width, height, ExtendedColorType::Rgb8, format),
    };
    written.with_context(|| format!("{}: cannot make the picture", file.display()))?;
    store::replace_file(file, bytes.get_ref()).with_context(|| format!("{}: cannot write", file.display()))?;
    let line = format_args!("{}: {width} x {height} pixels of {}", file.display(), source.describe());
    write_line(out, line).context("standard output")
}
