//! Model and labels of a running loop: loaded aside when another bundle becomes active or the label file changes, swapped
//! in whole between two frames.

mod loader;

use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use spotter_engine::labels::LabelEmbeddings;
use spotter_engine::tower::Threads;

use crate::bundles::{self, Slots};
use crate::config::Config;
use crate::output::Item;
use crate::recognizer::Recognizer;
use crate::source::Stop;
use crate::process::supervise::{Heartbeat, Heartbeats};
use crate::live::watch::{self, Watcher};
use loader::Loader;

/// What is in force, and what comes next when there is something.
pub struct Live {
    recognizer: Recognizer,
    labels: Arc<LabelEmbeddings>,
    bundle: String,
    next: Arc<Mutex<Next>>,
    /// `None` for labels that are inside the program.
    label_watcher: Option<Watcher>,
    /// `None` where the bundle is named, and not a slot's.
    _slot_watcher: Option<Watcher>,
    /// Of the watchers. They work one at a time, and whoever does gives a sign for both.
    beats: Heartbeats,
    /// Set when this ends, before the watchers are waited for.
    ending: Stop,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.ending.set();
    }
}

/// What takes effect between two frames.
#[derive(Default)]
struct Next {
    /// Name and image tower of another bundle. There are always labels with it, embedded by its text tower.
    model: Option<(String, Recognizer)>,
    labels: Option<Arc<LabelEmbeddings>>,
}

impl Live {
    /// Loads the bundle that `config` chooses, embeds its labels, and watches both choices from here on. What happens to
    /// bundles is told to `events`.
    pub fn start(config: &Config, threads: &Threads, events: SyncSender<Item>) -> Result<Self> {
        let slots = bundles::slots(config);
        let next = Arc::new(Mutex::new(Next::default()));
        let beats: Heartbeats = (0..2).map(|_| Arc::new(Heartbeat::new(Some(watch::STEP_MAX), Instant::now()))).collect();
        let [label_beat, slot_beat] = [0, 1].map(|index| Arc::clone(&beats[index]));
        let ending = Stop::new();
        let loader = Loader::new(config, slots.clone(), threads, events, beats.clone(), ending.clone());
        let loader = Arc::new(Mutex::new(loader));
        // Held until the first load is done, so that a change meanwhile waits; watched before anything is read, so that no
        // change falls between the two.
        let mut first = lock(&loader);
        let label_watcher = config
            .labels
            .as_deref()
            .map(|path| watch(path, label_beat, &loader, &next, Loader::read_labels))
            .transpose()?;
        let state_file = slots.as_ref().map(Slots::state_file);
        let slot_watcher =
            state_file.map(|path| watch(&path, slot_beat, &loader, &next, Loader::follow)).transpose()?;
        let (recognizer, labels) = first.first()?;
        let bundle = first.name().to_owned();
        drop(first);
        // Those of watchers that are there.
        let watched = [label_watcher.is_some(), slot_watcher.is_some()];
        let beats = beats.into_iter().zip(watched).filter(|(_, watched)| *watched).map(|(beat, _)| beat).collect();
        Ok(Self { recognizer, labels, bundle, next, label_watcher, _slot_watcher: slot_watcher, beats, ending })
    }

    /// Whether what loads bundles and labels hangs.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        self.beats.iter().any(|beat| beat.is_missed(now))
    }

    /// Takes what changed; to be called between two frames. What runs then stays until the next call.
    pub fn refresh(&mut self) {
        let Next { model, labels } = std::mem::take(&mut *lock(&self.next));
        if let Some((bundle, recognizer)) = model {
            log::info!("bundle {bundle} runs now, instead of {}", self.bundle);
            (self.bundle, self.recognizer) = (bundle, recognizer);
        }
        self.labels = labels.unwrap_or_else(|| Arc::clone(&self.labels));
    }

    /// What turns frames into scores, and the labels to score them against.
    pub fn parts(&mut self) -> (&mut Recognizer, &Arc<LabelEmbeddings>) {
        (&mut self.recognizer, &self.labels)
    }

    /// The bundle that runs: a slot's name, or the path of a bundle that was named.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Reads the label file anew, as if it had changed.
    pub fn reload(&self) {
        match &self.label_watcher {
            Some(watcher) => watcher.poke(),
            None => log::info!("nothing to read anew: the labels are inside the program"),
        }
    }
}

/// Has `work` done at each change of the file, and puts what comes of it where the loop takes it.
fn watch(
    path: &Path,
    beat: Arc<Heartbeat>,
    loader: &Arc<Mutex<Loader>>,
    next: &Arc<Mutex<Next>>,
    work: impl Fn(&mut Loader) -> Next + Send + 'static,
) -> Result<Watcher> {
    let (loader, next) = (Arc::clone(loader), Arc::clone(next));
    let on_change = move || {
        // Held until the result is in place, so that labels never meet another bundle than the one that embedded them.
        let mut loader = lock(&loader);
        let Next { model, labels } = work(&mut loader);
        let mut next = lock(&next);
        next.model = model.or(next.model.take());
        next.labels = labels.or(next.labels.take());
    };
    Watcher::start(path, beat, on_change).with_context(|| format!("{}: cannot be watched", path.display()))
}

/// What the locks guard is whole at any moment, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
