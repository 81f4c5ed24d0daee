//! `spotter bundle`: installs, lists, activates, rolls back and removes bundles.

use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use spotter_engine::console::write_line;

use crate::bundles::rehearsal::rehearse;
use crate::bundles::{BUILT_IN, SlotError, Slots, State, Terms, check_release, signature_path};
use crate::config::{Config, all_of};
use crate::console::stdout;
use crate::labels::demo::Scene;
use crate::labels::embedder::embed_configured;
use crate::output::json;
use crate::recognizer::{Recognizer, compute};

#[derive(Debug, Args)]
pub(super) struct Bundle {
    /// Configuration file [default: /etc/spotter/spotter.toml if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

impl Bundle {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = Config::load(self.config.as_deref()).map_err(|problems| all_of(&problems))?;
        perform(&config, self.action, &mut stdout())?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check an archive and install it in a slot, without activating it
    Install {
        /// The archive, as `model-prep export` writes it; its signature, if any, is FILE.tar.minisig
        #[arg(value_name = "FILE.tar")]
        archive: PathBuf,
        /// The slot [default: the archive's name without its extension]
        #[arg(long)]
        name: Option<String>,
        /// Activate it at once
        #[arg(long)]
        activate: bool,
        /// Accept it although a newer signed release was accepted before
        #[arg(long)]
        older: bool,
    },
    /// List the slots
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Try a slot's bundle on an image and the labels, and run it from now on
    Activate {
        /// The slot, or `built-in`
        name: String,
        /// Accept it although a newer signed release was accepted before
        #[arg(long)]
        older: bool,
    },
    /// Go back to the previous bundle
    Rollback,
    /// Remove a slot that is neither active nor previous
    Remove {
        /// The slot
        name: String,
    },
}

/// Performs the action and prints what was done.
fn perform(config: &Config, action: Action, out: &mut dyn Write) -> Result<()> {
    let Some(state_dir) = &config.state_dir else {
        bail!("there is no state folder: name one in the configuration (state_dir)");
    };
    let slots = Slots::new(state_dir, config.bundles.public_key.clone());
    if !matches!(action, Action::List { .. }) {
        check_owner(state_dir)?;
    }
    let said = match action {
        Action::Install { archive, name, activate: and_activate, older } => {
            let said = install(config, &slots, &archive, name.as_deref(), older)?;
            match and_activate {
                true => vec![said.1, activate(config, &slots, &said.0, older)?],
                false => vec![said.1],
            }
        }
        Action::List { json } => return list(&slots, json, out),
        Action::Activate { name, older } => vec![activate(config, &slots, &name, older)?],
        Action::Rollback => vec![roll_back(config, &slots)?],
        Action::Remove { name } => {
            slots.remove(&name)?;
            vec![changed(&slots, format!("removed {name}"))]
        }
    };
    said.iter().try_for_each(|line| write_line(out, format_args!("{line}"))).context("standard output")
}

/// Refuses to run as root on another user's folder: the service could not change files of root when it has to roll back.
fn check_owner(state_dir: &Path) -> Result<()> {
    let owner = |path: &Path| std::fs::metadata(path).map(|found| found.uid());
    if let (Ok(0), Ok(owner @ 1..)) = (owner(Path::new("/proc/self")), owner(state_dir)) {
        let place = state_dir.display();
        bail!(
            "{place}: expected its owner, user {owner}, to change it, found root; try sudo -u '#{owner}' spotter bundle ..."
        );
    }
    Ok(())
}

/// Installs an archive; returns the slot's name and the message.
fn install(
    config: &Config,
    slots: &Slots,
    archive: &Path,
    name: Option<&str>,
    older: bool,
) -> Result<(String, String)> {
    let unchecked = config.bundles.public_key.is_none() && signature_path(archive).exists();
    let terms = Terms { bytes_max: config.bundles.bytes_max(), older, now: jiff::Timestamp::now() };
    let installed = slots.install(archive, name, terms)?;
    if unchecked {
        log::warn!("the signature was not checked: the configuration names no public key (bundles.public_key)");
    }
    if installed.has_release == Some(false) {
        log::warn!(
            "the signature's comment names no release, so older archives cannot be recognised: sign with \
             `minisign -Sm FILE.tar -t 'release NUMBER'`"
        );
    }
    let place = slots.path(&installed.name);
    let what = if installed.before { "is already installed" } else { "installed" };
    let said = format!("{} {what} in {}", installed.name, place.display());
    Ok((installed.name, said))
}

fn activate(config: &Config, slots: &Slots, name: &str, older: bool) -> Result<String> {
    not_pinned(config)?;
    let opened = slots.open_signed(name)?;
    let (bundle, signed) = (opened.bundle, opened.signed);
    let accept = |state: &State| match state.active == name {
        true => Ok(()),
        false => check_release(&format!("slot {name:?}"), signed.as_ref(), state, older),
    };
    accept(&slots.state()?)?;
    bundle.verify()?;
    let threads = compute::threads(config.inference.threads)?;
    let bundle = Arc::new(bundle);
    if name == BUILT_IN {
        Recognizer::open(&bundle, &threads)?.probe()?;
    } else {
        // A signal that ends this command ends that process too.
        rehearse(slots, name, config.inference.threads, || true)?;
    }
    // The running program then finds the embeddings in the cache.
    embed_configured(config, Scene::expected(config), &bundle, &threads)?;
    let (before, after) = slots.change(|state| {
        slots.check(name)?;
        accept(state)?;
        let after = state.activated(name);
        // Only signed bundles count; the demo bundle has no release.
        Ok::<State, SlotError>(match &signed {
            Some(signed) => after.with_release(signed.release, older),
            None => after,
        })
    })?;
    Ok(match before.active == after.active {
        true => format!("{name} is already active"),
        false => changed(slots, format!("{name} is active now, instead of {}", before.active)),
    })
}

fn roll_back(config: &Config, slots: &Slots) -> Result<String> {
    not_pinned(config)?;
    let (before, after) = slots.change(|state| {
        let nothing = || SlotError::NothingBefore { active: state.active.clone() };
        let after = state.rolled_back().ok_or_else(nothing)?;
        let opened = slots.open_signed(&after.active)?;
        // A bundle that has worked here may run again, however old it is.
        if !state.previous_proven {
            check_release(&format!("slot {:?}", after.active), opened.signed.as_ref(), state, false)?;
        }
        Ok::<State, SlotError>(after)
    })?;
    Ok(changed(slots, format!("{} is active again, instead of {}", after.active, before.active)))
}

/// Adds the state folder to a message, since a service may use another one.
fn changed(slots: &Slots, what: String) -> String {
    format!("{what}, in the state folder {}", slots.state_dir().display())
}

/// Refuses to choose a slot if the configuration names a bundle, which takes precedence.
fn not_pinned(config: &Config) -> Result<()> {
    match &config.bundle {
        Some(path) => {
            bail!("the configuration names the bundle {}: remove `bundle` from it to use slots", path.display())
        }
        None => Ok(()),
    }
}

/// A slot in the list.
#[derive(Debug, Serialize)]
struct Row {
    slot: String,
    active: bool,
    previous: bool,
    /// True if it was rolled back because it could not be loaded.
    failed: bool,
    bundle: Option<String>,
    bytes: u64,
    installed: Option<String>,
    /// The comment of the valid signature; `None` if no key is configured.
    signed: Option<String>,
    /// Why it cannot be opened.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listing {
    #[serde(flatten)]
    state: State,
    slots: Vec<Row>,
}

fn list(slots: &Slots, json: bool, out: &mut dyn Write) -> Result<()> {
    let state = slots.state()?;
    let mut names = slots.names()?;
    names.push(BUILT_IN.to_owned());
    // An active slot that is missing gets a line too.
    if !names.contains(&state.active) {
        names.push(state.active.clone());
    }
    let rows = names.iter().map(|name| row(slots, &state, name)).collect();
    let listing = Listing { state, slots: rows };
    if json { json::write_line(out, &listing) } else { table(out, &listing) }.context("standard output")
}

fn row(slots: &Slots, state: &State, name: &str) -> Row {
    let about = slots.about(name).ok();
    let (bundle, bytes, signed, problem) = match slots.open_signed(name) {
        Ok(opened) => {
            let manifest = opened.bundle.manifest();
            let bytes: u64 = manifest.files().iter().map(|file| file.bytes).sum();
            (Some(manifest.name.clone()), bytes, opened.signed.map(|signed| signed.trusted_comment), None)
        }
        Err(error) => (None, 0, None, Some(error.to_string())),
    };
    Row {
        slot: name.to_owned(),
        active: state.active == name,
        previous: state.previous.as_deref() == Some(name),
        failed: state.failed.as_deref() == Some(name),
        bundle,
        bytes,
        installed: about.map(|about| about.installed),
        signed,
        problem,
    }
}

fn table(out: &mut dyn Write, listing: &Listing) -> std::io::Result<()> {
    for row in &listing.slots {
        let mut notes = Vec::new();
        notes.extend(row.active.then(|| "active".to_owned()));
        notes.extend((row.active && !listing.state.proven).then(|| "not loaded yet".to_owned()));
        notes.extend(row.previous.then(|| "previous".to_owned()));
        notes.extend(row.failed.then(|| "rolled back: could not be loaded".to_owned()));
        notes.extend(row.signed.as_ref().map(|comment| format!("signed: {comment}")));
        notes.extend(row.problem.clone());
        let mebibytes = row.bytes as f64 / f64::from(1 << 20);
        let bundle = row.bundle.as_deref().unwrap_or("?");
        let installed = row.installed.as_deref().unwrap_or("");
        let (slot, notes) = (&row.slot, notes.join(", "));
        write_line(out, format_args!("{slot:24} {bundle:24} {mebibytes:8.1} MiB  {installed:20}  {notes}"))?;
    }
    Ok(())
}
