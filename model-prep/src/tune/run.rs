//! The run: epochs of steps, evaluation after each, checkpoints, and the state to resume from.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use spotter_engine::hash::{Hasher, hex};
use spotter_engine::printable::{printable, printable_path};

use super::error::TuneError;
use super::evaluation::evaluate;
use super::inputs::Inputs;
use super::lock::{Lock, Locking};
use super::model::{Batch, Model};
use super::optimizer::{AdamW, Optimizer, Schedule, norm};
use super::output::{WEIGHTS_FILE, model_card, write_files, write_weights};
use super::pairs::{LISTED_MAX, Pairs, TEMPLATES};
use super::plot;
use super::random::{Random, key};
use super::replace::{replace, replace_by};
use super::state::{self, Epoch, Progress, Run};
use crate::checkpoint::Checkpoint;

/// Time between two saved states. Saving takes its own time, and no more than a minute may be lost.
const SAVE_INTERVAL: Duration = Duration::from_secs(45);

/// Batches that wait besides the one that is trained on and the next, which is loaded meanwhile: none, since inputs of large
/// batches take gigabytes.
const WAITING: usize = 0;

/// Epochs, if neither their number nor a time is given.
const EPOCHS: u64 = 10;

/// Largest share of the steps, and number of them, in which the learning rate grows.
const WARMUP: (f64, u64) = (0.1, 200);

/// Share of the time that is planned for steps; evaluations take the rest.
const TIME_FOR_STEPS: f64 = 0.95;

/// Folder inside of the result for what only the run itself needs.
const OWN_FOLDER: &str = "tune";

/// Files in that folder: what a run continues from, until it is finished, and its plot, which is written after the first state.
const STATE_FILE: &str = "state.safetensors";
const PLOT_FILE: &str = "run.svg";

/// Folder inside of the result with the last checkpoint.
const LAST_FOLDER: &str = "last";

/// What to train, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sets that are trained on, one or more.
    pub data: Vec<PathBuf>,
    /// Sets that are evaluated; if empty, a share of the images of `data` is held out.
    pub eval: Vec<PathBuf>,
    /// Folder of the result.
    pub out: PathBuf,
    /// What is not trained.
    pub locking: Locking,
    /// Number of epochs.
    pub epochs: Option<u64>,
    /// Minutes after which training ends, in place of a number of epochs.
    pub minutes: Option<f64>,
    /// Pairs of a step.
    pub batch: usize,
    /// Largest learning rate; by what is trained if `None`.
    pub rate: Option<f64>,
    /// Steps in which the rate grows; by the number of steps if `None`.
    pub warmup: Option<u64>,
    /// Decay of weights.
    pub weight_decay: f64,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Templates for class names; built-in ones if empty.
    pub templates: Vec<String>,
    /// Whether to continue a run.
    pub resume: bool,
}

/// What happens during a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// So many of the images or sentences went through a locked tower.
    Prepared {
        /// `images` or `texts`.
        what: &'a str,
        /// Number done.
        done: usize,
        /// Number of all.
        of: usize,
    },
    /// Training starts, or goes on, at a step.
    Started {
        /// Number of steps done.
        step: u64,
        /// Number of all steps, if it is known.
        steps: Option<u64>,
        /// Pairs of a step.
        batch: usize,
    },
    /// A step is done.
    Step {
        /// Number of steps done.
        step: u64,
        /// Number of all steps, if it is known.
        steps: Option<u64>,
        /// Its loss.
        loss: f64,
    },
    /// An epoch is done and was evaluated.
    Epoch(&'a Epoch),
    /// Something that the user should know.
    Note(String),
}

/// Called with what happens, from any thread.
pub type Listener<'a> = &'a (dyn Fn(&Event<'_>) + Sync);

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Results before training and after each epoch.
    pub epochs: Vec<Epoch>,
    /// Index of the best of them.
    pub best: usize,
    /// Seconds spent on training.
    pub seconds: f64,
}

/// Trains `checkpoint` and writes the result to `options.out`.
pub fn tune(checkpoint: &Checkpoint, options: &Options, listener: Listener<'_>) -> Result<Report, TuneError> {
    let own = open_folder(options)?;
    let templates = match options.templates.is_empty() {
        true => TEMPLATES.map(str::to_owned).to_vec(),
        false => options.templates.clone(),
    };
    let mut pairs = Pairs::open(&options.data, &templates)?;
    let held = match options.eval.is_empty() {
        true => pairs.hold_out(options.seed),
        false => Pairs::open(&options.eval, &[crate::overrides::DEFAULT_TEMPLATE.to_owned()])?,
    };
    let first = options.data.first().map_or(Path::new(""), PathBuf::as_path);
    pairs.check(first)?;
    note_bad_rows(&pairs, listener);
    let model = Model::new(&checkpoint.config, &checkpoint.tensors, &options.locking)?;
    let prepared = |what: &str, done: usize, of: usize| listener(&Event::Prepared { what, done, of });
    let weights = checkpoint.tensors.sha256()?;
    let what = (weights.as_str(), &options.locking);
    let prepare = |pairs, name| Inputs::prepare(checkpoint, pairs, &model, what, (own.as_path(), name), &prepared);
    let (inputs, held_inputs) = (prepare(&pairs, "train")?, prepare(&held, "eval")?);
    check_readable(&inputs, first)?;
    let mut trainer = Trainer::new((checkpoint, weights), options, &model, [&inputs, &held_inputs], &own)?;
    trainer.start(listener)?;
    trainer.train(listener)?;
    note_unreadable(&[&inputs, &held_inputs], listener);
    trainer.finish()
}

/// Creates the folder of the result with that of the run's own files.
fn open_folder(options: &Options) -> Result<PathBuf, TuneError> {
    let (out, own) = (&options.out, options.out.join(OWN_FOLDER));
    let is_empty = std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    let is_ours = own.is_dir();
    if !(is_empty || options.resume && is_ours) {
        let expected = "no folder or an empty one, or --resume to continue the run that it holds";
        return Err(TuneError::Option {
            option: "--out",
            expected: expected.into(),
            found: format!("{}, which is not empty", out.display()),
        });
    }
    if own.join(PLOT_FILE).exists() && !own.join(STATE_FILE).exists() {
        let found = format!("{}, whose run is finished", out.display());
        return Err(TuneError::Option { option: "--resume", expected: "a run that was stopped".into(), found });
    }
    std::fs::create_dir_all(&own).map_err(|source| TuneError::Io { path: own.clone(), source })?;
    Ok(own)
}

fn note_bad_rows(pairs: &Pairs, listener: Listener<'_>) {
    let rows = &pairs.bad_rows;
    if rows.is_empty() {
        return;
    }
    let listed: Vec<_> = rows.iter().take(LISTED_MAX).map(|row| printable(row)).collect();
    listener(&Event::Note(format!("{} lines cannot be used and are left out:\n  {}", rows.len(), listed.join("\n  "))));
}

fn note_unreadable(inputs: &[&Inputs<'_>], listener: Listener<'_>) {
    let all: Vec<_> = inputs.iter().flat_map(|inputs| inputs.unreadable()).collect();
    if all.is_empty() {
        return;
    }
    let listed = all.iter().take(LISTED_MAX).map(|(path, why)| format!("{}: {}", printable_path(path), printable(why)));
    let listed = listed.collect::<Vec<_>>().join("\n  ");
    listener(&Event::Note(format!("{} images could not be read and were left out:\n  {listed}", all.len())));
}

/// Refuses a set of which no image can be read. Where images are read in every step, some of them are tried.
fn check_readable(inputs: &Inputs<'_>, path: &Path) -> Result<(), TuneError> {
    const TRIED: usize = 64;
    let items: Vec<usize> = (0..inputs.pairs.items.len()).collect();
    for block in items.chunks(TRIED) {
        if !inputs.images(block, None)?.0.is_empty() {
            return Ok(());
        }
    }
    let unreadable = inputs.unreadable();
    let first = unreadable.iter().next().map(|(path, why)| format!("the first is {}: {why}", path.display()));
    Err(TuneError::Data {
        path: path.to_owned(),
        expected: "images that can be read".into(),
        found: format!("none of {}; {}", items.len(), first.unwrap_or_default()),
    })
}

/// The learning rate for what is trained.
fn default_rate(lock: Lock) -> f64 {
    match lock {
        Lock::Both => 1e-3,
        Lock::Image | Lock::Text | Lock::None => 1e-4,
    }
}

/// A model in training.
struct Trainer<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a Options,
    model: &'a Model<'a>,
    inputs: [&'a Inputs<'a>; 2],
    optimizer: Optimizer,
    progress: Progress,
    /// Steps of an epoch.
    per_epoch: u64,
    state: PathBuf,
    own: &'a Path,
    saved: Instant,
    /// When training started, less what was spent on it before.
    started: Instant,
    before: f64,
}

/// One batch, or `None` if fewer than two of its images can be read; with some of its files.
type Loaded = Result<(Option<Batch>, String), TuneError>;

impl<'a> Trainer<'a> {
    /// A trainer of `checkpoint`, whose weights have the SHA-256 `weights`.
    fn new(
        (checkpoint, weights): (&'a Checkpoint, String),
        options: &'a Options,
        model: &'a Model<'a>,
        inputs: [&'a Inputs<'a>; 2],
        own: &'a Path,
    ) -> Result<Self, TuneError> {
        let per_epoch = (inputs[0].pairs.items.len() / options.batch.max(1)).max(1) as u64;
        let epochs = options.epochs.or_else(|| options.minutes.is_none().then_some(EPOCHS));
        let steps = epochs.map(|epochs| epochs * per_epoch);
        let (share, most) = WARMUP;
        let warmup = options.warmup.unwrap_or_else(|| {
            let steps = steps.unwrap_or(10 * per_epoch.max(1));
            ((steps as f64 * share) as u64).clamp(1, most)
        });
        let rate = options.rate.unwrap_or_else(|| default_rate(options.locking.lock));
        let fingerprint = |inputs: &Inputs<'_>| {
            let mut hasher = Hasher::new();
            inputs.fingerprints.iter().for_each(|fingerprint| hasher.update(fingerprint));
            hex(&hasher.finish())
        };
        let run = Run {
            checkpoint: weights,
            data: fingerprint(inputs[0]),
            eval: fingerprint(inputs[1]),
            locking: options.locking,
            optimizer: AdamW { rate, weight_decay: options.weight_decay, norm_max: 1.0 },
            warmup,
            batch: options.batch,
            epochs,
            minutes: options.minutes,
            seed: options.seed,
        };
        let schedule = Schedule { warmup, steps: steps.filter(|_| options.minutes.is_none()) };
        let state = own.join(STATE_FILE);
        let (optimizer, progress) = if options.resume && state.exists() {
            state::load(&state, &model.parameters, &run)?
        } else {
            let (losses, epochs) = (Vec::new(), Vec::new());
            (Optimizer::default(), Progress { run, schedule, step: 0, seconds: 0.0, losses, epochs })
        };
        let before = progress.seconds;
        let now = Instant::now();
        Ok(Self {
            checkpoint,
            options,
            model,
            inputs,
            optimizer,
            progress,
            per_epoch,
            state,
            own,
            saved: now,
            started: now,
            before,
        })
    }

    /// Seconds spent on training, in this process and before.
    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Evaluates the model before training, unless the run is resumed.
    fn start(&mut self, listener: Listener<'_>) -> Result<(), TuneError> {
        if self.progress.epochs.is_empty() {
            self.end_epoch(None, listener)?;
            // Only training is to be counted.
            self.started = Instant::now();
        }
        let (step, steps) = (self.progress.step, self.progress.schedule.steps);
        listener(&Event::Started { step, steps, batch: self.options.batch });
        Ok(())
    }

    fn is_done(&self) -> bool {
        let step = self.progress.step;
        let by_epochs = self.progress.run.epochs.is_some_and(|epochs| step >= epochs * self.per_epoch);
        let by_time = self.options.minutes.is_some_and(|minutes| self.seconds() >= 60.0 * minutes);
        by_epochs || by_time || self.progress.schedule.steps.is_some_and(|steps| step >= steps)
    }

    /// Trains until the end. Batches are loaded by another thread.
    fn train(&mut self, listener: Listener<'_>) -> Result<(), TuneError> {
        if self.is_done() {
            return Ok(());
        }
        let (inputs, options, step) = (self.inputs[0], self.options, self.progress.step);
        let per_epoch = self.per_epoch;
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(WAITING);
            std::thread::Builder::new()
                .name("load".into())
                .spawn_scoped(scope, move || load_all(inputs, options, per_epoch, step, &sender))
                .map_err(|source| TuneError::Io { path: self.own.to_owned(), source })?;
            self.steps(&receiver, listener)
        })
    }

    fn steps(&mut self, batches: &Receiver<Loaded>, listener: Listener<'_>) -> Result<(), TuneError> {
        while !self.is_done() {
            let lost = || TuneError::from(candle_core::Error::Msg("the thread that loads images has ended".into()));
            let (batch, files) = batches.recv().map_err(|_| lost())??;
            self.step(batch, &files)?;
            let progress = &self.progress;
            let loss = progress.losses.last().map_or(f64::NAN, |values| f64::from(values[0]));
            let (step, steps) = (progress.step, progress.schedule.steps);
            listener(&Event::Step { step, steps, loss });
            if self.progress.step == self.progress.schedule.warmup.max(1) {
                self.plan();
            }
            if self.progress.step.is_multiple_of(self.per_epoch) || self.is_done() {
                let first = self.progress.epochs.last().map_or(0, |epoch| epoch.step) as usize;
                let losses = &self.progress.losses[first..];
                let mean = losses.iter().map(|values| f64::from(values[0])).sum::<f64>() / losses.len().max(1) as f64;
                self.end_epoch(Some(mean), listener)?;
            } else if self.saved.elapsed() >= SAVE_INTERVAL {
                self.save()?;
            }
        }
        Ok(())
    }

    /// Sets the number of steps for the time that is left.
    fn plan(&mut self) {
        let (Some(minutes), None) = (self.options.minutes, self.progress.schedule.steps) else { return };
        let (seconds, step) = (self.seconds(), self.progress.step.max(1));
        let rest = (60.0 * minutes - seconds).max(0.0) * TIME_FOR_STEPS / (seconds / step as f64).max(1e-9);
        let steps = step + rest as u64;
        let most = self.progress.run.epochs.map_or(steps, |epochs| epochs * self.per_epoch);
        self.progress.schedule.steps = Some(steps.min(most).max(step));
    }

    /// One update. Nothing changes if the loss or a gradient is not finite.
    fn step(&mut self, batch: Option<Batch>, files: &str) -> Result<(), TuneError> {
        let scale = self.model.parameters.scalar("logit_scale")?;
        let Some(batch) = batch else {
            let last = self.progress.losses.last().copied().unwrap_or([0.0, scale]);
            self.progress.losses.push(last);
            self.progress.step += 1;
            return Ok(());
        };
        let model = self.model;
        let number = self.progress.step;
        let noise = key(&[self.options.seed, number, 4]);
        let step = model.step(&batch, noise, model.parts(&batch)?)?;
        let norm = norm(&step.gradients);
        for (what, value) in [("the loss", step.loss), ("the norm of the gradients", norm)] {
            if !value.is_finite() {
                return self.fail(what, value, files);
            }
        }
        let share = self.progress.schedule.share(number);
        self.optimizer.update(&model.parameters, &step.gradients, &self.progress.run.optimizer, [share, norm])?;
        self.progress.losses.push([step.loss as f32, scale]);
        self.progress.step += 1;
        Ok(())
    }

    /// The error of a step that failed. The checkpoints of the last evaluation stay: the weights of this moment may be what
    /// the failure comes from.
    fn fail(&self, what: &'static str, value: f64, files: &str) -> Result<(), TuneError> {
        let kept = self.options.out.join(LAST_FOLDER);
        let number = self.progress.step;
        Err(TuneError::NotFinite {
            step: number + 1,
            epoch: number / self.per_epoch + 1,
            batch: number % self.per_epoch + 1,
            what,
            value,
            kept,
            samples: files.to_owned(),
        })
    }

    /// Evaluates, and writes checkpoints, plot, table and state.
    fn end_epoch(&mut self, loss: Option<f64>, listener: Listener<'_>) -> Result<(), TuneError> {
        let results = evaluate(self.model, self.inputs[1])?;
        let seconds = if loss.is_some() { self.seconds() } else { 0.0 };
        let step = self.progress.step;
        let number = step.div_ceil(self.per_epoch);
        let epoch = Epoch { epoch: number, step, seconds, loss, results };
        let best = self.progress.epochs.iter().map(Epoch::score).fold(f64::NEG_INFINITY, f64::max);
        let is_best = epoch.score() >= best;
        listener(&Event::Epoch(&epoch));
        self.progress.epochs.push(epoch);
        self.write_checkpoints(is_best)?;
        self.save()?;
        let title = format!("{}, tuned", self.checkpoint.name());
        replace(&self.own.join(PLOT_FILE), plot::svg(&self.progress, &title).as_bytes())
    }

    fn card(&self) -> String {
        model_card(self.checkpoint, &self.progress.run, &self.options.data, &self.progress.epochs)
    }

    /// Writes the last checkpoint and, if it is the best one so far, the best, which shares its weights' file.
    fn write_checkpoints(&self, is_best: bool) -> Result<(), TuneError> {
        let (best, last) = (&self.options.out, self.options.out.join(LAST_FOLDER));
        write_files(&last, self.checkpoint, &self.card())?;
        write_weights(&last, self.checkpoint, &self.model.parameters)?;
        if !is_best {
            return Ok(());
        }
        write_files(best, self.checkpoint, &self.card())?;
        replace_by(&best.join(WEIGHTS_FILE), |aside| {
            let weights = last.join(WEIGHTS_FILE);
            link_or_copy(&weights, aside).map_err(|source| TuneError::Io { path: aside.to_owned(), source })
        })
    }

    fn save(&mut self) -> Result<(), TuneError> {
        self.saved = Instant::now();
        self.progress.seconds = if self.progress.step == 0 { 0.0 } else { self.seconds() };
        state::save(&self.state, &self.model.parameters, &self.optimizer, &self.progress)
    }

    /// Writes the final model card, and removes the state, which is of no more use.
    fn finish(self) -> Result<Report, TuneError> {
        for folder in [self.options.out.clone(), self.options.out.join(LAST_FOLDER)] {
            replace(&folder.join("MODEL_CARD.md"), self.card().as_bytes())?;
        }
        std::fs::remove_file(&self.state).map_err(|source| TuneError::Io { path: self.state.clone(), source })?;
        let scores: Vec<f64> = self.progress.epochs.iter().map(Epoch::score).collect();
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0);
        Ok(Report { best, seconds: self.seconds(), epochs: self.progress.epochs })
    }
}

/// Gives a file a second name, or copies it where a file can have only one. No file here is changed in place.
fn link_or_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        // Left by a run that was killed.
        std::fs::remove_file(to)?;
    }
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop))
}

/// Loads batch after batch from step `step` on, until nobody takes them.
fn load_all(inputs: &Inputs<'_>, options: &Options, per_epoch: u64, step: u64, sender: &SyncSender<Loaded>) {
    let count = inputs.pairs.items.len();
    let mut order: Option<(u64, Vec<usize>)> = None;
    for step in step.. {
        let (epoch, batch) = (step / per_epoch, (step % per_epoch) as usize);
        let order = match &mut order {
            Some((of, order)) if *of == epoch => order,
            other => &mut other.insert((epoch, Random::new(&[options.seed, epoch, 3]).order(count))).1,
        };
        let place = |batch: usize| batch * count / per_epoch as usize;
        let items = &order[place(batch)..place(batch + 1)];
        if sender.send(load(inputs, items, [options.seed, epoch])).is_err() {
            return;
        }
    }
}

/// Loads the images `items`, and draws a sentence for each.
fn load(inputs: &Inputs<'_>, items: &[usize], parts: [u64; 2]) -> Loaded {
    /// Files that a message names.
    const NAMED: usize = 3;
    let pairs = inputs.pairs;
    let named = items.iter().take(NAMED).map(|item| pairs.file(pairs.items[*item]).display().to_string());
    let files = named.collect::<Vec<_>>().join(", ");
    let (kept, images) = inputs.images(items, Some(parts))?;
    let Some(images) = images.filter(|_| kept.len() >= 2) else { return Ok((None, files)) };
    let chosen: Vec<_> = kept.iter().map(|index| pairs.items[items[*index]]).collect();
    let sentences: Vec<usize> = chosen.iter().map(|item| pairs.drawn(*item, parts)).collect();
    let groups = chosen.iter().map(|item| item.group as u64).collect();
    Ok((Some(Batch { images, texts: inputs.texts(&sentences)?, groups }), files))
}

#[cfg(test)]
mod tests;
