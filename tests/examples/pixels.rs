//! Writes the tensors that image processors make of images, for the generators in `reference`.
//!
//!     cargo run --package e2e --example pixels JOBS.json TENSORS
//!
//! JOBS.json is a list of `{"folder": …, "image_processor": … or null, "pictures": […]}`: a folder with
//! `preprocessor_config.json`, the override, picture files. TENSORS gets the values of one tensor after the other, f32,
//! little endian. Standard output gets a line of JSON for each picture: `{"size": [rows, columns]}` or `{"error": …}`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use model_prep::checkpoint::preprocess_config_of;
use model_prep::overrides::Overrides;
use serde::Deserialize;
use serde_json::json;
use spotter_engine::picture::decode;
use spotter_engine::preprocess::{Preprocessor, Size};

#[derive(Deserialize)]
struct Job {
    folder: PathBuf,
    image_processor: Option<String>,
    pictures: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [jobs, tensors] = &arguments[..] else { bail!("usage: pixels JOBS.json TENSORS") };
    let jobs: Vec<Job> = serde_json::from_slice(&std::fs::read(jobs).context("the jobs")?)?;
    let mut tensors = std::io::BufWriter::new(std::fs::File::create(tensors).context("the tensors")?);
    let mut out = Vec::new();
    for job in jobs {
        let mut preprocessor = preprocessor(&job);
        for path in &job.pictures {
            let found = match &mut preprocessor {
                Ok(preprocessor) => run(preprocessor, path, &mut out),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            match found {
                Ok(Size { height, width }) => {
                    println!("{}", json!({ "size": [height, width] }));
                    out.iter().try_for_each(|value| tensors.write_all(&value.to_le_bytes()))?;
                }
                Err(error) => println!("{}", json!({ "error": format!("{error:#}") })),
            }
        }
    }
    Ok(tensors.flush()?)
}

fn preprocessor(job: &Job) -> Result<Preprocessor> {
    let choice = job.image_processor.as_ref().map(|name| name.parse().map_err(anyhow::Error::msg)).transpose()?;
    let overrides = Overrides { image_processor: choice, ..Overrides::default() };
    Ok(Preprocessor::new(&preprocess_config_of(&job.folder, &overrides)?.0)?)
}

fn run(preprocessor: &mut Preprocessor, path: &Path, out: &mut Vec<f32>) -> Result<Size> {
    let picture = decode(&std::fs::read(path)?)?;
    Ok(preprocessor.run(&picture, out)?)
}
