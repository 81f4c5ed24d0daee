//! The source thread: frames into the slot, and a lost source opened again.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::SKIP_REPORT_EVERY;
use super::health::Health;
use crate::output::{Event, EventKind, Item};
use crate::pipeline::latest_frame::Slot;
use crate::source::{self, CaptureOptions, Frame, Opened, Source, SourceError, Stop, Uri};
use crate::process::supervise::fault_point;

/// Pauses before a lost source is opened again, which double.
#[derive(Debug, Clone, Copy)]
struct BackOff {
    first: Duration,
    max: Duration,
}

/// A replugged camera needs about the first; one that comes back is to be seen soon.
const DEVICE: BackOff = BackOff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// A camera program takes about a second to start, and all of a core meanwhile.
const PROGRAM: BackOff = BackOff { first: Duration::from_millis(500), max: Duration::from_secs(5) };

/// How old a frame of a pipe may be before a newer one takes its place: old enough that a short recording is labelled whole,
/// which comes all at once, and young enough for a camera's.
const PIPE_AGE_MAX: Duration = Duration::from_millis(500);

/// Reasons of one loss that are told: a program whose words change each time would fill the log.
const REASONS_TOLD: u32 = 3;

/// How long a driver that answers with errors is given at the start. The model is loaded after that, and nothing runs yet,
/// so an error that does not pass is told soon.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Where frames and news of the source go.
pub(super) struct Target<'a> {
    pub(super) slot: &'a Slot,
    pub(super) stop: &'a Stop,
    /// News that find no room are lost; the log has them.
    pub(super) events: SyncSender<Item>,
    pub(super) health: &'a Health,
}

/// An open source, and what was wrong when it was opened first.
pub(super) struct Begun {
    pub(super) opened: Opened,
    trouble: Option<(Lost, SourceError)>,
}

/// Opens the source to begin with. A device that is there and answers with an error that may pass is tried again for a
/// while; one that is missing, busy or not permitted is an error at once.
pub(super) fn open(uri: &Uri, options: &CaptureOptions, stop: &Stop) -> Result<Begun, SourceError> {
    begin(stop, |waited| waited >= START_PATIENCE, || source::open(uri, options))
}

/// Opens the source until `is_over`, which is asked after each failure how long it has failed, ends the patience.
fn begin(
    stop: &Stop,
    is_over: impl Fn(Duration) -> bool,
    mut open: impl FnMut() -> Result<Opened, SourceError>,
) -> Result<Begun, SourceError> {
    let mut trouble: Option<(Lost, SourceError)> = None;
    loop {
        let error = match open() {
            Ok(opened) => return Ok(Begun { opened, trouble }),
            Err(error) => error,
        };
        let may_pass = matches!(error, SourceError::Device { .. }) && error.is_transient();
        let mut lost = trouble.take().map_or_else(|| Lost::now(DEVICE), |(lost, _)| lost);
        if !may_pass || is_over(lost.since.elapsed()) || lost.wait(stop) {
            return Err(error);
        }
        trouble = Some((lost, error));
    }
}

/// Pumps frames until the source ends, fails for good, or is stopped. Frames are numbered from 0 throughout.
pub(super) fn run(begun: Begun, options: &CaptureOptions, target: Target<'_>) -> Result<(), SourceError> {
    let Begun { opened: Opened { source, uri }, trouble } = begun;
    let open = |uri: &Uri| source::open(uri, options).map(|opened| opened.source);
    let back_off = if matches!(uri, Uri::Csi(_) | Uri::Command(_)) { PROGRAM } else { DEVICE };
    let mut capture = Capture::new(target, back_off, &uri);
    if let Some((lost, error)) = trouble {
        capture.lost = Some(lost);
        capture.lose(error, "trying to open it again");
    }
    capture.run(source, || open(&uri))
}

/// A source that gives no frames.
struct Lost {
    since: Instant,
    tries: u32,
    pause: Duration,
    pause_max: Duration,
    /// The last reason that was told, and how many were.
    reason: String,
    told: u32,
}

impl Lost {
    fn now(back_off: BackOff) -> Self {
        let BackOff { first: pause, max: pause_max } = back_off;
        Lost { since: Instant::now(), tries: 0, pause, pause_max, reason: String::new(), told: 0 }
    }

    /// Waits before the next try, longer each time; `true` when stopped.
    fn wait(&mut self, stop: &Stop) -> bool {
        if stop.sleep(self.pause) {
            return true;
        }
        self.tries += 1;
        self.pause = (self.pause * 2).min(self.pause_max);
        false
    }
}

struct Capture<'a> {
    target: Target<'a>,
    frame: Frame,
    number: u64,
    back_off: BackOff,
    /// The source is a camera, which is opened again whatever happened to it.
    is_camera: bool,
    /// Frames come through standard input.
    is_pipe: bool,
    /// What came before was waiting for the model.
    begun: Instant,
    lost: Option<Lost>,
    /// A pipe gives no frames, and stays open.
    silent: bool,
    skip_reported: Option<Instant>,
    /// Time from one report of frames that were left out to the next.
    skip_report_every: Duration,
}

impl<'a> Capture<'a> {
    fn new(target: Target<'a>, back_off: BackOff, uri: &Uri) -> Self {
        let frame = Frame::default();
        let (is_camera, is_pipe, begun) = (uri.is_camera(), *uri == Uri::Stdin, Instant::now());
        Self {
            target,
            frame,
            number: 0,
            back_off,
            is_camera,
            is_pipe,
            begun,
            lost: None,
            silent: false,
            skip_reported: None,
            skip_report_every: SKIP_REPORT_EVERY,
        }
    }

    fn run(
        mut self,
        mut source: Box<dyn Source>,
        mut open: impl FnMut() -> Result<Box<dyn Source>, SourceError>,
    ) -> Result<(), SourceError> {
        loop {
            let pumped = self.pump(&mut *source);
            // That error says what came instead of frames.
            if !matches!(pumped, Err(SourceError::NoFrames { .. })) {
                self.tell_skipped(&mut *source);
            }
            match pumped {
                Ok(()) => return Ok(()),
                // A camera program may have been asked to end together with this one.
                Err(_) if self.target.stop.is_set() => return Ok(()),
                Err(error) if self.is_final(&error) => return Err(error),
                // A pipe cannot be opened again, but may speak again.
                Err(error @ SourceError::Silent { .. }) => {
                    self.silent = true;
                    self.lose(error, "waiting for it");
                    continue;
                }
                Err(error) => self.lose(error, "trying to open it again"),
            }
            // A camera can be opened only once.
            drop(source);
            match self.reopen(&mut open) {
                Some(again) => source = again,
                None => return Ok(()),
            }
        }
    }

    /// Whether an error ends the program. What a camera, or its program, does once in months must not: after the first
    /// frame it is opened again whatever it failed with.
    fn is_final(&self, error: &SourceError) -> bool {
        match error {
            // A camera program that never gave anything was called the wrong way, or has no camera.
            SourceError::Ended { .. } if self.number == 0 => true,
            _ if self.number > 0 && self.is_camera => false,
            _ => !error.is_transient(),
        }
    }

    fn pump(&mut self, source: &mut dyn Source) -> Result<(), SourceError> {
        let live = source.is_live();
        while !self.target.stop.is_set() {
            fault_point("capture");
            // Silence that lasts is no sign of life.
            if !self.silent {
                self.target.health.beat(Instant::now());
            }
            self.frame.path = None;
            self.frame.truth = None;
            if !source.next(&mut self.frame, self.target.stop)? {
                return Ok(());
            }
            self.found(source);
            self.frame.number = self.number;
            self.number += 1;
            if live && self.is_pipe {
                let until = self.frame.captured.max(self.begun) + PIPE_AGE_MAX;
                self.target.slot.put_by(&mut self.frame, until, self.target.stop);
            } else if live {
                self.target.slot.put_newest(&mut self.frame);
            } else if !self.target.slot.put_waiting(&mut self.frame, self.target.stop) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells of a loss, and of what is done about it; once until frames come again, or until the reason is another one, as
    /// where a program that was started again writes an error page.
    fn lose(&mut self, error: SourceError, cure: &str) {
        let message = format!("{:#}", anyhow::Error::from(error));
        let lost = self.lost.get_or_insert_with(|| Lost::now(self.back_off));
        if lost.told == REASONS_TOLD || lost.reason == message {
            log::debug!("try {}: {message}", lost.tries);
            return;
        }
        lost.told += 1;
        lost.reason.clone_from(&message);
        log::warn!("{message}; {cure}");
        self.target.health.set_lost(true);
        self.tell(EventKind::SourceLost, message);
    }

    /// A frame came: tells that a lost source is back, and from time to time what it left out.
    fn found(&mut self, source: &mut dyn Source) {
        if let Some(lost) = self.lost.take() {
            let seconds = lost.since.elapsed().as_secs_f32();
            let tries = if self.silent { String::new() } else { format!(" and {} tries", lost.tries) };
            let message = format!("after {seconds:.1} s{tries}: {}", source.describe());
            self.silent = false;
            log::info!("source is back {message}");
            self.target.health.set_lost(false);
            self.tell(EventKind::SourceBack, message);
        }
        if self.skip_reported.is_none_or(|at| at.elapsed() >= self.skip_report_every) {
            self.tell_skipped(source);
        }
    }

    fn tell_skipped(&mut self, source: &mut dyn Source) {
        if let Some(message) = source.skipped() {
            log::warn!("skipped: {message}");
            self.skip_reported = Some(Instant::now());
            self.tell(EventKind::FramesSkipped, message);
        }
    }

    fn tell(&self, kind: EventKind, message: String) {
        let _ = self.target.events.try_send(Item::Event(Event::now(kind, message)));
    }

    /// Tries again and again, ever more slowly until a frame comes; `None` when stopped.
    fn reopen(&mut self, open: &mut impl FnMut() -> Result<Box<dyn Source>, SourceError>) -> Option<Box<dyn Source>> {
        loop {
            let lost = self.lost.get_or_insert_with(|| Lost::now(self.back_off));
            if lost.wait(self.target.stop) {
                return None;
            }
            self.target.health.beat(Instant::now());
            match open() {
                Ok(source) => return Some(source),
                Err(error) => log::debug!("try {}: {:#}", lost.tries, anyhow::Error::from(error)),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::collections::VecDeque;
    use std::sync::mpsc::sync_channel;

    use super::*;

    /// What a source does next: gives a frame, gives one after broken ones, is lost, ends, fails for good, is silent, or its
    /// program dies or writes something else.
    #[derive(Debug, Clone, Copy)]
    enum Does {
        Frame,
        FrameAfterBroken,
        Lost,
        Ends,
        Fails,
        Silent,
        Dies,
        Babbles,
    }

    struct Scripted {
        script: VecDeque<Does>,
        skipped: bool,
    }

    impl Source for Scripted {
        fn next(&mut self, _: &mut Frame, _: &Stop) -> Result<bool, SourceError> {
            let path = || "/dev/video7".into();
            match self.script.pop_front().unwrap_or(Does::Ends) {
                Does::Frame => Ok(true),
                Does::FrameAfterBroken => {
                    self.skipped = true;
                    Ok(true)
                }
                Does::Lost => Err(SourceError::TimedOut { path: path(), limit: Duration::from_secs(2) }),
                Does::Ends => Ok(false),
                Does::Silent => Err(SourceError::Silent { name: "a pipe".into(), limit: Duration::from_secs(2) }),
                Does::Dies => {
                    let (how, found, said) = ("exit status: 1".into(), String::new(), String::new());
                    Err(SourceError::Ended { name: "camera".into(), how, found, said })
                }
                Does::Babbles => {
                    let (found, said) = (", which start with `<html>`".into(), String::new());
                    Err(SourceError::NoFrames { name: "camera".into(), bytes: 6, found, said })
                }
                Does::Fails => Err(SourceError::NotCapture { path: path(), found: "a test".into() }),
            }
        }

        fn skipped(&mut self) -> Option<String> {
            std::mem::take(&mut self.skipped).then(|| "1 broken".into())
        }

        fn is_live(&self) -> bool {
            true
        }

        fn describe(&self) -> String {
            "scripted".into()
        }
    }

    /// Runs one source after the other (`None`: opening fails) and checks what is told, and how many frames came.
    fn check(sources: &[Option<&[Does]>], frames: u64, ends_well: bool, expected: &[(EventKind, &str)]) {
        check_of(&Uri::Csi(0), sources, frames, ends_well, expected);
    }

    fn check_of(uri: &Uri, sources: &[Option<&[Does]>], frames: u64, ends_well: bool, expected: &[(EventKind, &str)]) {
        let (slot, stop) = (Slot::new(), Stop::new());
        let health = Health::new(&Uri::Auto, true, Duration::ZERO, Instant::now());
        let (events, received) = sync_channel(64);
        let target = Target { slot: &slot, stop: &stop, events, health: &health };
        let mut sources = sources.iter().map(|script| {
            let script = script.ok_or(SourceError::Missing { path: "/dev/video7".into(), hint: "" })?;
            Ok(Box::new(Scripted { script: script.iter().copied().collect(), skipped: false }) as Box<dyn Source>)
        });
        let first = sources.next().unwrap().unwrap();
        let quick = BackOff { first: Duration::from_millis(1), max: Duration::from_millis(2) };
        let mut capture = Capture::new(target, quick, uri);
        capture.skip_report_every = Duration::from_secs(24 * 3600);
        let result = capture.run(first, || sources.next().unwrap());
        assert_eq!(result.is_ok(), ends_well, "{result:?}");
        let mut taken = Frame::default();
        slot.close();
        slot.take(&mut taken, Duration::ZERO);
        assert_eq!(taken.number + u64::from(frames > 0), frames);
        let told: Vec<_> = received.iter().collect();
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (item, (kind, part)) in told.iter().zip(expected) {
            let Item::Event(event) = item else { panic!("{item:?} is no event") };
            assert_eq!(event.kind, *kind);
            assert!(event.message.contains(part), "{}", event.message);
        }
    }

    #[test]
    fn what_happens_is_told_once() {
        use Does::{Babbles, Dies, Ends, Fails, Frame, FrameAfterBroken, Lost, Silent};
        use EventKind::{FramesSkipped, SourceBack, SourceLost};
        let lost = (SourceLost, "/dev/video7: no frame within 2.0 s");
        check(&[Some(&[Frame, Frame, Ends])], 2, true, &[]);
        // Before the first frame, and of what is no camera, an error that will not pass is the end.
        check(&[Some(&[Fails])], 0, false, &[]);
        check(&[Some(&[Babbles])], 0, false, &[]);
        check_of(&Uri::Auto, &[Some(&[Frame, Fails])], 1, false, &[]);
        check_of(&Uri::Auto, &[Some(&[Frame, Babbles])], 1, false, &[]);
        let refused = (SourceLost, "/dev/video7: not a capture device");
        check(&[Some(&[Frame, Fails]), Some(&[Frame, Ends])], 2, true, &[refused, (SourceBack, "1 tries")]);
        check(&[Some(&[Frame, Lost]), Some(&[Frame, Ends])], 2, true, &[lost, (SourceBack, "1 tries: scripted")]);
        // Missing for a while, then open but still without frames.
        let again = [Some(&[Frame, Lost][..]), None, Some(&[Lost]), Some(&[Frame, Frame, Ends])];
        check(&again, 3, true, &[lost, (SourceBack, "3 tries")]);
        // A pipe that is silent stays open; one that never spoke may yet.
        let silent = (SourceLost, "a pipe: no frame within 2.0 s");
        let speaks = (SourceBack, " s: scripted");
        check(&[Some(&[Frame, Silent, Silent, Frame, Ends])], 2, true, &[silent, speaks]);
        check(&[Some(&[Silent, Frame, Frame, Ends])], 2, true, &[silent, speaks]);
        // A program that dies is started again, unless it never worked.
        let died = (SourceLost, "camera: ended (exit status: 1)");
        check(&[Some(&[Frame, Dies]), Some(&[Dies]), Some(&[Frame, Ends])], 2, true, &[died, (SourceBack, "2 tries")]);
        check(&[Some(&[Dies])], 0, false, &[]);
        // Another reason is told as well, each once, and three at most.
        let page = (SourceLost, "camera: 6 bytes without a JPEG frame, which start with `<html>`");
        let other = [Some(&[Frame, Dies][..]), Some(&[Babbles]), Some(&[Babbles]), None, Some(&[Frame, Ends])];
        check(&other, 2, true, &[died, page, (SourceBack, "4 tries")]);
        let more = [Some(&[Frame, Dies][..]), Some(&[Babbles]), Some(&[Lost]), Some(&[Fails]), Some(&[Frame, Ends])];
        check(&more, 2, true, &[died, page, lost, (SourceBack, "4 tries")]);
        // The second lot of broken frames comes too soon to be told on its own, and is told at the end.
        let broken = [Some(&[FrameAfterBroken, FrameAfterBroken, FrameAfterBroken, Ends][..])];
        check(&broken, 3, true, &[(FramesSkipped, "1 broken"), (FramesSkipped, "1 broken")]);
    }

    #[test]
    fn errors_at_the_start() {
        let device = |code| SourceError::Device {
            path: "/dev/video7".into(),
            action: "map the buffers",
            source: std::io::Error::from_raw_os_error(code),
        };
        let scripted = || Opened {
            source: Box::new(Scripted { script: [Does::Frame, Does::Ends].into(), skipped: false }),
            uri: Uri::Auto,
        };
        // EINVAL passes; then frames come and both are told.
        let mut answers = VecDeque::from([Err(device(22)), Err(device(5)), Ok(scripted())]);
        let stop = Stop::new();
        let begun = begin(&stop, |_| false, || answers.pop_front().unwrap());
        let begun = begun.unwrap_or_else(|error| panic!("{error}"));
        let (slot, health) = (Slot::new(), Health::new(&Uri::Auto, true, Duration::ZERO, Instant::now()));
        let (events, received) = sync_channel(64);
        let target = Target { slot: &slot, stop: &stop, events, health: &health };
        run(begun, &CaptureOptions::default(), target).unwrap();
        let told = received.iter().map(|item| match item {
            Item::Event(event) => (event.kind, event.message),
            item => panic!("{item:?} is no event"),
        });
        let told: Vec<_> = told.collect();
        assert_eq!(
            told.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [EventKind::SourceLost, EventKind::SourceBack]
        );
        assert!(told[0].1.contains("cannot map the buffers") && told[1].1.contains("2 tries"), "{told:?}");

        // What will not pass ends at once, what does not pass in the end, and whatever is stopped.
        let stopped = Stop::new();
        stopped.set();
        for (error, stop, expected) in [
            (&(|| SourceError::Missing { path: "/dev/video7".into(), hint: "" }) as &dyn Fn() -> _, &stop, 1),
            (&|| device(25), &stop, 1),
            (&|| device(22), &stopped, 1),
            (&|| device(22), &stop, 4),
        ] {
            let tries = std::cell::Cell::new(0);
            // The patience is over after four tries, however long they take here.
            let is_over = |_| tries.get() == 4;
            let begun = begin(stop, is_over, || {
                tries.set(tries.get() + 1);
                Err(error())
            });
            let found = begun.err().unwrap().to_string();
            assert_eq!(found, error().to_string());
            assert_eq!(tries.get(), expected, "{found}");
        }
    }
}
