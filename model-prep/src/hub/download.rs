//! Downloads files into the cache.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use indicatif::ProgressBar;
use sha1::{Digest as _, Sha1};
use spotter_engine::hash;
use ureq::Body;
use ureq::http::{Response, StatusCode, header};

use super::HubError;
use super::cache::{Repo, make_parent};
use super::client::{Client, RemoteFile};
use super::name::Name;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Connections that may break in a row, without a byte between them, before a download fails.
const BROKEN_MAX: u32 = 5;

/// A download of files of one commit.
pub(super) struct Download<'a> {
    pub(super) name: &'a Name,
    pub(super) client: &'a Client,
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a str,
    pub(super) bar: &'a ProgressBar,
}

/// The hash that names a blob.
enum BlobHasher {
    Sha256(hash::Hasher),
    Git(Sha1),
}

impl BlobHasher {
    fn of(file: &RemoteFile) -> Self {
        if file.hash.len() == 64 {
            return Self::Sha256(hash::Hasher::new());
        }
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", file.bytes));
        Self::Git(hasher)
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    fn finish_hex(self) -> String {
        match self {
            Self::Sha256(hasher) => hasher.finish_hex(),
            Self::Git(hasher) => hash::hex(&hasher.finalize()),
        }
    }
}

impl Download<'_> {
    /// Downloads what is missing of these files, and links all of them into the snapshot.
    pub(super) fn all(&self, files: &[RemoteFile]) -> Result<(), HubError> {
        let is_whole = |file: &RemoteFile| {
            std::fs::metadata(self.repo.blob(&file.hash))
                .is_ok_and(|found| found.is_file() && found.len() == file.bytes)
        };
        let missing: Vec<&RemoteFile> = files.iter().filter(|file| !is_whole(file)).collect();
        let have = |file: &RemoteFile| {
            let part = self.repo.blob(&format!("{}.incomplete", file.hash));
            std::fs::metadata(part).map_or(0, |part| part.len()).min(file.bytes)
        };
        self.check_room(missing.iter().map(|file| file.bytes - have(file)).sum())?;
        self.bar.set_length(missing.iter().map(|file| file.bytes).sum());
        self.bar.set_position(0);
        for file in files {
            let lock = self.repo.lock(&file.hash)?;
            // Another program may have been faster.
            if !is_whole(file) {
                self.fetch(file)?;
            }
            drop(lock);
            self.repo.link(self.commit, &file.path, &file.hash)?;
        }
        Ok(())
    }

    fn check_room(&self, needed: u64) -> Result<(), HubError> {
        let root = self.repo.root();
        std::fs::create_dir_all(&root).map_err(|source| HubError::file(&root, source))?;
        let Ok(found) = rustix::fs::statvfs(&root) else { return Ok(()) };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(HubError::NoRoom { cache: root, needed: needed as f64 / 1e6, free: free as f64 / 1e6 })
    }

    /// Downloads the rest of a file, checks it, and gives it its name.
    fn fetch(&self, file: &RemoteFile) -> Result<(), HubError> {
        let (path, mut part) = self.repo.part(&file.hash)?;
        let wrong = |source| HubError::file(&path, source);
        let (mut hasher, mut done) = resumed(file, &mut part).map_err(wrong)?;
        self.bar.inc(done);
        let mut broken = 0;
        while done < file.bytes {
            let mut answer = self.client.file(self.name, self.commit, &file.path, done)?;
            if !goes_on(&answer, done) {
                // The whole file comes once more.
                part.set_len(0).map_err(wrong)?;
                self.bar.set_position(self.bar.position().saturating_sub(done));
                (hasher, done) = (BlobHasher::of(file), 0);
            }
            let before = done;
            let ended = self.receive(file, answer.body_mut(), &path, &mut part, &mut hasher, &mut done)?;
            broken = if done > before { 0 } else { broken + 1 };
            if done < file.bytes && broken == BROKEN_MAX {
                let (path, host) = (file.path.clone(), self.client.host());
                return Err(HubError::Cut { path, host, count: broken, why: ended });
            }
        }
        part.sync_all().map_err(wrong)?;
        let found = hasher.finish_hex();
        if found != file.hash {
            std::fs::remove_file(&path).map_err(wrong)?;
            let (expected, found) = (format!("the hash {}", file.hash), found);
            return Err(HubError::Damaged { path: file.path.clone(), expected, found });
        }
        let blob = self.repo.blob(&file.hash);
        make_parent(&blob)?;
        std::fs::rename(&path, &blob).map_err(|source| HubError::file(&blob, source))
    }

    /// Appends what comes until the connection ends; returns why it ended.
    fn receive(
        &self,
        file: &RemoteFile,
        body: &mut Body,
        path: &Path,
        part: &mut File,
        hasher: &mut BlobHasher,
        done: &mut u64,
    ) -> Result<String, HubError> {
        let mut reader = body.with_config().limit(u64::MAX).reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok("it ended early".to_owned()),
                Ok(count) => {
                    if *done + count as u64 > file.bytes {
                        std::fs::remove_file(path).map_err(|source| HubError::file(path, source))?;
                        let (expected, found) = (format!("{} bytes", file.bytes), "more".to_owned());
                        return Err(HubError::Damaged { path: file.path.clone(), expected, found });
                    }
                    part.write_all(&chunk[..count]).map_err(|source| HubError::file(path, source))?;
                    hasher.update(&chunk[..count]);
                    *done += count as u64;
                    self.bar.inc(count as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(error.to_string()),
            }
        }
    }
}

/// Hashes the part of a file that is there; one that is too long is dropped.
fn resumed(file: &RemoteFile, part: &mut File) -> std::io::Result<(BlobHasher, u64)> {
    let mut hasher = BlobHasher::of(file);
    if part.metadata()?.len() > file.bytes {
        part.set_len(0)?;
    }
    part.seek(SeekFrom::Start(0))?;
    let (mut chunk, mut done) = (vec![0; CHUNK_BYTES], 0);
    loop {
        match part.read(&mut chunk)? {
            0 => return Ok((hasher, done)),
            count => {
                hasher.update(&chunk[..count]);
                done += count as u64;
            }
        }
    }
}

/// Returns whether an answer has the bytes from `done` on.
fn goes_on(answer: &Response<Body>, done: u64) -> bool {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return done == 0;
    }
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    range
        .strip_prefix("bytes ")
        .and_then(|range| range.split_once('-'))
        .is_some_and(|(from, _)| from.parse() == Ok(done))
}
