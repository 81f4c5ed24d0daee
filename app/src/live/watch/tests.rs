use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// Longest that a loaded machine may take to do what is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Longer than any test lasts.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Told only: a look would hide an event that did not come.
const TOLD: Means = Means { look_every: NEVER, ..MEANS };

/// Looking only.
const LOOKED: Means = Means { events: false, look_every: Duration::from_millis(50), ..MEANS };

/// Told, and looking as well.
const BOTH: Means = Means { events: true, ..LOOKED };

/// A folder with a watched file, and what the calls found in it.
struct Scene {
    watcher: Watcher,
    seen: Arc<(Mutex<Vec<Option<String>>>, Condvar)>,
    root: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// Makes a folder by `make`, and watches the file `name` in it.
    fn new(means: &Means, name: &str, make: impl FnOnce(&Path)) -> Self {
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
            Watcher::start_with(&path, means, Arc::new(Heartbeat::new(None, Instant::now())), on_change).expect("a watcher")
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

fn plain(means: &Means) -> Scene {
    Scene::new(means, "f", |root| write(root.join("f"), "first"))
}

#[test]
fn every_way_of_change_is_noticed() {
    let check = |name: &str, change: &dyn Fn(&Scene)| {
        for means in [&TOLD, &LOOKED] {
            let scene = plain(means);
            change(&scene);
            scene.expect(Some("second"));
            // And again: the watch must have survived the first change.
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
    check("moving it away and writing anew", &|scene| {
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
fn a_file_that_comes_later_is_noticed_with_its_folder() {
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
fn a_folder_that_comes_back_is_watched_again() {
    let scene = Scene::new(&TOLD, "sub/f", |root| {
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
fn links_on_the_way_are_followed() {
    for means in [&TOLD, &LOOKED] {
        let version = |root: &Path, name: &str, content: &str| {
            fs::create_dir(root.join(name)).expect("a folder");
            write(root.join(name).join("f"), content);
            symlink(name, root.join("..data.new")).expect("a link");
            fs::rename(root.join("..data.new"), root.join("..data")).expect("a rename");
        };
        let scene = Scene::new(means, "f", |root| {
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
fn a_burst_is_one_call_with_its_last_content() {
    // Only a poke ends a burst here, so no machine is too slow to keep the saves together.
    let scene = plain(&Means { quiet: NEVER, burst_max: NEVER, ..TOLD });
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
fn changes_without_a_pause_are_seen_meanwhile() {
    // No pause is ever long enough here.
    let scene = plain(&Means { quiet: NEVER, ..TOLD });
    let begin = Instant::now();
    while scene.calls() == 0 {
        assert!(begin.elapsed() < PATIENCE, "no call during changes");
        write(scene.at("f"), &format!("{:?}", begin.elapsed()));
        std::thread::yield_now();
    }
}

#[test]
fn reading_and_other_files_are_no_change() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    write(at("f"), "first");
    // What the system told, in its order, after `Signals` has seen it.
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
    assert_eq!(places.stamp(), stamp, "nor does a look find one");
    write(at("f"), "second");
    // Which of a write's events comes first, its opening or its change, is the system's affair.
    while !lock(&signals.pending).changed {
        seen.recv_timeout(PATIENCE).expect("an event of the change");
    }
    assert_ne!(places.stamp(), stamp);
}

#[test]
fn a_poke_makes_a_call_and_a_drop_stops_at_once() {
    let scene = plain(&LOOKED);
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
    // The thread, which held the other one, is gone.
    assert_eq!(Arc::strong_count(&seen), 1);
}
