//! Attempts to load the active slot, and rolls back one that cannot be loaded.

use spotter_engine::bundle::Bundle;

use super::error::SlotError;
use super::release::Release;
use super::slots::Slots;
use super::state::State;

/// One load with its attempts. Every step is written to the state beforehand, so that the next start continues after a crash.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    slots: &'a Slots,
    state: State,
    /// If the state cannot be written, this program still rolls back, and the next start tries again.
    writable: bool,
    /// The signed release of the slot that was opened last.
    release: Option<Release>,
}

impl<'a> Trial<'a> {
    /// Begins with the current state. One that cannot be read is reported, and the demo bundle is used.
    pub(crate) fn begin(slots: &'a Slots) -> Self {
        let read = slots.state().inspect_err(|error| report(error, "the demo bundle is used"));
        // A file that cannot be read is not overwritten, so that it can be examined.
        Self { slots, writable: read.is_ok(), state: read.unwrap_or_default(), release: None }
    }

    /// The slot to load now; another one after too many attempts.
    pub(crate) fn next(&mut self) -> String {
        let before = self.state.active.clone();
        self.step(State::tried);
        if self.state.failed.as_ref() == Some(&before) && self.state.active != before {
            log::error!("bundle {before}: rolled back to {}", self.state.active);
        }
        self.state.active.clone()
    }

    /// Returns whether the active slot has been loaded here before and worked.
    pub(crate) fn is_proven(&self) -> bool {
        self.state.proven
    }

    /// Opens the bundle of a slot; its release counts as accepted once it has worked.
    pub(crate) fn open(&mut self, name: &str) -> Result<Bundle, SlotError> {
        self.release = None;
        let opened = self.slots.open_signed(name)?;
        self.release = opened.signed.and_then(|signed| signed.release);
        Ok(opened.bundle)
    }

    /// Notes that the slot was loaded and works.
    pub(crate) fn worked(&mut self) {
        let release = self.release;
        self.step(|state| state.worked().with_release(release, false));
    }

    /// Notes that the slot could not be loaded.
    pub(crate) fn broke(&mut self) {
        self.step(State::broke);
    }

    /// Notes that the slot must not be tried again.
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
                    // Another slot was activated, which is tried next.
                    if is_chosen {
                        return;
                    }
                }
                Err(error) => {
                    report(&error, "failed loads of a bundle are counted only until the next start");
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
    fn concurrent_changes_are_kept_and_every_attempt_is_counted() {
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
        // Another slot was activated, which is not proven.
        change(&|state| state.activated("b"));
        trial.worked();
        assert_eq!(slots.state().expect("a state"), counted.activated("b"));
        assert_eq!(trial.next(), "b");
        trial.worked();
        assert!(slots.state().expect("a state").proven);
    }
}
