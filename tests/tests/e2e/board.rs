//! Living on a board: a wanted rate, unchanged frames, no writes, a root that is read-only.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::classify::{Line, Place, Running, drawn, finish, lines};

/// Frames of `source` under a configuration, until `count` were labelled.
fn run(place: &Place, config: &str, source: &str, count: usize) -> Vec<Line> {
    place.write("spotter.toml", config);
    let done = finish(
        place.spotter(&format!("run --output json --frames {count} --config spotter.toml --source")).arg(source),
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let lines = lines(&done);
    assert_eq!(lines.len(), count, "{}", done.stderr);
    lines
}

fn seconds(line: &Line) -> f64 {
    let time = line.time.as_ref().unwrap();
    let clock: Vec<f64> = time[11..time.len() - 1].split(':').map(|part| part.parse().unwrap()).collect();
    clock[0] * 3600.0 + clock[1] * 60.0 + clock[2]
}

#[test]
fn the_wanted_rate_is_held_and_the_newest_frame_taken() {
    let place = Place::new();
    for (max_fps, frames) in [("4", 13), ("10", 31)] {
        let config = format!("[rate]\nmax_fps = {max_fps}\ngovernor = 'off'\n");
        let lines = run(&place, &config, "test://shapes?size=64x64&fps=50", frames);
        let took = (seconds(&lines[frames - 1]) - seconds(&lines[0])).rem_euclid(86_400.0);
        let rate = (frames - 1) as f64 / took;
        let wanted: f64 = max_fps.parse().unwrap();
        println!("{max_fps} frames/s wanted: {rate:.2}");
        assert!((rate / wanted - 1.0).abs() < 0.15, "{max_fps}: {rate}");
        let dropped = lines[frames - 1].dropped.unwrap();
        assert!(dropped as f64 > 2.0 * frames as f64, "frames between are dropped, not kept waiting: {dropped}");
    }
}

#[test]
fn unchanged_frames_get_the_scores_again_and_no_change_is_missed() {
    let place = Place::new();
    let folder = place.at("pictures");
    fs::create_dir(&folder).unwrap();
    // Scenes, each held for some frames; the last two differ by a patch of 12 x 12 pixels of 128 x 96.
    let mut scenes: Vec<image::RgbImage> = (0..6).map(drawn).collect();
    let mut patched = scenes[5].clone();
    for (x, y) in (0..12).flat_map(|y| (0..12).map(move |x| (x, y))) {
        patched.put_pixel(60 + x, 40 + y, image::Rgb([250, 250, 0]));
    }
    scenes.push(patched);
    let mut shown = Vec::new();
    for (number, scene) in scenes.iter().enumerate() {
        for _ in 0..=number % 3 + 1 {
            scene.save(folder.join(format!("{:03}.png", shown.len()))).unwrap();
            shown.push(number);
        }
    }
    let source = folder.display().to_string();
    let plain = run(&place, "", &source, shown.len());
    assert!(plain.iter().all(|line| line.unchanged.is_none()), "it is off by default");
    let lines = run(&place, "[inference]\nunchanged = 4\n", &source, shown.len());
    let mut reused = 0;
    for (index, line) in lines.iter().enumerate() {
        let same = index > 0 && shown[index] == shown[index - 1];
        reused += u64::from(same);
        assert_eq!(line.unchanged, Some(reused), "picture {index} shows scene {}", shown[index]);
        // Not only near: the very scores that looking at it gives.
        assert_eq!(line.labels, plain[index].labels, "picture {index}");
    }
    println!("{reused} of {} frames were not looked at", shown.len());
}

#[test]
fn frames_after_a_change_of_labels_are_looked_at() {
    let place = Place::new();
    let labels = place.labels("labels.toml", &["red circle", "blue star"]);
    let config = format!("labels = '{}'\n[inference]\nunchanged = 255\n", labels.display());
    place.write("spotter.toml", config);
    let mut command = place.spotter("run --output json --config spotter.toml --source test://shapes?size=64x64&fps=10");
    let program = Running::start(&mut command);
    while program.next().unwrap().unchanged.unwrap() < 3 {}
    place.labels("labels.toml", &["green square", "black heart", "white cross"]);
    let start = Instant::now();
    while program.next().unwrap().labels.len() != 3 {
        assert!(start.elapsed() < crate::classify::DEADLINE, "{}", program.stderr());
    }
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

/// A line of `/proc/PID/io`.
fn io(program: &Running, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", program.id())).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).unwrap()
}

/// Names, sizes and times of change of everything in a folder.
fn stamps(folder: &Path) -> Vec<(std::path::PathBuf, u64, i64, i64)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let (path, data) = (entry.as_ref().unwrap().path(), entry.unwrap().metadata().unwrap());
            (path, data.len(), data.ctime(), data.ctime_nsec())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let place = Place::new();
    let labels = place.labels("labels.toml", &["red circle", "blue star"]);
    place.write("spotter.toml", format!("labels = '{}'\n", labels.display()));
    let program = Running::start(
        &mut place.spotter("run --output json --config spotter.toml --source test://shapes?size=64x64&fps=30"),
    );
    (0..20).for_each(|_| drop(program.next().unwrap()));
    let (before, stamps_before, frames) = (io(&program, "write_bytes:"), stamps(&place.state()), 120);
    let (start, said) = (Instant::now(), program.stderr());
    (0..frames).for_each(|_| drop(program.next().unwrap()));
    let written = io(&program, "write_bytes:") - before;
    println!("{frames} frames in {:.1} s: {written} bytes to disks", start.elapsed().as_secs_f64());
    assert_eq!(written, 0, "bytes written to disks");
    assert_eq!(stamps(&place.state()), stamps_before);
    assert_eq!(program.stderr(), said, "nothing is said of frames: {}", program.stderr());
    // No file is held open for writing, where a later write might go.
    for fd in fs::read_dir(format!("/proc/{}/fdinfo", program.id())).unwrap() {
        let number = fd.unwrap().file_name();
        let target = fs::read_link(format!("/proc/{}/fd/{}", program.id(), number.display())).unwrap();
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", program.id(), number.display())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let writable = u32::from_str_radix(flags, 8).unwrap() & 0o3 != 0;
        let is_file = target.is_absolute() && !target.starts_with("/dev") && !target.starts_with("/proc");
        assert!(!(writable && is_file), "{} is open for writing", target.display());
    }
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

/// The program in a mount namespace of its own whose root is read-only, but for the state folder.
#[test]
fn a_root_that_is_read_only_is_enough() {
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    let spotter = e2e::program("spotter");
    let inside = |work: &str| {
        let state = place.state().display().to_string();
        let script = format!(
            "set -e; mount --bind {state} {state}; mount -o remount,bind,ro /; \
             for place in /root /tmp /etc .; do ! touch $place/probe 2>/dev/null; done; {work}"
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).env("STATE_DIRECTORY", &state);
        command.env_remove("RUST_LOG").current_dir(place.at(""));
        finish(&mut command)
    };
    if inside("touch $STATE_DIRECTORY/probe").code != Some(0) || !place.state().join("probe").exists() {
        println!("skipped: no user namespaces here");
        return;
    }
    let run = format!("{} run --output json --frames 3 --source test://shapes?size=64x64", spotter.display());
    let done = inside(&run);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(lines(&done).len(), 3);
    assert!(!done.stderr.contains("WARN"), "{}", done.stderr);
    assert!(place.cache().exists(), "the labels' embeddings are kept");
    // And without any place to write to, labels are embedded at each start, and that is said.
    let done = inside(&format!(
        "mount -o remount,bind,ro $STATE_DIRECTORY; rm -f $STATE_DIRECTORY/x; \
         STATE_DIRECTORY=/etc/nowhere {run}"
    ));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("the label cache cannot be written"), "{}", done.stderr);
}
