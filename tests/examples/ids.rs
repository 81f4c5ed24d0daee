//! Prints the token ids of prompts by checkpoints' tokenizers, for the generators in `reference`.
//!
//!     cargo run --package e2e --example ids < JOBS.json
//!
//! JOBS.json is a list of `{"folder": …, "prompts": […]}`, the folder with the tokenizer's files. Standard output gets a line
//! of JSON for each job: a list of ids for each prompt, without padding, or `{"error": …}`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use model_prep::checkpoint::TokenizerFile;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Job {
    folder: PathBuf,
    prompts: Vec<String>,
}

fn main() -> Result<()> {
    let jobs: Vec<Job> = serde_json::from_reader(std::io::stdin().lock()).context("the jobs")?;
    for job in jobs {
        match ids(&job.folder, &job.prompts) {
            Ok(ids) => println!("{}", json!(ids)),
            Err(error) => println!("{}", json!({ "error": format!("{error:#}") })),
        }
    }
    Ok(())
}

fn ids(folder: &Path, prompts: &[String]) -> Result<Vec<Vec<i64>>> {
    let tokenizer = TokenizerFile::read(folder, None)?.tokenizer()?;
    prompts.iter().map(|prompt| Ok(tokenizer.encode(prompt)?.ids)).collect()
}
