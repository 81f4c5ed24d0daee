use std::sync::mpsc::{Receiver as Channel, Sender as ChannelSender, channel};

use spotter_engine::decide::ChangeKind;

use super::super::notice::Failure;
use super::super::notice::tests::notice;
use super::*;
use crate::config::Position;
use crate::config::notify::EventChoice;

/// A receiver that takes each answer from a channel, and passes on what it was told.
struct Scripted {
    answers: Channel<Result<(), Failure>>,
    told: ChannelSender<u64>,
}

impl Sender for Scripted {
    fn send(&mut self, notice: &Notice, stop: &Stop) -> Result<(), Failure> {
        self.told.send(notice.decision.change.number).unwrap();
        loop {
            match self.answers.recv_timeout(STOP_CHECK) {
                Ok(answer) => return answer,
                Err(_) if stop.is_set() => return Err(Failure::lasting("stopped".to_owned())),
                Err(_) => {}
            }
        }
    }

    fn step_max(&self) -> Duration {
        Duration::from_secs(600)
    }
}

fn transient() -> Failure {
    Failure { message: "busy".to_owned(), is_transient: true }
}

fn notify(receiver: Receiver) -> Notify {
    let events = vec![EventChoice::Start];
    let position = Position { line: 3, column: 1 };
    Notify { receiver, labels: None, events, min_interval: Duration::ZERO, timeout: Duration::from_secs(1), position }
}

struct Scene {
    notifiers: Notifiers,
    answers: ChannelSender<Result<(), Failure>>,
    told: Channel<u64>,
    next: u64,
}

impl Scene {
    fn new() -> Self {
        let (answers, answered) = channel();
        let (tells, told) = channel();
        let sender = Scripted { answers: answered, told: tells };
        let ending = Stop::new();
        let receiver = Receiver::Command(vec!["scripted".to_owned()]);
        let notifier = Notifier::start(&notify(receiver), Some(Box::new(sender)), &ending).unwrap();
        Self { notifiers: Notifiers { list: vec![notifier], ending }, answers, told, next: 0 }
    }

    fn tell(&mut self) {
        let decision = notice(ChangeKind::Start, self.next, None, Some("cat"), 10).decision;
        self.next += 1;
        self.notifiers.tell(&decision, || panic!("it takes no pictures"));
    }

    fn wait_for(&self, expected: Counts) {
        let start = Instant::now();
        while self.notifiers.counts() != expected {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", self.notifiers.counts());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn notices_arrive_in_their_order_one_at_a_time() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.tell();
    }
    for number in 0..5 {
        assert_eq!(scene.told.recv().unwrap(), number);
        assert!(scene.told.try_recv().is_err(), "one at a time");
        scene.answers.send(Ok(())).unwrap();
    }
    scene.wait_for(Counts { sent: 5, lost: 0 });
    assert_eq!(scene.notifiers.losses(Instant::now()), [""; 0]);
    assert_eq!(scene.notifiers.finish(&AtomicBool::new(false)), [""; 0]);
}

#[test]
fn a_receiver_that_hangs_costs_the_caller_nothing_and_losses_are_told() {
    let mut scene = Scene::new();
    scene.tell();
    assert_eq!(scene.told.recv().unwrap(), 0);
    // It hangs from now on, and what does not fit is lost, the oldest first.
    for _ in 0..queue::WAITING_MAX + 7 {
        scene.tell();
    }
    assert_eq!(scene.notifiers.counts(), Counts { sent: 0, lost: 7 });
    let now = Instant::now();
    let expected = "7 notices to `scripted` (7 so far), the last: the receiver is too slow";
    assert_eq!(scene.notifiers.losses(now), [expected]);
    scene.tell();
    assert_eq!(scene.notifiers.losses(now), [""; 0], "not at once");
    let expected = "1 notice to `scripted` (8 so far), the last: the receiver is too slow";
    assert_eq!(scene.notifiers.losses(now + LOSS_REPORT_EVERY), [expected]);
    assert!(!scene.notifiers.is_stuck(Instant::now()), "it has its limit");
    assert!(scene.notifiers.is_stuck(Instant::now() + Duration::from_secs(600) + SLACK * 2));
    scene.answers.send(Ok(())).unwrap();
    assert_eq!(scene.told.recv().unwrap(), 9, "the newest win");
    // A signal ends it at once, and what waits is told as lost.
    let found = scene.notifiers.finish(&AtomicBool::new(true));
    assert_eq!(found, ["64 notices to `scripted` (72 so far), the last: this program ended first"]);
}

#[test]
fn at_the_end_of_a_source_what_waits_is_sent() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        scene.tell();
        scene.answers.send(Ok(())).unwrap();
    }
    assert_eq!(scene.notifiers.finish(&AtomicBool::new(false)), [""; 0]);
    assert_eq!(scene.told.iter().count(), 3);
}

#[test]
fn only_failures_that_may_pass_are_tried_again() {
    let check = |answers: Vec<Result<(), Failure>>, retries: u32, expected: Counts, why: &str| {
        let ending = Stop::new();
        let (send, answered) = channel();
        let (tells, told) = channel();
        let mut sender = Scripted { answers: answered, told: tells };
        let count = answers.len();
        answers.into_iter().for_each(|answer| send.send(answer).unwrap());
        let notifier = Notifier::start(&notify(Receiver::Command(Vec::new())), None, &ending).unwrap();
        let given = notice(ChangeKind::Start, 0, None, Some("cat"), 10);
        notifier.shared.deliver(&given, &mut sender, retries, &ending);
        drop(sender);
        assert_eq!(told.iter().count(), count, "attempts");
        let notifiers = Notifiers { list: vec![notifier], ending };
        assert_eq!(notifiers.counts(), expected);
        assert_eq!(*notifiers.list[0].shared.why.lock().unwrap(), why);
    };
    check(vec![Ok(())], 3, Counts { sent: 1, lost: 0 }, "");
    check(vec![Err(transient()), Ok(())], 3, Counts { sent: 1, lost: 0 }, "");
    check(vec![Err(transient())], 0, Counts { sent: 0, lost: 1 }, "busy");
    check(vec![Err(transient()), Err(transient())], 1, Counts { sent: 0, lost: 1 }, "busy");
    check(vec![Err(Failure::lasting("refused".to_owned()))], 3, Counts { sent: 0, lost: 1 }, "refused");
}

#[test]
fn a_wait_between_attempts_ends_with_the_program() {
    let mut scene = Scene::new();
    scene.tell();
    let Scene { mut notifiers, answers, told, .. } = scene;
    // Any number of attempts, each after a longer wait.
    let (send, answered) = channel();
    let (tells, tries) = channel();
    let ending = notifiers.ending.clone();
    let shared = Arc::clone(&notifiers.list[0].shared);
    let thread = std::thread::spawn(move || {
        let mut sender = Scripted { answers: answered, told: tells };
        shared.deliver(&notice(ChangeKind::Start, 9, None, Some("cat"), 10), &mut sender, u32::MAX, &ending);
    });
    tries.recv().unwrap();
    send.send(Err(transient())).unwrap();
    answers.send(Ok(())).unwrap();
    told.recv().unwrap();
    notifiers.ending.set();
    thread.join().unwrap();
    assert_eq!(notifiers.counts().lost, 1);
    notifiers.list.clear();
}

#[test]
fn names_hold_no_secrets() {
    let http = |url: &str| {
        let (form, credentials) = (crate::config::notify::Form::Webhook, crate::config::notify::Credentials::None);
        Receiver::Http(Http { form, url: url.to_owned(), credentials, ca_file: None, retries: 0 })
    };
    for (receiver, expected) in [
        (http("https://ntfy.sh/secret"), "https://ntfy.sh"),
        (http("http://a:8000/notify/secret?x=y"), "http://a:8000"),
        (http("http://a?secret"), "http://a"),
        (http("http://a"), "http://a"),
        (Receiver::Command(vec!["curl".to_owned(), "secret".to_owned()]), "`curl`"),
    ] {
        assert_eq!(name(&receiver), expected);
    }
}

#[test]
fn what_cannot_work_is_found_beforehand() {
    let words = |program: &str| Receiver::Command(vec![program.to_owned()]);
    let found = problems(&[notify(words("sh")), notify(words("no-such-program"))]);
    assert_eq!(found, ["`[[notify]]` in line 3: no-such-program: not found, or not a program"]);
    let chosen = |labels: &[&str]| Notify {
        labels: Some(labels.iter().map(|label| (*label).to_owned()).collect()),
        ..notify(words("sh"))
    };
    let labels = [(None, "cat"), (Some("door"), "open")];
    let unknown = |chosen: &[Notify]| unknown_labels(chosen, labels.iter().copied());
    assert_eq!(unknown(&[notify(words("sh")), chosen(&["cat", "open", "door", "door: open"])]), [""; 0]);
    let found = unknown(&[chosen(&["dog", "gate: open"])]);
    assert!(found.len() == 2 && found[0].contains("no label or question `dog`"), "{found:?}");
}
