use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;

use super::*;

/// The next step of a scripted source.
#[derive(Debug, Clone, Copy)]
enum Does {
    Frame,
    FrameAfterBroken,
    Lost,
    Ends,
    /// Fails with an error that is not transient.
    Fails,
    Silent,
    /// Its program ends.
    Dies,
    /// Its program writes something else than frames.
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

/// Runs one source after the other (`None`: opening fails) and checks the events and the number of frames.
fn check(sources: &[Option<&[Does]>], frames: u64, ends_well: bool, expected: &[(EventKind, &str)]) {
    check_of(&Uri::Csi(0), sources, frames, ends_well, expected);
}

fn check_of(uri: &Uri, sources: &[Option<&[Does]>], frames: u64, ends_well: bool, expected: &[(EventKind, &str)]) {
    let (mailbox, stop) = (LatestFrame::new(), Stop::new());
    let health = Health::new(&Uri::Auto, true, Duration::ZERO, Instant::now());
    let (events, received) = sync_channel(64);
    let target = Target { mailbox: &mailbox, stop: &stop, events, health: &health };
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
    mailbox.close();
    mailbox.take(&mut taken, Duration::ZERO);
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
fn events_are_reported_once() {
    use Does::{Babbles, Dies, Ends, Fails, Frame, FrameAfterBroken, Lost, Silent};
    use EventKind::{FramesSkipped, SourceBack, SourceLost};
    let lost = (SourceLost, "/dev/video7: no frame within 2.0 s");
    check(&[Some(&[Frame, Frame, Ends])], 2, true, &[]);
    // Before the first frame, and for sources that are no camera, a permanent error is the end.
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
    // A silent pipe stays open, even one that never gave a frame.
    let silent = (SourceLost, "a pipe: no frame within 2.0 s");
    let speaks = (SourceBack, " s: scripted");
    check(&[Some(&[Frame, Silent, Silent, Frame, Ends])], 2, true, &[silent, speaks]);
    check(&[Some(&[Silent, Frame, Frame, Ends])], 2, true, &[silent, speaks]);
    // A program that ends is restarted, unless it never worked.
    let died = (SourceLost, "camera: ended (exit status: 1)");
    check(&[Some(&[Frame, Dies]), Some(&[Dies]), Some(&[Frame, Ends])], 2, true, &[died, (SourceBack, "2 tries")]);
    check(&[Some(&[Dies])], 0, false, &[]);
    // Other reasons are reported as well, at most three.
    let page = (SourceLost, "camera: 6 bytes without a JPEG frame, which start with `<html>`");
    let other = [Some(&[Frame, Dies][..]), Some(&[Babbles]), Some(&[Babbles]), None, Some(&[Frame, Ends])];
    check(&other, 2, true, &[died, page, (SourceBack, "4 tries")]);
    let more = [Some(&[Frame, Dies][..]), Some(&[Babbles]), Some(&[Lost]), Some(&[Fails]), Some(&[Frame, Ends])];
    check(&more, 2, true, &[died, page, lost, (SourceBack, "4 tries")]);
    // The second batch of broken frames comes too soon for a report of its own, and is reported at the end.
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
    // EINVAL passes; then frames come, and both are reported.
    let mut answers = VecDeque::from([Err(device(22)), Err(device(5)), Ok(scripted())]);
    let stop = Stop::new();
    let begun = begin(&stop, |_| false, || answers.pop_front().unwrap());
    let begun = begun.unwrap_or_else(|error| panic!("{error}"));
    let (mailbox, health) = (LatestFrame::new(), Health::new(&Uri::Auto, true, Duration::ZERO, Instant::now()));
    let (events, received) = sync_channel(64);
    let target = Target { mailbox: &mailbox, stop: &stop, events, health: &health };
    run(begun, &CaptureOptions::default(), target).unwrap();
    let told = received.iter().map(|item| match item {
        Item::Event(event) => (event.kind, event.message),
        item => panic!("{item:?} is no event"),
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [EventKind::SourceLost, EventKind::SourceBack]);
    assert!(told[0].1.contains("cannot map the buffers") && told[1].1.contains("2 tries"), "{told:?}");

    // Permanent errors end at once, transient ones when the time is over, and all when stopped.
    let stopped = Stop::new();
    stopped.set();
    for (error, stop, expected) in [
        (&(|| SourceError::Missing { path: "/dev/video7".into(), hint: "" }) as &dyn Fn() -> _, &stop, 1),
        (&|| device(25), &stop, 1),
        (&|| device(22), &stopped, 1),
        (&|| device(22), &stop, 4),
    ] {
        let tries = std::cell::Cell::new(0);
        // The time is over after four attempts, however long they take.
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
