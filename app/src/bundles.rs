//! Chooses the bundle to run: one that the configuration names, one in a slot of the state folder, or the demo bundle.
//!
//! A slot is a folder `bundles/NAME` in the state folder; `bundles.json` in the state folder says which slot is active. Slots
//! are installed atomically and never change, except that installing the same archive again repairs a slot. Everything else
//! that changes is the one small file, by one rename.
//!
//! A slot holds the archive as it was signed, and its signature. With a key, every opening reads the whole archive once and
//! checks the signature; later reads are compared with what was signed. So it does not matter who could write to a slot, or
//! what its `slot.json` says.
//!
//! A valid bundle may still be too large for the board. So `spotter bundle activate` and the running program load it in a
//! separate process first (a rehearsal).

mod archive;
pub mod demo;
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
pub use error::SlotError;
pub(crate) use install::Terms;
pub(crate) use signature::signature_path;
pub use slots::Slots;
pub(crate) use slots::check_release;
pub use state::{BUILT_IN, State};
pub(crate) use trial::Trial;

/// The slots to choose the bundle from; `None` if the configuration names a bundle, or if there is no state folder.
pub fn slots(config: &Config) -> Option<Slots> {
    match &config.bundle {
        Some(_) => None,
        None => config.state_dir.as_deref().map(|state_dir| Slots::new(state_dir, config.bundles.public_key.clone())),
    }
}

/// Opens the bundle to run: the one that the configuration names, else the active slot's, else the demo bundle.
pub fn open(config: &Config) -> Result<Bundle> {
    open_named(config).map(|(_, bundle)| bundle)
}

/// Opens the bundle to run, and says its name: the path in the configuration, or the slot.
pub(crate) fn open_named(config: &Config) -> Result<(String, Bundle)> {
    if let Some(path) = &config.bundle {
        return Ok((path.display().to_string(), Bundle::open(path)?));
    }
    match slots(config) {
        Some(slots) => {
            let active = slots.state()?.active;
            let bundle = slots.open(&active)?;
            Ok((active, bundle))
        }
        None => Ok((BUILT_IN.to_owned(), demo::bundle()?)),
    }
}
