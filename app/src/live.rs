//! Model and labels of a running loop. When another bundle becomes active or the label file changes, they are loaded in the
//! background and swapped in between two frames.

mod loader;
pub(crate) mod watch;

use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use spotter_engine::bundle::Bundle;
use spotter_engine::decide::Rules;
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::tower::Threads;

use self::loader::Loader;
use self::watch::Watcher;
use crate::bundles::{self, Slots};
use crate::config::Config;
use crate::labels::demo::Scene;
use crate::labels::label_file::ParsedLabels;
use crate::output::Item;
use crate::process::Stop;
use crate::process::supervise::{Heartbeat, Heartbeats};
use crate::recognizer::Recognizer;

/// The current model and labels, and the next ones if there are any.
pub(crate) struct Live {
    recognizer: Recognizer,
    labels: Labels,
    bundle: String,
    next: Arc<Mutex<Next>>,
    /// `None` for the demo model's labels, which are inside the program.
    label_watcher: Option<Watcher>,
    /// `None` if the configuration names the bundle.
    _slot_watcher: Option<Watcher>,
    /// Heartbeats of the watchers. They work one at a time, and the one that works beats for both.
    beats: Heartbeats,
    /// Set when this is dropped, before it waits for the watchers.
    ending: Stop,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.ending.set();
    }
}

/// What is run in place of what the configuration chooses, or where it chooses nothing.
#[derive(Debug)]
pub(crate) struct Given {
    /// Name and content of a bundle; `None` for the configuration's choice. With it there must be no slots to follow.
    pub(crate) bundle: Option<(String, Bundle)>,
    /// The labels.
    pub(crate) labels: GivenLabels,
}

/// Labels that are not in a file.
#[derive(Debug)]
pub(crate) enum GivenLabels {
    /// Those of the demo model for this scene, unless the configuration names a file.
    Of(Scene),
    /// These.
    Typed(ParsedLabels),
}

/// A label set, ready for frames.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    /// What frames are scored against.
    pub(crate) embeddings: Arc<LabelEmbeddings>,
    /// How the scores are decided about.
    pub(crate) rules: Arc<Rules>,
}

/// Changes that take effect between two frames.
#[derive(Default)]
struct Next {
    /// Name and image tower of another bundle. It always comes with labels, embedded by its text tower.
    model: Option<(String, Recognizer)>,
    labels: Option<Labels>,
}

impl Live {
    /// Loads the bundle that is given, else the one that `config` chooses, embeds the labels, and watches both for changes.
    /// Events about bundles go to `events`.
    pub(crate) fn start(config: &Config, given: Given, threads: &Threads, events: SyncSender<Item>) -> Result<Self> {
        let slots = bundles::slots(config);
        let next = Arc::new(Mutex::new(Next::default()));
        let beats: Heartbeats =
            (0..2).map(|_| Arc::new(Heartbeat::new(Some(watch::STEP_MAX), Instant::now()))).collect();
        let [label_beat, slot_beat] = [0, 1].map(|index| Arc::clone(&beats[index]));
        let ending = Stop::new();
        let loader = Loader::new(config, slots.clone(), threads, events, beats.clone(), ending.clone(), given);
        let loader = Arc::new(Mutex::new(loader));
        // Locked until the first load is done, so that changes wait; watched before anything is read, so that none is
        // missed.
        let mut first = lock(&loader);
        let label_watcher = config
            .labels
            .as_deref()
            .map(|path| start_watcher(path, label_beat, &loader, &next, Loader::read_labels))
            .transpose()?;
        let state_file = slots.as_ref().map(Slots::state_file);
        let slot_watcher =
            state_file.map(|path| start_watcher(&path, slot_beat, &loader, &next, Loader::follow)).transpose()?;
        let (recognizer, labels) = first.first()?;
        let bundle = first.name().to_owned();
        drop(first);
        // Only those of watchers that exist.
        let watched = [label_watcher.is_some(), slot_watcher.is_some()];
        let beats = beats.into_iter().zip(watched).filter(|(_, watched)| *watched).map(|(beat, _)| beat).collect();
        Ok(Self { recognizer, labels, bundle, next, label_watcher, _slot_watcher: slot_watcher, beats, ending })
    }

    /// Returns whether a watcher hangs, which also loads bundles and labels.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        self.beats.iter().any(|beat| beat.is_missed(now))
    }

    /// Swaps in what has changed. Call it between two frames.
    pub(crate) fn refresh(&mut self) {
        let Next { model, labels } = std::mem::take(&mut *lock(&self.next));
        if let Some((bundle, recognizer)) = model {
            log::info!("now running bundle {bundle} instead of {}", self.bundle);
            (self.bundle, self.recognizer) = (bundle, recognizer);
        }
        if let Some(labels) = labels {
            self.labels = labels;
        }
    }

    /// The recogniser, and the labels to score frames against.
    pub(crate) fn parts(&mut self) -> (&mut Recognizer, &Labels) {
        (&mut self.recognizer, &self.labels)
    }

    /// The labels to score frames against.
    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The running bundle: a slot's name, or the path that the configuration names.
    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Reads the label file again, as if it had changed.
    pub(crate) fn reload(&self) {
        match &self.label_watcher {
            Some(watcher) => watcher.poke(),
            None => log::info!("nothing to reload: the labels are inside the program"),
        }
    }
}

/// Runs `work` at each change of the file, and leaves the result for the loop.
fn start_watcher(
    path: &Path,
    beat: Arc<Heartbeat>,
    loader: &Arc<Mutex<Loader>>,
    next: &Arc<Mutex<Next>>,
    work: impl Fn(&mut Loader) -> Next + Send + 'static,
) -> Result<Watcher> {
    let (loader, next) = (Arc::clone(loader), Arc::clone(next));
    let on_change = move || {
        // Locked until the result is in place, so that labels never meet another bundle than the one that embedded them.
        let mut loader = lock(&loader);
        let Next { model, labels } = work(&mut loader);
        let mut next = lock(&next);
        next.model = model.or(next.model.take());
        next.labels = labels.or(next.labels.take());
    };
    Watcher::start(path, beat, on_change).with_context(|| format!("{}: cannot be watched", path.display()))
}

/// The guarded values are consistent at any moment, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
