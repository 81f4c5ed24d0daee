//! `spotter snapshot`: saves one image of the source, to aim a camera and to see what Spotter sees.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::{ExtendedColorType, ImageEncoder as _, ImageFormat};
use spotter_engine::console::write_line;
use spotter_engine::picture::Picture;

use super::ConfigArgs;
use crate::config::Config;
use crate::console::stdout;
use crate::process::Stop;
use crate::recognizer::decode::Decoder;
use crate::source::{self, Frame, Source, Uri};
use crate::store;

/// Frames in which a camera adjusts exposure and colours.
const SKIP: u32 = 10;

#[derive(Debug, Args)]
pub(super) struct Snapshot {
    #[command(flatten)]
    config: ConfigArgs,
    /// As for `run`
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// Frames to skip first [default: 10 of a camera, for exposure and colours, else 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..1000))]
    skip: Option<u32>,
    /// The image: .png, .jpg or .ppm
    file: PathBuf,
}

impl Snapshot {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = self.config.load()?;
        let uri = Uri::from_str(self.source.as_deref().unwrap_or(&config.source))?;
        save(&config, &uri, &self.file, self.skip, &mut stdout())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes the frame after `skip` others. Without `skip`, live sources get [`SKIP`] frames to settle, image files and recordings
/// none.
pub(super) fn take(source: &mut dyn Source, skip: Option<u32>) -> Result<Frame> {
    let (mut frame, stop) = (Frame::default(), Stop::new());
    for _ in 0..=skip.unwrap_or(if source.is_live() { SKIP } else { 0 }) {
        if !source.next(&mut frame, &stop)? {
            bail!("{}: ended before there was an image", source.describe());
        }
    }
    Ok(frame)
}

/// Saves the frame after `skip` others as `file`, in the format of its extension, and prints what it is, which [`take`] counts.
fn save(config: &Config, uri: &Uri, file: &Path, skip: Option<u32>, out: &mut dyn Write) -> Result<()> {
    let format = ImageFormat::from_path(file)
        .ok()
        .filter(ImageFormat::writing_enabled)
        .with_context(|| format!("{}: expected a name that ends in .png, .jpg or .ppm", file.display()))?;
    let mut source = source::open(uri, &config.capture.options())?.source;
    let frame = take(source.as_mut(), skip)?;
    let mut picture = Picture::default();
    Decoder::new().decode(&frame, &mut picture)?;
    let (width, height) = (u32::try_from(picture.width)?, u32::try_from(picture.height)?);
    let mut bytes = Cursor::new(Vec::new());
    let written = match format {
        // The default would be PAM, which few programs read.
        ImageFormat::Pnm => PnmEncoder::new(&mut bytes)
            .with_subtype(PnmSubtype::Pixmap(SampleEncoding::Binary))
            .write_image(&picture.rgb, width, height, ExtendedColorType::Rgb8),
        _ => image::write_buffer_with_format(&mut bytes, &picture.rgb, width, height, ExtendedColorType::Rgb8, format),
    };
    written.with_context(|| format!("{}: cannot encode the image", file.display()))?;
    store::replace_file(file, bytes.get_ref()).with_context(|| format!("{}: cannot write", file.display()))?;
    let line = format_args!("{}: {width} x {height} pixels of {}", file.display(), source.describe());
    write_line(out, line).context("standard output")
}
