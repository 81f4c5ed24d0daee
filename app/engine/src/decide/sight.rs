//! Whether the view lets anything be judged, over time.

use super::{Moment, Reason};
use crate::view::{Flaw, View};

/// Default time in seconds for which an image must stay the same to the last bit before the view counts as frozen. No sensor
/// is free of noise; video codecs repeat a still scene for some seconds, until their next key frame.
pub const FROZEN_S: f32 = 60.0;

/// Time in seconds for which a view must be without use before its states are unknown, and of use before they are judged again:
/// lamps are switched, and cameras adjust themselves, within a second.
const VIEW_FOR_S: f64 = 1.0;

/// Which flaws of the view make states unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewRules {
    /// Whether a dark view does.
    pub dark: bool,
    /// Whether a covered one does.
    pub covered: bool,
    /// Whether a blurred one does.
    pub blurred: bool,
    /// Seconds after which a view that stays the same to the last bit does; 0 for never.
    pub frozen_s: f32,
}

impl Default for ViewRules {
    fn default() -> Self {
        Self { dark: true, covered: true, blurred: true, frozen_s: FROZEN_S }
    }
}

impl ViewRules {
    fn reason(&self, view: &View) -> Option<Reason> {
        match view.flaw()? {
            Flaw::Dark => self.dark.then_some(Reason::Dark),
            Flaw::Covered => self.covered.then_some(Reason::Covered),
            Flaw::Blurred => self.blurred.then_some(Reason::Blurred),
        }
    }
}

/// What is known about the view.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    /// Why nothing can be judged, decided.
    blind: Option<Reason>,
    /// What the last frames say instead, and since when.
    other: Option<(Option<Reason>, Moment)>,
    /// The digest of the last view, and since when it is the same.
    same: Option<(u64, Moment)>,
}

/// What a frame is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Its probabilities count.
    Clear,
    /// It is not certain yet whether it shows anything, so that it changes nothing.
    Uncertain,
    /// It shows nothing.
    Blind(Reason),
}

impl Sight {
    /// Takes the measures of a frame.
    pub(super) fn look(&mut self, now: Moment, view: &View, rules: &ViewRules) -> Seen {
        let (_, since) = self.same.take_if(|(digest, _)| *digest == view.digest).unwrap_or((view.digest, now));
        self.same = Some((view.digest, since));
        let is_frozen = rules.frozen_s > 0.0 && now.since(since).as_secs_f32() >= rules.frozen_s;
        let found = rules.reason(view).or(is_frozen.then_some(Reason::Frozen));
        if is_frozen && found == Some(Reason::Frozen) {
            // It has lasted for long enough already.
            (self.blind, self.other) = (found, None);
        } else if found == self.blind {
            self.other = None;
        } else {
            let (_, since) = self.other.take_if(|(other, _)| *other == found).unwrap_or((found, now));
            self.other = Some((found, since));
            if now.since(since).as_secs_f64() >= VIEW_FOR_S {
                (self.blind, self.other) = (found, None);
            }
        }
        match (self.blind, found) {
            (Some(reason), _) => Seen::Blind(reason),
            (None, Some(_)) => Seen::Uncertain,
            (None, None) => Seen::Clear,
        }
    }

    /// Why nothing can be judged.
    pub(super) fn blind(&self) -> Option<Reason> {
        self.blind
    }

    /// The source gave no frames for a while: the next one is looked at as the first.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
