//! Models by name: the files of a model on the Hugging Face hub, from the hub's cache on this machine, or downloaded into it.
//!
//! The cache has the layout of Python's `huggingface_hub` (`models--OWNER--NAME/{blobs,refs,snapshots}`), so that each finds
//! what the other has downloaded. Only files that a command needs are downloaded: the configurations, the tokenizer, and the
//! weights once. What comes in is checked by size and hash before it gets its name, and a download that was cut goes on where
//! it ended.

mod cache;
mod chosen;
mod client;
mod download;
mod error;
mod name;
mod settings;
#[cfg(test)]
mod tests;
mod tls;

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use spotter_engine::printable::printable;

use self::cache::Repo;
use self::client::{Client, Info};
use self::download::Download;
pub(crate) use self::error::HubError;
use self::name::Name;
use self::settings::Settings;
use crate::checkpoint::in_subfolder;
use crate::console::{PROGRESS_BYTES, progress_bar};

/// The folder of a checkpoint on this machine: `checkpoint` itself, or where the model of that name was downloaded to; with
/// `subfolder`, that folder in it.
///
/// # Errors
/// `checkpoint` is a model's name, and the model is not there or cannot be downloaded.
pub(crate) fn local(checkpoint: PathBuf, subfolder: Option<PathBuf>) -> Result<PathBuf, HubError> {
    let Some(name) = Name::of(&checkpoint)? else { return Ok(in_subfolder(checkpoint, subfolder)) };
    let settings = Settings::from_environment(&|key| std::env::var_os(key))?;
    let bar = progress_bar(PROGRESS_BYTES);
    let found = snapshot(&name, subfolder.as_deref(), &settings, &bar);
    bar.finish_and_clear();
    Ok(in_subfolder(found?, subfolder))
}

/// The folder of a model's snapshot, with all that is needed of it.
fn snapshot(
    name: &Name,
    subfolder: Option<&Path>,
    settings: &Settings,
    bar: &ProgressBar,
) -> Result<PathBuf, HubError> {
    let repo = Repo::new(&settings.cache, &name.repo);
    if settings.offline {
        return repo
            .snapshot(&name.revision)
            .ok_or_else(|| HubError::Offline { name: name.clone(), cache: repo.root() });
    }
    let client = Client::new(settings)?;
    let info = match client.info(name) {
        Ok(info) => info,
        // What is in the cache may be all there is to have.
        Err(error) if error.is_unreachable() => {
            let Some(found) = repo.snapshot(&name.revision) else { return Err(error) };
            log::warn!("{error}; using what was downloaded before, {}", found.display());
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    bar.set_message(printable(&name.repo).into_owned());
    complete(name, subfolder, &client, &repo, &info, bar)
}

/// Downloads what is missing of a snapshot; returns its folder.
fn complete(
    name: &Name,
    subfolder: Option<&Path>,
    client: &Client,
    repo: &Repo,
    info: &Info,
    bar: &ProgressBar,
) -> Result<PathBuf, HubError> {
    let download = Download { name, client, repo, commit: &info.commit, bar };
    let prefix = chosen::prefix(subfolder)?;
    let mut files = chosen::files(name, &prefix, &info.files)?;
    if let Some(index) = files.index {
        download.all(std::slice::from_ref(&index))?;
        let path = repo.snapshot_folder(&info.commit).join(&index.path);
        files.needed.extend(chosen::shards(&path, &prefix, &info.files)?);
    }
    download.all(&files.needed)?;
    repo.write_ref(&name.revision, &info.commit)?;
    Ok(repo.snapshot_folder(&info.commit))
}
