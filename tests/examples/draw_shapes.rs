//! Writes the frames of a `test://shapes` source as PNG files, with `truth.json`, for the generators in `reference`.
//!
//!     cargo run --package e2e --example draw_shapes 'test://shapes?seed=7&fps=0&hold=1&frames=300' FOLDER

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use spotter::source::{Uri, draw_shapes};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, folder] = &arguments[..] else { bail!("usage: draw_shapes URI FOLDER") };
    let Uri::Shapes(options) = uri.parse()? else { bail!("{uri}: expected test://shapes") };
    let frames = options.frames.with_context(|| format!("{uri}: expected `frames=`"))?;
    let folder = Path::new(folder);
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let (width, height) = (u32::try_from(options.width)?, u32::try_from(options.height)?);
    let (mut rgb, mut truths) = (Vec::new(), Vec::new());
    for number in 0..frames {
        truths.push(draw_shapes(&options, number, &mut rgb));
        let path = folder.join(format!("{number:04}.png"));
        image::save_buffer(&path, &rgb, width, height, image::ColorType::Rgb8)
            .with_context(|| path.display().to_string())?;
    }
    std::fs::write(folder.join("truth.json"), serde_json::to_vec_pretty(&truths)?)?;
    Ok(())
}
