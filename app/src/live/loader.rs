//! Loads bundles and embeds labels, aside from the loop.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use spotter_engine::bundle::Bundle;
use spotter_engine::labels::{Label, LabelEmbeddings};
use spotter_engine::tower::Threads;

use super::Next;
use crate::bundles::rehearsal::{Refusal, rehearse};
use crate::bundles::{BUILT_IN, Slots, State, Trial};
use crate::config::Config;
use crate::console::all_of;
use crate::bundles::demo;
use crate::labels::embedder::Embedder;
use crate::labels::label_file::{self, LabelFile};
use crate::output::{Event, EventKind, Item};
use crate::recognizer::Recognizer;
use crate::source::Stop;
use crate::process::supervise::{Heartbeats, caught, beat_all};
use crate::live::watch::CALL_MAX;

/// Loads what is to run; shared by the threads that watch for changes.
pub(super) struct Loader {
    config: Config,
    slots: Option<Slots>,
    threads: Threads,
    events: SyncSender<Item>,
    /// Of all threads that share this.
    beats: Heartbeats,
    /// Set when the program ends, or whatever else had this load.
    ending: Stop,
    /// What was loaded last; `None` before the first load.
    loaded: Option<Loaded>,
}

/// What is kept of a loaded bundle, to embed other labels.
struct Loaded {
    name: String,
    embedder: Embedder,
    templates: Vec<String>,
    /// What was embedded last.
    labels: Vec<Label>,
}

/// A bundle that works, with its labels.
type Model = (Recognizer, Arc<LabelEmbeddings>);

impl Loader {
    pub(super) fn new(
        config: &Config,
        slots: Option<Slots>,
        threads: &Threads,
        events: SyncSender<Item>,
        beats: Heartbeats,
        ending: Stop,
    ) -> Self {
        Self { config: config.clone(), slots, threads: threads.clone(), events, beats, ending, loaded: None }
    }

    /// Name of the bundle that was loaded last.
    pub(super) fn name(&self) -> &str {
        self.loaded.as_ref().map_or("", |loaded| &loaded.name)
    }

    /// Loads the bundle to begin with.
    pub(super) fn first(&mut self) -> Result<Model> {
        // A label file that is broken is not the bundle's fault, and must not have it given up.
        self.labels(&["{}".to_owned()])?;
        if let Some(slots) = self.slots.clone() {
            // The one inside the program is always there to end with.
            return loop {
                if let Some(model) = self.load_active(&slots)? {
                    break Ok(model);
                }
            };
        }
        let (name, bundle) = match &self.config.bundle {
            Some(path) => (path.display().to_string(), Bundle::open(path)?),
            None => (BUILT_IN.to_owned(), demo::bundle()?),
        };
        self.load(name, bundle)
    }

    /// Loads the active slot, if it is another one than the one loaded last.
    pub(super) fn follow(&mut self) -> Next {
        let Some(slots) = self.slots.clone() else { return Next::default() };
        if slots.state().is_ok_and(|state| state.active == self.name()) {
            return Next::default();
        }
        if let Err(error) = self.labels(&["{}".to_owned()]) {
            log::error!("{error:#}; the bundle stays {} until the labels are mended", self.name());
            return Next::default();
        }
        match self.load_active(&slots) {
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

    /// Embeds the label file's labels, unless it is broken or says what it said before.
    pub(super) fn read_labels(&mut self) -> Next {
        // A change of the bundle that could not be made because of the labels is made now.
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
        if file.labels == loaded.labels {
            log::info!("labels unchanged: {}", path.display());
            return Next::default();
        }
        let embedded = catch_panic(|| embed(&mut loaded.embedder, &file))
            .inspect_err(|error| log::error!("{}: {error:#}; the labels stay as they were", path.display()))
            .ok();
        if embedded.is_some() {
            loaded.labels = file.labels;
        }
        Next { model: None, labels: embedded }
    }

    /// Loads the active slot, and goes back from one that cannot be loaded; `None` where that leads to the one that is
    /// loaded already, and where the program ends or another slot is chosen meanwhile.
    fn load_active(&mut self, slots: &Slots) -> Result<Option<Model>> {
        let wanted = slots.state().map_or_else(|_| BUILT_IN.to_owned(), |state| state.active);
        let mut trial = Trial::begin(slots);
        let first = self.loaded.is_none();
        let mut why: Option<String> = None;
        loop {
            let name = trial.next();
            if self.loaded.as_ref().is_some_and(|loaded| loaded.name == name) {
                trial.worked();
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                self.tell(EventKind::BundleRefused, format!("{wanted} cannot be loaded, {name} stays{why}"));
                return Ok(None);
            }
            let error = match self.rehearse(slots, &trial, &name) {
                // Whatever was chosen instead is followed by the next call.
                Err(Refusal::Stopped) => return Ok(None),
                Err(refusal) => {
                    trial.refused();
                    anyhow::Error::from(refusal)
                }
                Ok(()) => {
                    let opened = catch_panic(|| Ok(trial.open(&name)?));
                    match opened.and_then(|bundle| catch_panic(|| self.load(name.clone(), bundle))) {
                        Ok(model) => {
                            trial.worked();
                            // What a program begins with is no news.
                            if !first {
                                self.tell(EventKind::BundleLoaded, name);
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

    /// Has another process load what has not been loaded here yet, so that this one can go on whatever comes of it.
    fn rehearse(&self, slots: &Slots, trial: &Trial<'_>, name: &str) -> Result<(), Refusal> {
        // At the first load nothing runs yet that it could harm, and the tries of the trial outlive the program.
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

    /// Loads a bundle, has it look at a picture, and embeds the labels; nothing of what was loaded before is touched until
    /// all of that has worked.
    fn load(&mut self, name: String, bundle: Bundle) -> Result<Model> {
        let bundle = Arc::new(bundle);
        beat_all(&self.beats, CALL_MAX);
        let mut recognizer = Recognizer::open(&bundle, &self.threads)?;
        recognizer.probe()?;
        beat_all(&self.beats, CALL_MAX);
        let templates = bundle.manifest().templates.clone();
        let file = self.labels(&templates)?;
        let embedder = Embedder::new(bundle, self.config.state_dir.as_deref(), &self.threads);
        let mut embedder = embedder.with_beats(self.beats.clone());
        let embeddings = embed(&mut embedder, &file)?;
        log::info!("bundle: {name}");
        self.loaded = Some(Loaded { name, embedder, templates, labels: file.labels });
        Ok((recognizer, embeddings))
    }

    fn labels(&self, templates: &[String]) -> Result<LabelFile> {
        demo::labels(&self.config, templates).map_err(|problems| all_of(&problems))
    }

    fn tell(&self, kind: EventKind, message: String) {
        // News that find no room are lost; the log has them.
        let _ = self.events.try_send(Item::Event(Event::now(kind, message)));
    }
}

fn embed(embedder: &mut Embedder, file: &LabelFile) -> Result<Arc<LabelEmbeddings>> {
    let (embeddings, effort) = embedder.embed(file)?;
    log::info!(
        "labels: {} from {}, {} sentences: {} cached, {} embedded",
        file.labels.len(),
        file.path,
        effort.cached + effort.embedded,
        effort.cached,
        effort.embedded
    );
    Ok(Arc::new(embeddings))
}
