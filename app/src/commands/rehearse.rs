//! `spotter rehearse` (hidden): loads a slot's bundle for another process of this program.

use std::fs;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};
use spotter_engine::tower::TextTower;
use spotter_engine::vocabulary::Vocabulary;

use crate::bundles::Slots;
use crate::config::SigningKey;
use crate::process::supervise::{catch_panic, fault_point};
use crate::recognizer::{Recognizer, compute};

/// Nice value, so that everything else has priority.
const NICE: i32 = 10;

/// A sentence for the text tower.
const SENTENCE: &str = "a photo of something.";

// `bundles::rehearsal::rehearse` passes these arguments.
#[derive(Debug, Args)]
pub(super) struct Rehearse {
    /// The slot
    #[arg(long)]
    slot: String,
    /// The state folder of the slot
    #[arg(long)]
    state_dir: PathBuf,
    /// The key that must have signed it
    #[arg(long)]
    public_key: Option<String>,
    /// Threads that compute the towers; 0 for one fewer than the cores
    #[arg(long)]
    threads: usize,
    /// The process that waits for this one
    #[arg(long)]
    parent: u32,
    /// Memory limit in bytes
    #[arg(long)]
    memory_max: Option<u64>,
}

impl Rehearse {
    /// Limits this process, then loads and tries the bundle in it.
    pub(super) fn run(self) -> Result<ExitCode> {
        restrain(&self)?;
        catch_panic(|| load(&self))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Sets limits and priority. Called before anything of the bundle is read.
fn restrain(task: &Rehearse) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot make this process end with its parent")?;
    // The parent may have ended before.
    if parent_id() != task.parent {
        bail!("expected to be started by process {}, found {}", task.parent, parent_id());
    }
    // If memory runs out anyway, this process is killed first.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // A service may lack the permission; then both run with the same priority.
    let _ = nice(NICE);
    // Crashes are expected here, and a core dump would fill the flash.
    limit(Resource::Core, 0)?;
    // Not the address space, of which each thread reserves more for its heap than it uses.
    task.memory_max.map_or(Ok(()), |bytes| limit(Resource::Data, bytes))
}

fn limit(resource: Resource, bytes: u64) -> Result<()> {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(resource, limit).context("cannot limit the memory of this process")
}

/// Loads everything that the running program would load: both towers are in memory at the same time.
fn load(task: &Rehearse) -> Result<()> {
    fault_point("rehearsal");
    let key = task.public_key.as_deref().map(SigningKey::parse).transpose().context("not a minisign public key")?;
    let bundle = Slots::new(&task.state_dir, key).open(&task.slot)?;
    let threads = compute::threads(task.threads)?;
    let mut recognizer = Recognizer::open(&bundle, &threads)?;
    recognizer.probe()?;
    TextTower::open(&bundle, &threads)?.embed(SENTENCE)?;
    // An error only means that there are no warnings; what matters is that it neither hangs nor crashes.
    let _ = Vocabulary::open(&bundle);
    Ok(())
}
