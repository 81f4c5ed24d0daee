//! Life on a board: a wanted frame rate, unchanged frames, no writes, a read-only root.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use spotter::config::Config;
use spotter::output::json::Json;
use spotter::process::LoopControl;
use spotter_engine::bundle::{Bundle, Contents};

use crate::harness::{DEADLINE, Done, Line, Place, Running, drawn, finish, lines};

/// The frames of `source` with a configuration, until `count` have been labelled.
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
    // Emulated programs are not fast enough for more.
    let cases = if e2e::emulated() { [("1", 5), ("2", 9)] } else { [("4", 13), ("10", 31)] };
    for (max_fps, frames) in cases {
        let config = format!("[rate]\nmax_fps = {max_fps}\ngovernor = 'off'\n");
        let wanted: f64 = max_fps.parse().unwrap();
        e2e::in_time(max_fps, |_| {
            let lines = run(&Place::new(), &config, "test://shapes?size=64x64&fps=50", frames);
            let times: Vec<f64> = lines.iter().map(seconds).collect();
            let mut pauses: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).rem_euclid(86_400.0)).collect();
            pauses.sort_by(f64::total_cmp);
            // The median: other activity on the machine may delay single frames.
            let rate = 1.0 / pauses[pauses.len() / 2];
            let dropped = lines[frames - 1].dropped.unwrap();
            println!("{max_fps} frames/s wanted: {rate:.2}; {dropped} frames between {frames}");
            if (rate / wanted - 1.0).abs() >= 0.15 {
                return Err(format!("{rate} frames/s"));
            }
            // Frames in between are dropped, not queued.
            if dropped as f64 > 2.0 * frames as f64 { Ok(()) } else { Err(format!("only {dropped} frames dropped")) }
        });
    }
}

#[test]
fn unchanged_frames_reuse_the_scores_and_no_change_is_missed() {
    let place = Place::new();
    let folder = place.at("pictures");
    fs::create_dir(&folder).unwrap();
    // Scenes, each held for some frames; the last two differ in a patch of 12 x 12 pixels of 128 x 96.
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
        // Not only similar: exactly the scores of looking at it.
        assert_eq!(line.labels, plain[index].labels, "picture {index}");
    }
    println!("{reused} of {} frames were not looked at", shown.len());
}

#[test]
fn frames_after_a_change_of_labels_are_scored_again() {
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
        assert!(start.elapsed() < DEADLINE, "{}", program.stderr());
    }
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

/// A line of `/proc/PID/io`.
fn io(program: &Running, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", program.id())).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).unwrap()
}

/// Names, sizes and modification times of everything in a folder.
fn stamps(folder: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
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
    // No file stays open for writing, through which a later write might go.
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

/// What strace sees of a run of the program: every line about a file that was opened for writing, created, renamed,
/// removed or changed in another way, and whether the file is in the state folder or not on a disk. `None` without
/// strace.
fn changes(place: &Place, arguments: &str) -> Option<Vec<(String, bool)>> {
    const CALLS: &str = "trace=open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,\
                         symlink,symlinkat,link,linkat,mknod,mknodat,truncate,chmod,fchmodat,chown,lchown,fchownat,\
                         utimensat,setxattr,lsetxattr";
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(!e2e::is_ci(), "strace is missing (apt install strace)");
        println!("skipped: no strace here");
        return None;
    }
    let (trace, spotter) = (place.at("trace"), place.spotter(arguments));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-s", "4096", "-e", CALLS, "-o"]).arg(&trace).arg(spotter.get_program());
    command.args(spotter.get_args()).current_dir(place.at("")).env("STATE_DIRECTORY", place.state());
    let done = finish(command.env_remove("RUST_LOG"));
    // If this machine has a problem, the doctor reports it.
    assert!(done.code == Some(0) || arguments.starts_with("doctor"), "{arguments}: {}", done.stderr);
    let text = fs::read_to_string(&trace).unwrap();
    assert!(text.contains("openat("), "strace saw nothing: {text}");
    let roots = [place.state(), "/dev".into(), "/proc".into()];
    let lines = text.lines().filter(|line| changes_files(line)).map(|line| {
        let paths = paths(line, &place.at(""));
        let inside = |path: &PathBuf| roots.iter().any(|root| path.starts_with(root));
        (line.to_owned(), !paths.is_empty() && paths.iter().all(inside))
    });
    Some(lines.collect())
}

#[test]
fn nothing_outside_of_the_state_folder_is_touched() {
    let place = Place::new();
    place.labels("labels.toml", &["red circle", "blue star"]);
    place.write("spotter.toml", "labels = 'labels.toml'\n");
    let demo = Bundle::open(&e2e::root().join("config/demo")).unwrap();
    let files = demo.manifest().files().map(|file| demo.read(file).unwrap());
    let contents = Contents { vision: &files[0], text: &files[1], tokenizer: &files[2], model_card: &files[3] };
    spotter_engine::bundle::write(&place.at("a.tar"), demo.manifest().clone(), &contents).unwrap();
    let mut count = 0;
    for arguments in [
        "run --output json --frames 5 --source test://shapes?size=64x64 --config spotter.toml",
        "bundle --config spotter.toml install a.tar --activate",
        "run --output json --frames 5 --source test://shapes?size=64x64 --config spotter.toml",
        "doctor --config spotter.toml",
    ] {
        let Some(changes) = changes(&place, arguments) else { return };
        assert!(changes.iter().all(|(_, inside)| *inside), "{arguments}: {changes:#?}");
        count += changes.len();
    }
    println!("{count} calls changed files, all of them in the state folder");
    assert!(count > 10, "the state is kept, and seen to be");
    // Writes elsewhere are seen as well.
    let changes = changes(&place, "snapshot --source test://shapes?size=64x64 here.png").unwrap();
    assert!(changes.iter().any(|(line, inside)| !inside && line.contains("here.png")), "{changes:#?}");
}

/// The paths in a line of strace; relative ones follow the folder of the descriptor before them.
fn paths(line: &str, current: &Path) -> Vec<PathBuf> {
    let parts: Vec<_> = line.split('"').collect();
    let folder = |before: &str| {
        let (_, folder) = before.strip_suffix(">, ")?.rsplit_once('<')?;
        Some(PathBuf::from(folder))
    };
    let named = parts.chunks_exact(2).map(|pair| folder(pair[0]).unwrap_or_else(|| current.to_owned()).join(pair[1]));
    named.collect()
}

/// Returns whether a line of strace is about a call that changes files, and succeeded.
fn changes_files(line: &str) -> bool {
    let opens = ["open(", "openat(", "openat2("].iter().any(|call| line.contains(call));
    let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| line.contains(flag));
    // A refused attempt would have been a change too, unless the file does not exist.
    let tried = !line.contains(" = -1 ENOENT") || line.contains("O_CREAT");
    let is_call = line.contains('(') && !line.contains("+++") && !line.contains("---");
    is_call && tried && (!opens || writes)
}

/// A shell in a mount namespace of its own, in which every file system is read-only except the state folder's, if that
/// exists; `None` if the system allows no namespaces.
fn read_only_world(place: &Place, work: &str) -> Option<Done> {
    // The options of a mount must be repeated: without privileges none may be dropped.
    const SCRIPT: &str = "set -e\n\
        if [ -d \"$STATE_DIRECTORY\" ]; then mount --bind \"$STATE_DIRECTORY\" \"$STATE_DIRECTORY\"; fi\n\
        while read -r _ _ _ _ point options _; do\n\
          if [ \"$point\" != \"$STATE_DIRECTORY\" ]; then\n\
            point=$(printf '%b' \"$point\")\n\
            mount -o \"remount,bind,ro${options#r?}\" \"$point\"\n\
          fi\n\
        done < /proc/self/mountinfo\n\
        cd \"$PLACE\"\n";
    let may =
        |flags: &[&str]| Command::new("unshare").args(flags).arg("true").output().is_ok_and(|d| d.status.success());
    let flags: &[&str] = [&["--mount"][..], &["--user", "--map-root-user", "--mount"]].into_iter().find(|f| may(f))?;
    let mut command = Command::new("unshare");
    command.args(flags).args(["sh", "-c", &format!("{SCRIPT}{work}")]);
    command.env("STATE_DIRECTORY", place.state()).env("PLACE", place.at("")).env_remove("RUST_LOG");
    Some(finish(command.current_dir("/")))
}

#[test]
fn read_only_file_systems_are_enough() {
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    let spotter = e2e::program("spotter").display().to_string();
    // First check that nothing else can be written, or the rest proves nothing.
    let probe = "for folder in / /tmp /etc /root /var/tmp /dev/shm /run \"$PLACE\"; do \
                 if [ -d \"$folder\" ] && touch \"$folder/probe.$$\" 2>/dev/null; then echo \"$folder\"; fi; done; \
                 touch \"$STATE_DIRECTORY/probe\"";
    let Some(done) = read_only_world(&place, probe) else {
        assert!(!e2e::is_ci(), "this system makes no mount namespaces, by which alone this can be tested");
        println!("skipped: no mount namespaces here");
        return;
    };
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "could be written: {}", done.stderr);
    assert!(place.state().join("probe").exists());
    let run = format!("{spotter} run --output json --frames 3 --source 'test://shapes?size=64x64'");
    let done = read_only_world(&place, &run).unwrap();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(lines(&done).len(), 3);
    assert!(!done.stderr.contains("WARN"), "{}", done.stderr);
    assert!(place.cache().exists(), "the labels' embeddings are kept");
    // Without any writable place, labels are embedded at each start, with a warning; the doctor reports it as well.
    let bare = Place::new();
    let done = read_only_world(&bare, &run).unwrap();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(lines(&done).len(), 3);
    assert!(done.stderr.contains("the label cache cannot be written"), "{}", done.stderr);
    let done = read_only_world(&bare, &format!("{spotter} doctor --json")).unwrap();
    assert_eq!(done.code, Some(1));
    let found: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(found["storage"]["writable"], false, "{found:#}");
    let what = format!("{} cannot be written, so every start embeds all labels again", bare.state().display());
    assert!(found["findings"].as_array().unwrap().iter().any(|f| f["what"] == what.as_str()), "{found:#}");
}

/// Collects what an output writes.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn events(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains("\"event\":\"rate\""));
        lines
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].as_str().unwrap().into())
            .collect()
    }
}

/// The loop on a simulated Raspberry Pi 5 that gets hot and cools down, reported in JSON and in the metrics.
#[test]
fn the_rate_of_a_hot_board_is_lowered_and_raised_and_both_are_reported() {
    let place = Place::new();
    let set = |path: &str, text: &str| {
        let path = place.at("board").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    const FREE: &str = "no longer limited";
    const HEAT: &str = "sys/class/thermal/thermal_zone0/temp";
    set("sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0");
    set("sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "0\n");
    set("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    set(HEAT, "80500\n");
    let metrics = place.at("spotter.prom");
    let text = format!("[metrics]\nfile = '{}'\ncamera = 'front door'\n", metrics.display());
    let config = Config::parse(&place.at("spotter.toml"), &text, |_| None).unwrap();
    let control = LoopControl { root: place.at("board"), ..LoopControl::default() };
    let written = Written::default();
    let output = Box::new(Json::new(Box::new(written.clone())));
    let uri = "test://shapes?size=64x64&fps=20".parse().unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| spotter::pipeline::run(&config, &uri, output, &control));
        let until = |what: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !what() {
                if start.elapsed() > DEADLINE || running.is_finished() {
                    control.stop.set();
                    panic!("{:?} {:?}", written.events(), fs::read_to_string(&metrics));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let says = |line: &str| fs::read_to_string(&metrics).is_ok_and(|text| text.lines().any(|l| l == line));
        until(&|| !written.events().is_empty());
        until(&|| says("spotter_frame_rate_held{camera=\"front door\"} 1"));
        assert!(!says("spotter_frame_rate_limit_hertz{camera=\"front door\"} +Inf"));
        assert!(says("spotter_source_up{camera=\"front door\"} 1"));
        set(HEAT, "50000\n");
        until(&|| written.events().last().is_some_and(|event| event == FREE));
        until(&|| says("spotter_frame_rate_held{camera=\"front door\"} 0"));
        assert!(says("spotter_frame_rate_limit_hertz{camera=\"front door\"} +Inf"));
        control.stop.set();
        running.join().unwrap().unwrap();
    });
    let events = written.events();
    assert!(
        events[0].starts_with("at most ") && events[0].ends_with("cpu-thermal is at 80 °C, limit 75 °C"),
        "{events:?}"
    );
    // On a busy machine the board may stay hot for more than one step down, and then as many up.
    let (last, before) = events.split_last().unwrap();
    assert!(last == FREE && before.iter().all(|event| event.starts_with("at most ")), "{events:?}");
    assert!(!metrics.exists(), "figures of a program that has ended mislead");
}
