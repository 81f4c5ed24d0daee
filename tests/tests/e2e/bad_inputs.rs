//! Mistakes in inputs are reported once, by name, and the exit code is right.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Place, drawn, finish, finish_within, label_toml, lines};

/// A mistake that a user may make.
struct Case {
    what: &'static str,
    /// Files to write first.
    files: Vec<(&'static str, Vec<u8>)>,
    arguments: &'static str,
    code: i32,
    /// Parts of the one message.
    parts: &'static [&'static str],
}

fn jpeg() -> Vec<u8> {
    let mut bytes = Vec::new();
    drawn(1).write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut bytes)).unwrap();
    bytes
}

/// A PNG file whose header announces more pixels than it has.
pub(crate) fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    drawn(1).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let mut bytes = bytes.into_inner();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    // The CRC-32 of the chunk's name and data, bit by bit.
    let crc = bytes[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

/// Lines that report problems, including the hints that clap prints after its own.
fn messages(stderr: &str) -> Vec<&str> {
    let marks = ["error: ", "ERROR", "WARN"];
    stderr.lines().filter(|line| marks.iter().any(|mark| line.contains(mark))).collect()
}

fn check(case: &Case) {
    let Case { what, files, arguments, code, parts } = case;
    let place = Place::new();
    for (name, content) in files {
        let path = place.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let mut command = place.spotter(arguments);
    if files.iter().any(|(name, _)| *name == "stdin") {
        command.stdin(File::open(place.at("stdin")).unwrap());
    }
    let done = finish(&mut command);
    let found = messages(&done.stderr);
    println!("{what}: {}", found.join(" | "));
    assert_eq!(done.code, Some(*code), "{what}: {}{}", done.stdout, done.stderr);
    assert_eq!(found.len(), 1, "{what}: one message wanted: {}", done.stderr);
    for part in *parts {
        assert!(found[0].contains(part), "{what}: {part:?} is not in: {}", done.stderr);
    }
    assert!(!found[0].trim_end().ends_with('.'), "{what}: ends in a full stop: {}", found[0]);
    assert_eq!(done.stdout, "", "{what}: something was printed as if it were a result");
}

#[test]
fn files_that_are_no_pictures_are_named() {
    let case = |what, content: Vec<u8>, parts| {
        check(&Case { what, files: vec![("x.jpg", content)], arguments: "classify --json x.jpg", code: 1, parts });
    };
    case("0 bytes", Vec::new(), &["x.jpg", "0 bytes"]);
    case("a truncated JPEG", jpeg()[..jpeg().len() / 2].to_vec(), &["x.jpg", "truncated JPEG"]);
    case("20000 x 10000", png_of(20_000, 10_000), &["x.jpg", "20000 x 10000"]);
    case("0 x 0", png_of(0, 0), &["x.jpg"]);
    case("a strip", png_of(89_478_485, 1), &["x.jpg", "89478485 x 1", "sides of 1 to 65535"]);
    case("a square", png_of(9459, 9459), &["x.jpg", "9459 x 9459", "at most 67108864 pixels"]);
    case("text", b"labels = 3\n".to_vec(), &["x.jpg", "not an image"]);
    let elsewhere = |what, arguments, parts| {
        check(&Case { what, files: vec![("folder/x.txt", Vec::new())], arguments, code: 1, parts });
    };
    elsewhere("a missing file", "classify --json none.jpg", &["none.jpg", "No such file"]);
    elsewhere("a folder", "classify --json folder", &["folder", "directory"]);
    elsewhere("a name that is empty in the middle", "classify --json folder/x.txt/y.jpg", &["folder/x.txt/y.jpg"]);
}

/// Kinds of things that are not regular files, or not usable ones.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hostile {
    Pipe,
    Folder,
    EndlessDevice,
    Empty,
    Sparse,
    Unreadable,
}

impl Hostile {
    pub(crate) fn make(self, path: &Path) {
        match self {
            Self::Pipe => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::EndlessDevice => symlink("/dev/zero", path).unwrap(),
            Self::Empty => fs::write(path, "").unwrap(),
            // A sparse file: nothing of it is on the disk.
            Self::Sparse => File::create(path).unwrap().set_len(4 << 30).unwrap(),
            Self::Unreadable => {
                fs::write(path, "secret").unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
            }
        }
    }
}

/// Every reader of a file that a person names, with everything that is not a usable file.
#[test]
fn every_reader_refuses_what_is_not_a_regular_file() {
    struct Reader {
        arguments: &'static str,
        /// The expected message for each, beside its name; empty if it is not an error.
        expected: [(Hostile, Option<&'static str>); 6],
    }
    use Hostile::{Empty, EndlessDevice, Folder, Pipe, Sparse, Unreadable};
    let readers = [
        Reader {
            arguments: "classify --json hostile",
            expected: [
                (Pipe, Some("found a named pipe")),
                (Folder, Some("found a directory")),
                (EndlessDevice, Some("found a device")),
                (Empty, Some("0 bytes")),
                (Sparse, Some("larger than")),
                (Unreadable, Some("ermission")),
            ],
        },
        Reader {
            arguments: "classify --json --labels hostile x.png",
            expected: [
                (Pipe, Some("found a named pipe")),
                (Folder, Some("found a directory")),
                (EndlessDevice, Some("found a device")),
                (Empty, Some("no labels")),
                (Sparse, Some("larger than")),
                (Unreadable, Some("ermission")),
            ],
        },
        Reader {
            arguments: "classify --json --config hostile x.png",
            expected: [
                (Pipe, Some("found a named pipe")),
                (Folder, Some("found a directory")),
                (EndlessDevice, Some("found a device")),
                (Empty, None),
                (Sparse, Some("larger than")),
                (Unreadable, Some("ermission")),
            ],
        },
        Reader {
            arguments: "classify --json --bundle hostile x.png",
            expected: [
                (Pipe, Some("neither a file nor a folder")),
                (Folder, Some("a directory without one")),
                (EndlessDevice, Some("neither a file nor a folder")),
                (Empty, Some("an empty file")),
                (Sparse, Some("no tar archive")),
                (Unreadable, Some("ermission")),
            ],
        },
    ];
    for Reader { arguments, expected } in &readers {
        for (hostile, part) in expected {
            let place = Place::new();
            place.picture("x.png", 1);
            hostile.make(&place.at("hostile"));
            // Root may read everything.
            if matches!(hostile, Unreadable) && File::open(place.at("hostile")).is_ok() {
                continue;
            }
            // If it is not an error, images are classified.
            let most = Duration::from_secs(if part.is_some() { 1 } else { 10 });
            let done = finish_within(&format!("{arguments}, {hostile:?}"), most, || place.spotter(arguments));
            let (code, stderr) = (done.code, &done.stderr);
            match part {
                None => assert_eq!(code, Some(0), "{arguments}, {hostile:?}: {stderr}"),
                Some(part) => {
                    assert_eq!(code, Some(1), "{arguments}, {hostile:?}: {stderr}");
                    assert!(stderr.contains("hostile") && stderr.contains(part), "{arguments}, {hostile:?}: {stderr}");
                }
            }
        }
    }
}

#[test]
fn a_picture_of_one_pixel_is_classified() {
    let place = Place::new();
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(1, 1, image::Rgb([200, 30, 30])).write_to(&mut png, image::ImageFormat::Png).unwrap();
    place.write("x.png", png.into_inner());
    let done = finish(&mut place.spotter("classify --json x.png"));
    assert_eq!((done.code, messages(&done.stderr)), (Some(0), vec![]), "{}", done.stderr);
    assert_eq!(lines(&done)[0].labels.len(), 5);
}

#[test]
fn wrong_settings_and_labels_are_named_by_line_and_column() {
    let config = |what, text: &str, parts| {
        let files = vec![("s.toml", text.as_bytes().to_vec()), ("x.png", png_of(128, 96))];
        for arguments in ["classify --json --config s.toml x.png", "run --output json --config s.toml"] {
            check(&Case { what, files: files.clone(), arguments, code: 1, parts });
        }
        check_checks(what, &files, "check --config s.toml", parts);
    };
    config("an unknown key", "sorce = \"auto\"\n", &["s.toml:1:1", "unknown key `sorce`", "`source`"]);
    config("a number for a text", "output = 3\n", &["s.toml:1:10", "`output`", "found an integer"]);
    config("a text for a number", "[inference]\ntop_k = \"5\"\n", &["s.toml:2:9", "`top_k`", "found a string"]);
    config("a list for a table", "capture = []\n", &["s.toml:1:11", "`capture`", "found an array"]);
    config("no TOML", "source = \n", &["s.toml:1:"]);
    config("an unknown scheme", "source = \"gopher://x\"\n", &["s.toml:1:10", "unknown scheme `gopher`"]);

    let labels = |what, text: &str, parts| {
        let files = vec![("l.toml", text.as_bytes().to_vec()), ("x.png", png_of(128, 96))];
        let classify = "classify --json --labels l.toml x.png";
        let run = "run --output json --frames 1 --source test://shapes --labels l.toml";
        for arguments in [classify, run, "labels --labels l.toml"] {
            check(&Case { what, files: files.clone(), arguments, code: 1, parts });
        }
        check_checks(what, &files, "check --labels l.toml", parts);
    };
    labels("a duplicate label", &label_toml(&["cat", "dog", "cat"]), &["l.toml:10:8", "`cat`"]);
    labels("an empty label", &label_toml(&["cat", ""]), &["l.toml:7:8", "`name`"]);
    labels("no labels", "", &["l.toml:1:1", "no labels"]);
    labels("a number for a name", "[[label]]\nname = 3\n", &["l.toml:2:8", "found an integer"]);
    labels("a template without a place", "templates = [\"a\"]\n[[label]]\nname = \"x\"\n", &["l.toml:1:14", "`a`"]);
}

/// `check` reports the same on standard output.
fn check_checks(what: &str, files: &[(&'static str, Vec<u8>)], arguments: &str, parts: &[&str]) {
    let place = Place::new();
    files.iter().for_each(|(name, content)| drop(place.write(name, content)));
    let done = finish(&mut place.spotter(arguments));
    assert_eq!(done.code, Some(1), "{what}: check: {}{}", done.stdout, done.stderr);
    assert_eq!(done.stdout.lines().count(), 1, "{what}: check: {}", done.stdout);
    assert!(parts.iter().all(|part| done.stdout.contains(part)), "{what}: check: {}", done.stdout);
}

#[test]
fn check_names_every_problem_of_all_files() {
    let place = Place::new();
    place.write("s.toml", "sorce = 1\noutput = 2\n");
    place.labels("l.toml", &["cat", "cat", ""]);
    let done = finish(&mut place.spotter("check --config s.toml --labels l.toml --bundle none"));
    println!("{}", done.stdout);
    assert_eq!(done.code, Some(1));
    for part in ["s.toml:1:1", "s.toml:2:10", "l.toml:7:8", "l.toml:10:8", "none"] {
        assert!(done.stdout.lines().any(|line| line.contains(part)), "{part}: {}", done.stdout);
    }
    assert_eq!(done.stdout.lines().count(), 5, "{}", done.stdout);
    let done = finish(&mut place.spotter("check"));
    assert_eq!((done.code, messages(&done.stderr)), (Some(0), vec![]), "{}{}", done.stdout, done.stderr);
}

#[test]
fn sources_without_frames_are_named() {
    let case = |what, arguments, parts| {
        let text = b"no JPEG here, only text\n".repeat(100);
        let files = vec![("stdin", text), ("folder/notes.txt", Vec::new()), ("broken/x.jpg", b"x".to_vec())];
        check(&Case { what, files, arguments, code: 1, parts });
    };
    case("no camera", "run --output json --source /dev/video99", &["/dev/video99", "not found"]);
    case("no camera, as a URI", "run --output json --source v4l2:///dev/video99", &["/dev/video99", "not found"]);
    // qemu-user implements none of the calls that query a device.
    if !e2e::emulated() {
        case("no device for pictures", "run --output json --source /dev/null", &["/dev/null", "not a capture device"]);
    }
    case("an unknown scheme", "run --output json --source gopher://x", &["gopher://x", "unknown scheme `gopher`"]);
    case(
        "a network camera",
        "run --output json --source rtsp://me:hunter2@camera.invalid/1",
        &["rtsp://camera.invalid/1"],
    );
    case("an empty folder", "run --output json --source folder", &["folder", "no images"]);
    case("a missing folder", "run --output json --source none", &["none", "not found"]);
    case("text for a stream", "run --output json --source -", &["standard input", "2400 bytes without a JPEG frame"]);
    case("a wrong option", "run --output json --source test://shapes?sead=1", &["sead=1", "`seed=`"]);
    case("no bundle", "run --output json --source test://shapes --bundle none", &["none", "No such file"]);
    case("no labels", "run --output json --source test://shapes --labels none.toml", &["none.toml: no such file"]);
    case("labels that are a folder", "run --source test://shapes --labels folder", &["folder", "a directory"]);
    case("no configuration", "run --config none.toml", &["none.toml: no such file"]);
}

#[test]
fn labels_that_the_model_cannot_read_are_reported() {
    let long = "red ".repeat(100);
    let place = Place::new();
    place.picture("x.png", 1);
    place.labels("l.toml", &["红色的圆", "red 猫", long.trim_end(), "Red Circle", "red circle", "blue star"]);
    let line = |label: usize| format!("l.toml:{}:8: label", 3 * label + 1);
    let expected = [
        vec![line(1), "`红色的圆`: 4 of 4 tokens are unknown".to_owned(), "cannot know what is meant".to_owned()],
        vec![line(2), "`red 猫`: 1 of 2 tokens is unknown".to_owned()],
        vec![line(3), "red red".to_owned(), "tokens and the text tower takes".to_owned(), "are cut off".to_owned()],
        vec![line(5), "`red circle`".to_owned(), format!("the label `Red Circle` in line {}", 3 * 4 + 1)],
    ];
    let check = |arguments: &str, marks: &str| {
        let done = finish(&mut place.spotter(arguments));
        assert_eq!(done.code, Some(0), "{arguments}: {}{}", done.stdout, done.stderr);
        let said = format!("{}{}", done.stdout, done.stderr);
        let found: Vec<&str> = said.lines().filter(|line| line.contains(marks)).collect();
        assert_eq!(found.len(), expected.len(), "{arguments}: {said}");
        for (found, parts) in found.iter().zip(&expected) {
            assert!(parts.iter().all(|part| found.contains(part)), "{arguments}: {parts:?} are not in: {found}");
        }
    };
    check("check --labels l.toml", "warning: ");
    check("labels --labels l.toml", "WARN");
    // Cached ones are reported, too.
    check("labels --labels l.toml", "WARN");
    check("run --output json --source x.png --labels l.toml", "WARN");
}

#[test]
fn common_mistakes_in_names_are_answered_with_what_to_do() {
    let files = || -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("v.mp4", b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2mp41".to_vec()),
            ("checkpoint/config.json", b"{}".to_vec()),
            ("b.tar.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x1b[31m\xff\xfe".to_vec()),
        ]
    };
    let case = |arguments, parts| check(&Case { what: arguments, files: files(), arguments, code: 1, parts });
    case("run --output json --source 99", &["/dev/video99", "not found", "ls /dev/video*"]);
    case("run --output json --source usb:99", &["/dev/video99", "not found"]);
    case("run --output json --source v4l2:/dev/video99", &["/dev/video99", "not found"]);
    case("run --output json --source v.mp4", &["v.mp4"]);
    case("classify v.mp4", &["an MP4 or QuickTime video", "ffmpeg"]);
    case("bundle install b.tar.gz", &["a gzip file", "`gunzip b.tar.gz`"]);
    case("bundle install checkpoint", &["a checkpoint", "`model-prep export checkpoint "]);
    case("run --source test://shapes --bundle b.tar.gz", &["a gzip file", "`gunzip b.tar.gz`"]);
    case("run --source test://shapes --bundle checkpoint", &["a checkpoint", "`model-prep export checkpoint "]);
    let source = vec![("s.toml", b"source = \"none\"\n".to_vec())];
    check_checks("no source", &source, "check --config s.toml", &["source none: no such file or folder"]);
    let metrics = |file: &str| vec![("s.toml", format!("[metrics]\nfile = \"{file}\"\n").into_bytes())];
    let missing = ["metrics.file", "none/x.prom", "none does not exist"];
    check_checks("metrics in no folder", &metrics("none/x.prom"), "check --config s.toml", &missing);
    check_checks("metrics in a file", &metrics("s.toml/x.prom"), "check --config s.toml", &["s.toml", "found a file"]);
    check_checks("metrics as a folder", &metrics("/tmp"), "check --config s.toml", &["/tmp", "found a folder"]);
}

#[test]
fn wrong_command_lines_are_explained() {
    let case = |what, arguments, parts| check(&Case { what, files: vec![], arguments, code: 2, parts });
    case("no picture", "classify --json", &["required arguments"]);
    case("an unknown option", "run --sauce x", &["--sauce"]);
    case("an unknown command", "rnu", &["rnu"]);
    case("no number", "classify --top-k many x.png", &["many"]);
    case("no frames", "run --frames 0", &["0"]);
    case("an unknown output", "run --output yaml", &["yaml"]);
}

#[test]
fn a_broken_picture_in_a_folder_is_skipped() {
    let place = Place::new();
    fs::create_dir(place.at("folder")).unwrap();
    place.picture("folder/a.png", 1);
    place.write("folder/b.jpg", &jpeg()[..200]);
    place.picture("folder/c.png", 2);
    let done = finish(&mut place.spotter("run --output json --source folder"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let paths: Vec<_> = lines(&done).iter().map(|line| line.path.clone().unwrap()).collect();
    assert_eq!(paths, ["folder/a.png", "folder/c.png"].map(std::path::PathBuf::from), "{}", done.stderr);
    let found = messages(&done.stderr);
    assert!(matches!(found[..], [line] if line.contains("folder/b.jpg") && line.contains("truncated")), "{found:?}");
    // Without a single good one, nothing was done.
    fs::remove_file(place.at("folder/a.png")).unwrap();
    fs::remove_file(place.at("folder/c.png")).unwrap();
    let done = finish(&mut place.spotter("run --output json --source folder"));
    assert_eq!((done.code, lines(&done).len()), (Some(1), 0), "{}", done.stderr);
    assert!(messages(&done.stderr).iter().any(|line| line.contains("folder/b.jpg")), "{}", done.stderr);
}

#[test]
fn a_picture_that_cannot_be_preprocessed_is_skipped() {
    let place = Place::new();
    fs::create_dir(place.at("bundle")).unwrap();
    for file in ["vision.onnx", "text.onnx", "tokenizer.json", "MODEL_CARD.md"] {
        fs::copy(e2e::root().join("config/demo").join(file), place.at("bundle").join(file)).unwrap();
    }
    // Resizing so elongated an image leaves no column.
    let manifest = fs::read(e2e::root().join("config/demo/bundle.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["preprocess"]["resize"]["to"] = serde_json::json!({"edges": {"shortest": 64, "longest": 64}});
    manifest["preprocess"]["crop"] = serde_json::json!({"height": 64, "width": 64});
    place.write("bundle/bundle.json", manifest.to_string());
    fs::create_dir(place.at("folder")).unwrap();
    place.picture("folder/a.png", 1);
    place.write("folder/b.ppm", [b"P6 1 400 255\n".as_slice(), &[90; 1200]].concat());
    place.picture("folder/c.png", 2);
    let done = finish(&mut place.spotter("run --output json --bundle bundle --source folder"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let paths: Vec<_> = lines(&done).iter().map(|line| line.path.clone().unwrap()).collect();
    assert_eq!(paths, ["folder/a.png", "folder/c.png"].map(std::path::PathBuf::from), "{}", done.stderr);
    let found = messages(&done.stderr);
    assert!(
        matches!(found[..], [line] if line.contains("folder/b.ppm") && line.contains("image of 1 x 400")),
        "{found:?}"
    );
}

#[test]
fn files_without_read_permission_are_named() {
    let place = Place::new();
    for path in [place.picture("x.png", 1), place.labels("l.toml", &["cat"]), place.write("s.toml", "")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    // Permissions do not bind root, so the program then runs as nobody, who must be able to reach and run it.
    let as_root = File::open(place.at("x.png")).is_ok();
    let program = place.at("spotter");
    if as_root {
        fs::set_permissions(place.at(""), fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(e2e::program("spotter"), &program).unwrap();
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let reaches = Command::new("setpriv").args(nobody).arg(&program).arg("--version").output();
        if !reaches.is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: permissions do not bind this user, and setpriv cannot run the program as another");
            return;
        }
    }
    let check = |arguments: &str, part: &str| {
        let ours = place.spotter(arguments);
        let mut command = if as_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(ours.get_args());
            command.env("STATE_DIRECTORY", place.state()).current_dir(place.at(""));
            command
        } else {
            ours
        };
        let done = finish(&mut command);
        let found = messages(&done.stderr);
        println!("{arguments}: {}", found.join(" | "));
        assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{arguments}: {}", done.stderr);
        let denied = |line: &str| line.contains(part) && line.to_lowercase().contains("permission");
        assert!(matches!(found[..], [line] if denied(line)), "{arguments}: {}", done.stderr);
    };
    check("classify --json x.png", "x.png");
    check("run --output json --source x.png", "x.png");
    check("run --output json --source test://shapes --frames 1 --labels l.toml", "l.toml");
    check("run --output json --source test://shapes --frames 1 --config s.toml", "s.toml");
}
