//! Trying the active slot, and going back from one that cannot be loaded.

use spotter_engine::bundle::Bundle;

use super::error::SlotError;
use super::release::Release;
use super::slots::Slots;
use super::state::State;

/// The tries of one load: every step is written down before it is made, so that the next program goes on where this one
/// died.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    slots: &'a Slots,
    state: State,
    /// Where the state cannot be written, this program still goes back by itself, and the next one tries again.
    writable: bool,
    /// What the signature of the slot that was opened last says of its age.
    release: Option<Release>,
}

impl<'a> Trial<'a> {
    /// Begins with what the state says; one that cannot be read is reported, and stands for the bundle inside the program.
    pub(crate) fn begin(slots: &'a Slots) -> Self {
        let read = slots.state().inspect_err(|error| report(error, "the bundle inside the program is used"));
        // What cannot be read is not overwritten either: somebody may want to know what it was.
        Self { slots, writable: read.is_ok(), state: read.unwrap_or_default(), release: None }
    }

    /// The slot to load now; another one than before where that was tried often enough.
    pub(crate) fn next(&mut self) -> String {
        let before = self.state.active.clone();
        self.step(State::tried);
        if self.state.failed.as_ref() == Some(&before) && self.state.active != before {
            log::error!("bundle {before}: given up, going back to {}", self.state.active);
        }
        self.state.active.clone()
    }

    /// Whether the active slot was loaded here and has worked.
    pub(crate) fn is_proven(&self) -> bool {
        self.state.proven
    }

    /// Opens the bundle of a slot; what it is signed with counts once it has worked.
    pub(crate) fn open(&mut self, name: &str) -> Result<Bundle, SlotError> {
        self.release = None;
        let opened = self.slots.open_signed(name)?;
        self.release = opened.signed.and_then(|signed| signed.release);
        Ok(opened.bundle)
    }

    /// The slot was loaded and works.
    pub(crate) fn worked(&mut self) {
        let release = self.release;
        self.step(|state| state.worked().with_release(release, false));
    }

    /// The slot could not be loaded.
    pub(crate) fn broke(&mut self) {
        self.step(State::broke);
    }

    /// The slot is not to be tried any more.
    pub(crate) fn refused(&mut self) {
        self.step(State::refused);
    }

    fn step(&mut self, step: impl Fn(&State) -> State) {
        loop {
            let after = step(&self.state);
            if after == self.state {
                return;
            }
            if !self.writable {
                self.state = after;
                return;
            }
            let found = match self.slots.replace(&self.state, &after) {
                Ok(true) => {
                    self.state = after;
                    return;
                }
                Ok(false) => self.slots.state(),
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => {
                    let is_chosen = found.active != self.state.active;
                    self.state = found;
                    // Somebody chose another one meanwhile: that is tried next, and has all its tries.
                    if is_chosen {
                        return;
                    }
                }
                Err(error) => {
                    report(&error, "failed loads of a bundle are not counted beyond this start");
                    self.writable = false;
                }
            }
        }
    }
}

fn report(error: &SlotError, so: &str) {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    log::warn!("{error}{source}; {so}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_meanwhile_is_kept_and_every_try_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let slots = Slots::new(folder.path(), None);
        let change = |change: &dyn Fn(&State) -> State| {
            slots.change(|state| Ok::<State, SlotError>(change(state))).expect("changes");
        };
        change(&|state| state.activated("a"));
        let release = Some(Release::Number(7));
        let mut trial = Trial::begin(&slots);
        change(&|state| state.with_release(release, false));
        assert_eq!(trial.next(), "a");
        let counted = State { tries: 1, release, ..State::default().activated("a") };
        assert_eq!(slots.state().expect("a state"), counted);
        // Another one was chosen, of which nobody knows whether it works.
        change(&|state| state.activated("b"));
        trial.worked();
        assert_eq!(slots.state().expect("a state"), counted.activated("b"));
        assert_eq!(trial.next(), "b");
        trial.worked();
        assert!(slots.state().expect("a state").proven);
    }
}
