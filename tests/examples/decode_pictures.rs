//! Decodes image files; for each prints its name and either `WIDTH HEIGHT SHA256`, the hash of its RGB bytes, or
//! `refused: REASON`. For `reference/make_jpegs.py` and `make_gifs.py`.
//!
//!     cargo run --package e2e --example decode_pictures FILE...

use std::error::Error as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use spotter_engine::hash::{hex, sha256};
use spotter_engine::picture::decode;

fn main() -> Result<()> {
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or_default().display();
        match decode(&bytes) {
            Ok(picture) => {
                let hash = hex(&sha256(&picture.rgb));
                println!("{name} {} {} {hash}", picture.width, picture.height);
            }
            Err(error) => {
                let reason = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
                println!("{name} refused: {reason}");
            }
        }
    }
    Ok(())
}
