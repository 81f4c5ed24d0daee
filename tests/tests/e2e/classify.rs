//! `spotter classify`, and MJPEG on standard input.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use spotter::labels::label_file;
use spotter_engine::bundle::Bundle;
use spotter_engine::labels::{Cache, embed_labels};
use spotter_engine::picture::decode;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::score::score;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::harness::{Done, Place, Running, check_labels, drawn, finish, lines};

/// Labels of drawn shapes, which exclude each other.
fn shapes() -> PathBuf {
    e2e::root().join("config/demo/labels.toml")
}

#[test]
fn json_gives_every_picture_its_labels_best_first() {
    let place = Place::new();
    let pictures = ["0.png", "1.png", "2.png"];
    for (number, name) in pictures.into_iter().enumerate() {
        place.picture(name, number as u64);
    }
    let check = |options: &str, count: usize| {
        let done =
            finish(place.spotter(&format!("classify --json {options}")).arg("--labels").arg(shapes()).args(pictures));
        assert_eq!(done.code, Some(0), "{options}: {}", done.stderr);
        let lines = lines(&done);
        let paths: Vec<_> = lines.iter().map(|line| line.path.clone().unwrap()).collect();
        assert_eq!(paths, pictures.map(PathBuf::from), "{options}: paths as they were given, in their order");
        lines.iter().for_each(|line| check_labels(line, count));
        assert!(lines.iter().all(|line| line.frame.is_none() && line.time.is_none()), "{options}");
        lines
    };
    let all = check("--top-k 48", 48);
    for line in &all {
        let sum: f32 = line.labels.iter().map(|label| label.probability).sum();
        let mut names: Vec<_> = line.labels.iter().map(|label| &label.name).collect();
        names.sort();
        names.dedup();
        println!("{}: probabilities add up to {sum:.6}", line.path.as_ref().unwrap().display());
        assert!((sum - 1.0).abs() < 1e-4 && names.len() == 48, "{sum}, {} names", names.len());
    }
    assert_ne!(all[0].labels, all[1].labels, "two pictures, one score");
    for (options, count) in [("", 5), ("--top-k 1", 1), ("--top-k 1000", 48)] {
        for (line, whole) in check(options, count).iter().zip(&all) {
            assert_eq!(line.labels, whole.labels[..count], "{options}: the best of all");
        }
    }
}

#[test]
fn scores_equal_those_of_the_library() {
    let place = Place::new();
    let picture = place.picture("x.png", 5);
    let demo = e2e::root().join("config/demo");
    let bundle = Bundle::open(&demo).unwrap();
    let manifest = bundle.manifest();
    let labels = label_file::load(&shapes(), &manifest.templates).unwrap().rows;
    let mut text = TextTower::open(&bundle, &Threads::default()).unwrap();
    let (labels, _) = embed_labels(&labels, manifest, &mut Cache::default(), |sentence| text.embed(sentence)).unwrap();
    let mut pixels = Vec::new();
    let decoded = decode(&std::fs::read(&picture).unwrap()).unwrap();
    Preprocessor::new(&manifest.preprocess).unwrap().run(&decoded, &mut pixels).unwrap();
    let image = ImageTower::open(&bundle, &Threads::default()).unwrap().embed(&pixels).unwrap();
    let mut expected = Vec::new();
    score(&image, &labels, &manifest.scoring(), &mut expected);

    let tar = place.at("bundle.tar");
    let contents = [&manifest.vision.file, &manifest.text.file, &manifest.tokenizer.file, &manifest.model_card];
    let contents = contents.map(|file| bundle.read(file).unwrap());
    let contents = spotter_engine::bundle::Contents {
        vision: &contents[0],
        text: &contents[1],
        tokenizer: &contents[2],
        model_card: &contents[3],
    };
    spotter_engine::bundle::write(&tar, manifest.clone(), &contents).unwrap();
    let check = |what: &str, bundle: Option<&Path>| {
        let mut command = place.spotter("classify --json --top-k 48 x.png");
        command.arg("--labels").arg(shapes());
        if let Some(bundle) = bundle {
            command.arg("--bundle").arg(bundle);
        }
        let done = finish(&mut command);
        assert_eq!(done.code, Some(0), "{what}: {}", done.stderr);
        let found = lines(&done).remove(0).labels;
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.name, labels.names()[expected.label], "{what}");
            assert_eq!(
                (found.cosine, found.logit, found.probability),
                (expected.cosine, expected.logit, expected.probability),
                "{what}: {}",
                found.name
            );
        }
    };
    check("inside the program", None);
    check("a folder", Some(&demo));
    check("an archive", Some(&tar));
}

#[test]
fn a_picture_that_cannot_be_read_stops_no_other() {
    let place = Place::new();
    place.picture("a.png", 1);
    place.write("b.jpg", "");
    place.picture("c.png", 2);
    for (format, count) in [("--json", 2), ("", 12)] {
        let done = finish(&mut place.spotter(&format!("classify {format} a.png b.jpg c.png")));
        assert_eq!(done.code, Some(1), "{format}: {}", done.stderr);
        assert_eq!(done.stdout.lines().count(), count, "{format}: {}", done.stdout);
        assert!(done.stdout.contains("a.png") && done.stdout.contains("c.png"), "{format}: {}", done.stdout);
        let errors: Vec<_> = done.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(matches!(errors[..], [error] if error.contains("b.jpg")), "{format}: {}", done.stderr);
    }
}

/// Drawn shapes as JPEG files, one after the other.
fn mjpeg(frames: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..frames {
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
        drawn(number).write_with_encoder(encoder).unwrap();
    }
    bytes
}

#[test]
fn mjpeg_on_standard_input_is_labelled_frame_by_frame() {
    const FRAMES: u64 = 40;
    let place = Place::new();
    let stream = place.write("stream.mjpeg", mjpeg(FRAMES));
    let numbers = |what: &str, done: &Done| -> Vec<u64> {
        assert_eq!(done.code, Some(0), "{what}: {}", done.stderr);
        lines(done)
            .iter()
            .map(|line| {
                check_labels(line, 5);
                let latency = line.latency_ms.as_ref().unwrap();
                let stages = latency.decode + latency.preprocess + latency.tower + latency.score;
                assert!(latency.decode > 0.0 && latency.tower > 0.0 && latency.capture >= 0.0, "{what}: {latency:?}");
                assert!(latency.total >= stages - 0.01, "{what}: {latency:?}");
                assert!(line.time.as_ref().unwrap().contains('T') && line.path.is_none(), "{what}: {line:?}");
                line.frame.unwrap()
            })
            .collect()
    };

    let spotter = |arguments: &str| {
        let mut command = place.spotter(arguments);
        command.arg("--labels").arg(shapes());
        command
    };
    let done = finish(spotter("run --source - --output json").stdin(File::open(&stream).unwrap()));
    assert_eq!(numbers("a file", &done), Vec::from_iter(0..FRAMES), "every frame of a file, once");
    assert!(lines(&done).iter().all(|line| line.dropped == Some(0)));
    // The stream's first frame and the same JPEG as a file are the same picture.
    let first = mjpeg(1);
    place.write("first.jpg", first);
    let alone = lines(&finish(&mut spotter("classify --json first.jpg"))).remove(0);
    assert_eq!(alone.labels, lines(&done)[0].labels);

    let mut command = spotter("run --source - --output json --frames 3");
    let done = finish(command.stdin(File::open(&stream).unwrap()));
    assert_eq!(numbers("--frames", &done), [0, 1, 2]);

    // In a pipe the newest frame wins: the output is in order, and includes the last frame.
    let mut cat = Command::new("cat").arg(&stream).stdout(Stdio::piped()).spawn().unwrap();
    let done = finish(spotter("run --source - --output json").stdin(cat.stdout.take().unwrap()));
    cat.wait().unwrap();
    let found = numbers("a pipe", &done);
    println!("{} of {FRAMES} frames of a pipe that writes at full speed were labelled", found.len());
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
    assert_eq!(found.last(), Some(&(FRAMES - 1)), "the newest frame is labelled");
    let dropped = lines(&done).last().unwrap().dropped.unwrap();
    assert_eq!(found.len() as u64 + dropped, FRAMES, "each frame is labelled or counted as dropped");
}

#[test]
fn a_pipe_at_the_pace_of_a_camera_loses_no_frame() {
    const FRAMES: u64 = 20;
    let place = Place::new();
    let mut program = Running::start(place.spotter("run --source - --output json").stdin(Stdio::piped()));
    let mut input = program.child.stdin.take().unwrap();
    let start = Instant::now();
    for number in 0..FRAMES {
        let mut jpeg = Vec::new();
        drawn(number).write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 90)).unwrap();
        input.write_all(&jpeg).unwrap();
        // The next frame is sent once this one is answered, as by a camera slower than the model.
        let line = program.next().unwrap();
        assert_eq!((line.frame, line.dropped), (Some(number), Some(0)));
    }
    println!("{FRAMES} frames one by one: {:.1} ms each", start.elapsed().as_secs_f64() * 1e3 / FRAMES as f64);
    drop(input);
    let (code, rest, stderr) = program.end();
    assert!(code == Some(0) && rest.is_empty(), "{code:?}, {rest:?}: {stderr}");
}

#[test]
fn file_names_that_are_not_utf8_or_have_escapes_forge_no_line() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    std::fs::create_dir(place.at("pictures")).unwrap();
    let source = place.picture("picture.png", 1);
    // In folder order: Latin-1, a line break, an escape sequence.
    let names = [&b"a-caf\xe9.png"[..], b"b\nerror: forged.png", b"c\x1b[2J.png"];
    let paths: Vec<_> =
        names.iter().map(|name| Path::new("pictures").join(std::ffi::OsStr::from_bytes(name))).collect();
    for path in &paths {
        std::fs::copy(&source, place.at("").join(path)).unwrap();
    }
    let json = ["pictures/a-caf\u{fffd}.png", "pictures/b\nerror: forged.png", "pictures/c\x1b[2J.png"];
    let text = ["pictures/a-caf\u{fffd}.png", "pictures/b\\nerror: forged.png", "pictures/c\\u{1b}[2J.png"];
    for (arguments, by_name) in [("classify --json", true), ("run --source pictures --output json", false)] {
        let mut command = place.spotter(arguments);
        let done = finish(if by_name { command.args(&paths) } else { &mut command });
        assert_eq!(done.code, Some(0), "{arguments}: {}", done.stderr);
        let found: Vec<_> = lines(&done).into_iter().map(|line| line.path.unwrap()).collect();
        assert_eq!(found, json.map(PathBuf::from), "{arguments}");
    }
    for (arguments, by_name) in [("classify --top-k 1", true), ("run --source pictures --output text", false)] {
        let mut command = place.spotter(arguments);
        let done = finish(if by_name { command.args(&paths) } else { &mut command });
        assert_eq!(done.code, Some(0), "{arguments}: {}", done.stderr);
        assert!(!done.stdout.contains('\x1b') && !done.stdout.contains("\nerror"), "{arguments}: {}", done.stdout);
        text.iter().for_each(|name| assert!(done.stdout.contains(name), "{arguments}: {}", done.stdout));
    }
    // Neither in errors nor in the log.
    paths.iter().for_each(|path| std::fs::write(place.at("").join(path), "no picture").unwrap());
    for (arguments, by_name) in [("classify", true), ("run --source pictures --output text", false)] {
        let mut command = place.spotter(arguments);
        let done = finish(if by_name { command.args(&paths) } else { &mut command });
        assert_eq!(done.code, Some(1), "{arguments}");
        assert!(
            !done.stderr.contains('\x1b') && !done.stderr.contains("\nerror: forged"),
            "{arguments}: {}",
            done.stderr
        );
        text.iter().for_each(|name| assert!(done.stderr.contains(name), "{arguments}: {}", done.stderr));
    }
}

#[test]
fn outputs_may_be_closed_or_full() {
    let place = Place::new();
    let picture = place.picture("picture.png", 1);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    // An error that cannot be printed is still an error.
    for (arguments, code) in [
        ("classify missing.png", 1),
        ("classify missing.png picture.png", 1),
        ("run --source missing.png", 1),
        ("run --source test://shapes --frames 2", 0),
        ("check --labels missing.toml", 1),
        ("labels --labels missing.toml", 1),
        ("snapshot --source missing.png out.png", 1),
        ("bundle install missing.tar", 1),
        ("nonsense", 2),
    ] {
        let status = place.spotter(arguments).stdout(Stdio::null()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments} 2>/dev/full");
    }
    // So is an output that is lost while somebody wants it.
    for arguments in ["classify picture.png", "check", "bundle list"] {
        let output = place.spotter(arguments).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("standard output"), "{arguments}: {stderr}");
    }
    // A reader that has gone away wants no more output, and no message about it.
    for arguments in [
        "run --source test://shapes --output json",
        "classify picture.png",
        "classify --json picture.png",
        "labels",
        "check",
        "doctor",
        "doctor --json",
        "bundle list",
        "bench --frames 2",
        "bench --explain",
        "snapshot --source picture.png out.png",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.spotter(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {stderr}");
        assert!(stderr.lines().all(|line| line.contains(" INFO ")), "{arguments}: {stderr}");
    }
    // The work was done.
    assert!(place.at("out.png").exists() && place.cache().exists() && picture.exists());
    let mut prep = Command::new(e2e::program("model-prep"));
    let status = prep.args(["export", "missing", "--out", "bundle"]).current_dir(place.at("")).stderr(full()).status();
    assert_eq!(status.unwrap().code(), Some(1));
}
