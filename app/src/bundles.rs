//! Which bundle runs: one that the configuration names, one in a slot of the state folder, or the one inside the program.
//!
//! A slot is a folder `bundles/NAME` in the state folder; `bundles.json` beside it says which one is active. Slots are
//! made whole and change never, but that one whose archive is installed again is mended; all else that changes is that one
//! small file, by one rename.
//!
//! A slot holds the archive as it was signed, and its signature. With a key, every opening reads the whole archive once and
//! checks the signature over it; what is read of it afterwards is compared with what was signed. So it does not matter who
//! could write to a slot, or what is noted in it.
//!
//! What a slot holds may still be more than the board can load. So whoever activates it, and a program that is to take it
//! over, has it loaded in a process of its own first.

mod archive;
pub mod command;
mod error;
mod install;
mod lock;
pub(crate) mod rehearsal;
mod release;
mod signature;
pub mod slots;
mod state;
mod trial;

use anyhow::Result;
use spotter_engine::bundle::Bundle;

use crate::config::Config;
use crate::bundles::demo;
pub use error::SlotError;
pub use slots::Slots;
pub use state::{BUILT_IN, State};
pub(crate) use trial::Trial;

/// The slots that the configuration leaves the choice to: none where it names a bundle, or where there is no state folder.
pub fn slots(config: &Config) -> Option<Slots> {
    match &config.bundle {
        Some(_) => None,
        None => config.state_dir.as_deref().map(|state_dir| Slots::new(state_dir, config.bundles.public_key.clone())),
    }
}

/// The bundle to run: the one that is named, else the active slot's, else the one inside the program.
pub fn open(config: &Config) -> Result<Bundle> {
    if let Some(path) = &config.bundle {
        return Ok(Bundle::open(path)?);
    }
    match slots(config) {
        Some(slots) => Ok(slots.open(&slots.state()?.active)?),
        None => Ok(demo::bundle()?),
    }
}
