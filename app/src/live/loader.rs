//! Loads bundles and embeds labels, outside of the loop.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use spotter_engine::bundle::Bundle;
use spotter_engine::tower::Threads;

use super::watch::CALL_MAX;
use super::{Given, GivenLabels, Labels, Next};
use crate::bundles;
use crate::bundles::rehearsal::{Refusal, rehearse};
use crate::bundles::{BUILT_IN, Slots, State, Trial};
use crate::calibration;
use crate::config::{Config, all_of};
use crate::labels;
use crate::labels::embedder::Embedder;
use crate::labels::label_file::{self, LabelFile, ParsedLabels};
use crate::output::{Event, EventKind, Item};
use crate::process::Stop;
use crate::process::supervise::{Heartbeats, beat_all, catch_panic};
use crate::recognizer::Recognizer;

/// Loads bundles and labels; shared by the threads that watch for changes.
pub(super) struct Loader {
    config: Config,
    slots: Option<Slots>,
    threads: Threads,
    events: SyncSender<Item>,
    /// Heartbeats of all threads that share this.
    beats: Heartbeats,
    /// Set when the program ends.
    ending: Stop,
    /// What is run in place of what the configuration chooses.
    given: Given,
    /// The current bundle; `None` before the first load.
    loaded: Option<Loaded>,
}

/// The parts of a loaded bundle that embed other labels.
struct Loaded {
    name: String,
    embedder: Embedder,
    templates: Vec<String>,
    /// The labels that were embedded last.
    labels: LabelFile,
}

/// A bundle that works, with its labels.
type Model = (Recognizer, Labels);

impl Loader {
    pub(super) fn new(
        config: &Config,
        slots: Option<Slots>,
        threads: &Threads,
        events: SyncSender<Item>,
        beats: Heartbeats,
        ending: Stop,
        given: Given,
    ) -> Self {
        Self { config: config.clone(), slots, threads: threads.clone(), events, beats, ending, given, loaded: None }
    }

    /// Name of the current bundle; empty before the first load.
    pub(super) fn name(&self) -> &str {
        self.loaded.as_ref().map_or("", |loaded| &loaded.name)
    }

    /// Loads the first bundle.
    pub(super) fn first(&mut self) -> Result<Model> {
        // Parsed first: a broken label file is not the bundle's fault and must not roll the bundle back.
        let labels = self.parse_labels()?;
        if let Some(slots) = self.slots.clone() {
            // The demo bundle is the last one to be tried.
            return loop {
                if let Some(model) = self.load_active(&slots, &labels)? {
                    break Ok(model);
                }
            };
        }
        let (name, bundle) = self.given.bundle.take().map_or_else(|| bundles::open_named(&self.config), Ok)?;
        self.load(name, bundle, &labels)
    }

    /// Loads the active slot, unless it is the current one.
    pub(super) fn follow(&mut self) -> Next {
        let Some(slots) = self.slots.clone() else { return Next::default() };
        if slots.state().is_ok_and(|state| state.active == self.name()) {
            return Next::default();
        }
        let labels = match self.parse_labels() {
            Ok(labels) => labels,
            Err(error) => {
                log::error!("{error:#}; the bundle stays {} until the labels are corrected", self.name());
                return Next::default();
            }
        };
        match self.load_active(&slots, &labels) {
            Ok(Some((recognizer, labels))) => {
                Next { model: Some((self.name().to_owned(), recognizer)), labels: Some(labels) }
            }
            Ok(None) => Next::default(),
            Err(error) => {
                log::error!("{error:#}; the bundle stays {}", self.name());
                Next::default()
            }
        }
    }

    /// Embeds the labels of the label file, unless it is broken or unchanged.
    pub(super) fn read_labels(&mut self) -> Next {
        // A change of the bundle that failed because of the labels is made now.
        let followed = self.follow();
        if followed.model.is_some() {
            return followed;
        }
        let (Some(path), Some(loaded)) = (self.config.labels.clone(), &mut self.loaded) else { return followed };
        let file = match label_file::load(&path, &loaded.templates) {
            Ok(file) => file,
            Err(problems) => {
                problems.iter().for_each(|problem| log::error!("{problem}"));
                log::warn!("the labels stay as they were");
                return Next::default();
            }
        };
        if file.is_same(&loaded.labels) {
            log::info!("labels unchanged: {}", path.display());
            return Next::default();
        }
        let embedded = catch_panic(|| embed(&mut loaded.embedder, &file, &self.config))
            .inspect_err(|error| log::error!("{}: {error:#}; the labels stay as they were", path.display()))
            .ok();
        if embedded.is_some() {
            loaded.labels = file;
        }
        Next { model: None, labels: embedded }
    }

    /// Loads the active slot and rolls back a slot that cannot be loaded. `None` if that leads back to the current bundle, if
    /// the program ends, or if another slot is activated in the meantime.
    fn load_active(&mut self, slots: &Slots, labels: &ParsedLabels) -> Result<Option<Model>> {
        let wanted = slots.state().map_or_else(|_| BUILT_IN.to_owned(), |state| state.active);
        let mut trial = Trial::begin(slots);
        let first = self.loaded.is_none();
        let mut why: Option<String> = None;
        loop {
            let name = trial.next();
            if self.loaded.as_ref().is_some_and(|loaded| loaded.name == name) {
                trial.worked();
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                self.send(EventKind::BundleRefused, format!("{wanted} cannot be loaded, {name} stays{why}"));
                return Ok(None);
            }
            let error = match self.rehearse(slots, &trial, &name) {
                // The next call follows the new choice.
                Err(Refusal::Stopped) => return Ok(None),
                Err(refusal) => {
                    trial.refused();
                    anyhow::Error::from(refusal)
                }
                Ok(()) => {
                    let opened = catch_panic(|| Ok(trial.open(&name)?));
                    match opened.and_then(|bundle| catch_panic(|| self.load(name.clone(), bundle, labels))) {
                        Ok(model) => {
                            trial.worked();
                            // The first bundle is no event.
                            if !first {
                                self.send(EventKind::BundleLoaded, name);
                            }
                            return Ok(Some(model));
                        }
                        Err(error) => {
                            trial.broke();
                            error
                        }
                    }
                }
            };
            if name == BUILT_IN {
                return Err(error);
            }
            log::error!("bundle {name}: {error:#}");
            why.get_or_insert_with(|| format!("{error:#}"));
        }
    }

    /// Loads an unproven bundle in another process first, so that this one survives whatever happens.
    fn rehearse(&self, slots: &Slots, trial: &Trial<'_>, name: &str) -> Result<(), Refusal> {
        // At the first load nothing is running yet, and the trial's counter survives a crash.
        if self.loaded.is_none() || name == BUILT_IN || trial.is_proven() {
            return Ok(());
        }
        let before = slots.state().ok();
        let is_another_chosen = || {
            let is_another = |now: State| before.as_ref().is_some_and(|before| before.active != now.active);
            slots.state().is_ok_and(is_another)
        };
        rehearse(slots, name, self.config.inference.threads, || {
            beat_all(&self.beats, CALL_MAX);
            !self.ending.is_set() && !is_another_chosen()
        })
    }

    /// Loads a bundle, tries it on an image, and embeds the labels. The current bundle is replaced only after all of that has
    /// worked.
    fn load(&mut self, name: String, bundle: Bundle, labels: &ParsedLabels) -> Result<Model> {
        let bundle = Arc::new(bundle);
        beat_all(&self.beats, CALL_MAX);
        let mut recognizer = Recognizer::open(&bundle, &self.threads)?;
        recognizer.probe()?;
        beat_all(&self.beats, CALL_MAX);
        let templates = bundle.manifest().templates.clone();
        let file = labels.resolve(&templates).map_err(|problems| all_of(&problems))?;
        let embedder = Embedder::new(bundle, self.config.state_dir.as_deref(), &self.threads);
        let mut embedder = embedder.with_beats(self.beats.clone());
        let embedded = embed(&mut embedder, &file, &self.config)?;
        log::info!("bundle: {name}");
        self.loaded = Some(Loaded { name, embedder, templates, labels: file });
        Ok((recognizer, embedded))
    }

    fn parse_labels(&self) -> Result<ParsedLabels> {
        // More sentences than a bundle with a single template allows are the file's fault too.
        let single = ["{}".to_owned()];
        let labels = match &self.given.labels {
            GivenLabels::Typed(labels) => Ok(labels.clone()),
            GivenLabels::Of(scene) => labels::demo::parse_configured(&self.config, *scene),
        };
        let labels = labels.and_then(|labels| labels.resolve(&single).map(|_| labels));
        labels.map_err(|problems| all_of(&problems))
    }

    fn send(&self, kind: EventKind, message: String) {
        // Events that find no room are lost; the log has them.
        let _ = self.events.try_send(Item::Event(Event::now(kind, message)));
    }
}

fn embed(embedder: &mut Embedder, file: &LabelFile, config: &Config) -> Result<Labels> {
    let (embeddings, effort) = embedder.embed(file)?;
    log::info!(
        "labels: {} from {}, {} sentences: {} cached, {} embedded",
        file.labels().len(),
        file.path,
        effort.cached + effort.embedded,
        effort.cached,
        effort.embedded
    );
    let rules = calibration::rules(config, embedder.manifest(), file);
    Ok(Labels { embeddings: Arc::new(embeddings), rules })
}
