use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// Longest wait on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Longer than any test lasts.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Events only: polling would hide a missing event.
const EVENTS: Method = Method { poll_every: NEVER, ..DEFAULT };

/// Polling only.
const POLLING: Method = Method { events: false, poll_every: Duration::from_millis(50), ..DEFAULT };

/// Events and polling.
const BOTH: Method = Method { events: true, ..POLLING };

/// A folder with a watched file, and the content that the calls found.
struct Scene {
    watcher: Watcher,
    seen: Arc<(Mutex<Vec<Option<String>>>, Condvar)>,
    root: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// Fills a folder with `make`, and watches the file `name` in it.
    fn new(method: &Method, name: &str, make: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().to_owned();
        make(&root);
        let path = root.join(name);
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let watcher = {
            let (seen, path_seen) = (Arc::clone(&seen), path.clone());
            let on_change = move || {
                lock(&seen.0).push(fs::read_to_string(&path_seen).ok());
                seen.1.notify_all();
            };
            Watcher::start_with(&path, method, Arc::new(Heartbeat::new(None, Instant::now())), on_change)
                .expect("a watcher")
        };
        Self { watcher, seen, root, _folder: folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits until the last call found `expected`.
    fn expect(&self, expected: Option<&str>) {
        let other = |seen: &mut Vec<Option<String>>| seen.last().map(Option::as_deref) != Some(expected);
        let waited = self.seen.1.wait_timeout_while(lock(&self.seen.0), PATIENCE, other);
        let (seen, timeout) = waited.expect("no panic in a call");
        assert!(!timeout.timed_out(), "waited for {expected:?}, saw {:?}", *seen);
    }

    fn calls(&self) -> usize {
        lock(&self.seen.0).len()
    }
}

fn write(path: PathBuf, content: &str) {
    fs::write(path, content).expect("a written file");
}

fn plain(method: &Method) -> Scene {
    Scene::new(method, "f", |root| write(root.join("f"), "first"))
}

#[test]
fn every_kind_of_change_is_noticed() {
    let check = |name: &str, change: &dyn Fn(&Scene)| {
        for method in [&EVENTS, &POLLING] {
            let scene = plain(method);
            change(&scene);
            scene.expect(Some("second"));
            // The watch must have survived the first change.
            write(scene.at("f"), "third");
            scene.expect(Some("third"));
            drop(scene);
            eprintln!("{name} is noticed");
        }
    };
    check("writing in place", &|scene| write(scene.at("f"), "second"));
    check("renaming over it", &|scene| {
        write(scene.at("f.new"), "second");
        fs::rename(scene.at("f.new"), scene.at("f")).expect("a rename");
    });
    check("moving it away and creating it", &|scene| {
        fs::rename(scene.at("f"), scene.at("f~")).expect("a rename");
        write(scene.at("f"), "second");
    });
    check("deleting and creating", &|scene| {
        fs::remove_file(scene.at("f")).expect("a removal");
        scene.expect(None);
        write(scene.at("f"), "second");
    });
    check("replacing by a link", &|scene| {
        write(scene.at("g"), "second");
        symlink("g", scene.at("f.new")).expect("a link");
        fs::rename(scene.at("f.new"), scene.at("f")).expect("a rename");
    });
}

#[test]
fn a_file_that_is_created_later_is_noticed() {
    let scene = Scene::new(&BOTH, "later/f", |_| ());
    fs::create_dir(scene.at("later")).expect("a folder");
    write(scene.at("later/f"), "one");
    scene.expect(Some("one"));
    fs::remove_dir_all(scene.at("later")).expect("a removal");
    scene.expect(None);
    fs::create_dir(scene.at("later")).expect("a folder");
    write(scene.at("later/f"), "two");
    scene.expect(Some("two"));
    write(scene.at("later/f"), "three");
    scene.expect(Some("three"));
}

#[test]
fn a_folder_that_was_created_again_is_watched() {
    let scene = Scene::new(&EVENTS, "sub/f", |root| {
        fs::create_dir(root.join("sub")).expect("a folder");
        write(root.join("sub/f"), "one");
    });
    for round in 0..3 {
        fs::remove_dir_all(scene.at("sub")).expect("a removal");
        scene.expect(None);
        fs::create_dir(scene.at("sub")).expect("a folder");
        write(scene.at("sub/f"), "two");
        // The folder around it is not watched.
        scene.watcher.poke();
        scene.expect(Some("two"));
        write(scene.at("sub/f"), &format!("three {round}"));
        scene.expect(Some(&format!("three {round}")));
    }
}

#[test]
fn symbolic_links_are_followed() {
    for method in [&EVENTS, &POLLING] {
        let version = |root: &Path, name: &str, content: &str| {
            fs::create_dir(root.join(name)).expect("a folder");
            write(root.join(name).join("f"), content);
            symlink(name, root.join("..data.new")).expect("a link");
            fs::rename(root.join("..data.new"), root.join("..data")).expect("a rename");
        };
        let scene = Scene::new(method, "f", |root| {
            version(root, "..v1", "first");
            symlink("..data/f", root.join("f")).expect("a link");
        });
        for round in 2..5 {
            version(&scene.root, &format!("..v{round}"), &format!("content {round}"));
            fs::remove_dir_all(scene.at(&format!("..v{}", round - 1))).expect("a removal");
            scene.expect(Some(&format!("content {round}")));
        }
        write(scene.at("..v4/f"), "in place");
        scene.expect(Some("in place"));
    }
}

#[test]
fn a_burst_causes_one_call() {
    // Only a poke ends a burst here, so that a slow machine does not split it.
    let scene = plain(&Method { quiet: NEVER, burst_max: NEVER, ..EVENTS });
    for round in 1..=3 {
        for save in 0..10 {
            write(scene.at("f.new"), &format!("save {round} {save}"));
            fs::rename(scene.at("f.new"), scene.at("f")).expect("a rename");
        }
        scene.watcher.poke();
        scene.expect(Some(&format!("save {round} 9")));
        assert_eq!(scene.calls(), round, "one call for each burst");
    }
}

#[test]
fn endless_changes_cause_calls() {
    // No pause is long enough here.
    let scene = plain(&Method { quiet: NEVER, ..EVENTS });
    let begin = Instant::now();
    while scene.calls() == 0 {
        assert!(begin.elapsed() < PATIENCE, "no call during changes");
        write(scene.at("f"), &format!("{:?}", begin.elapsed()));
        std::thread::yield_now();
    }
}

#[test]
fn reading_and_other_files_cause_no_call() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    write(at("f"), "first");
    // The system's events in order, after `Signals` has seen them.
    let (told, seen) = std::sync::mpsc::channel();
    let signals = Arc::new(Signals::default());
    let handler = {
        let signals = Arc::clone(&signals);
        move |event: notify::Result<Event>| {
            signals.event(&event);
            let _ = told.send(event.expect("an event").paths);
        }
    };
    let mut places = Places::new(at("f"), Some(notify::recommended_watcher(handler).expect("a notifier")));
    signals.concerns(places.refresh());
    let stamp = places.stamp();
    let until = |name: &str| while !seen.recv_timeout(PATIENCE).expect("an event").contains(&at(name)) {};
    for _ in 0..5 {
        fs::read(at("f")).expect("a file");
        write(at("other"), "x");
    }
    write(at("last"), "x");
    until("last");
    assert!(!lock(&signals.pending).changed);
    assert_eq!(places.stamp(), stamp, "polling finds no change either");
    write(at("f"), "second");
    // The events of opening and of writing come in any order.
    while !lock(&signals.pending).changed {
        seen.recv_timeout(PATIENCE).expect("an event of the change");
    }
    assert_ne!(places.stamp(), stamp);
}

#[test]
fn a_poke_causes_a_call_and_a_drop_stops_the_thread() {
    let scene = plain(&POLLING);
    scene.watcher.poke();
    scene.expect(Some("first"));
    let calls = scene.calls();
    scene.watcher.poke();
    let begin = Instant::now();
    while scene.calls() == calls {
        assert!(begin.elapsed() < PATIENCE, "no call after a poke");
        std::thread::sleep(Duration::from_millis(1));
    }
    let seen = Arc::clone(&scene.seen);
    drop(scene);
    // The thread, which held the other reference, has ended.
    assert_eq!(Arc::strong_count(&seen), 1);
}
