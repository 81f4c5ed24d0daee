use super::*;
use crate::source::csi::Stack;

/// The folder of the shipped configuration files.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn no_env(_: &str) -> Option<OsString> {
    None
}

fn messages(text: &str) -> Vec<String> {
    let result = Config::parse(Path::new("/etc/s.toml"), text, no_env);
    result.err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn every_key_is_read() {
    let text = r#"
        source = "v4l2:///dev/video2"
        bundle = "model"
        labels = "/srv/labels.toml"
        output = "json"
        state_dir = "../state"
        [capture]
        width = 1280
        height = 720
        fps = 15
        format = "yuyv"
        timeout_ms = 5000
        ca_file = "camera.pem"
        [inference]
        threads = 4
        top_k = 3
        unchanged = 2.5
        [rate]
        max_fps = 10
        min_fps = 0.5
        governor = "off"
        temperature_max_c = 70
        [bundles]
        public_key = "RWQWnoUWMoLEakW9ROR28k794c8CJwFeJc5u1bdqDOPYR7Ff9W7e9aEA"
        size_max_mib = 64
        [metrics]
        file = "/run/x.prom"
        camera = "front"
        [[notify]]
        exec = ["/usr/bin/logger", "-t", "spotter"]
    "#;
    let text_of_key = "RWQWnoUWMoLEakW9ROR28k794c8CJwFeJc5u1bdqDOPYR7Ff9W7e9aEA".to_owned();
    let key = PublicKey::from_base64("RWQWnoUWMoLEakW9ROR28k794c8CJwFeJc5u1bdqDOPYR7Ff9W7e9aEA").expect("a key");
    let expected = Config {
        source: "v4l2:///dev/video2".into(),
        bundle: Some("/etc/spotter/model".into()),
        labels: Some("/srv/labels.toml".into()),
        output: Output::Json,
        state_dir: Some("/etc/spotter/../state".into()),
        capture: Capture {
            width: 1280,
            height: 720,
            fps: 15,
            format: CaptureFormat::Yuyv,
            timeout_ms: 5000,
            login: None,
            ca_file: Some("/etc/spotter/camera.pem".into()),
        },
        inference: Inference { threads: 4, top_k: 3, unchanged: 2.5 },
        rate: Rate { max_fps: 10.0, min_fps: 0.5, governor: GovernorMode::Off, temperature_max_c: 70 },
        bundles: Bundles { public_key: Some(SigningKey { key, text: text_of_key }), size_max_mib: 64 },
        metrics: Metrics { file: Some("/run/x.prom".into()), camera: "front".into() },
        // Its keys are tested beside it.
        notify: Vec::new(),
    };
    let mut found = Config::parse(Path::new("/etc/spotter/spotter.toml"), text, no_env).expect("a configuration");
    assert_eq!(std::mem::take(&mut found.notify).len(), 1);
    assert_eq!(found, expected);
    let here = Config::parse(Path::new("spotter.toml"), "bundle = 'model'", no_env).expect("a configuration");
    assert_eq!(here.bundle, Some("model".into()));
}

#[test]
fn problems_name_file_line_and_column() {
    let check = |text: &str, expected: &[&str]| assert_eq!(messages(text), expected, "{text}");
    check("", &[]);
    check("sorce = 'auto'", &["/etc/s.toml:1:1: unknown key `sorce`: did you mean `source`?"]);
    let why = "gopher://x".parse::<Uri>().expect_err("an unknown scheme");
    check("source = 'gopher://x'", &[&format!("/etc/s.toml:1:10: {why}")]);
    check("output = 'yaml'", &["/etc/s.toml:1:10: `output`: expected one of `text`, `json`, `events`, found `yaml`"]);
    check(
        "[capture]\nformat = 'MJPEG'",
        &[
            "/etc/s.toml:2:10: `format`: expected one of `auto`, `mjpeg`, `yuyv`, `uyvy`, `nv12`, `rgb24`, `grey`, found `MJPEG`",
        ],
    );
    check(
        "[bundles]\npublic_key = 'x'",
        &[
            "/etc/s.toml:2:14: `public_key`: expected a minisign public key, the second line of its `.pub` file, found something else",
        ],
    );
    check("labels = ''", &["/etc/s.toml:1:10: `labels`: expected a path, found nothing between the quotes"]);
    check("bundle = '~/m'", &["/etc/s.toml:1:10: `bundle`: `~` is not expanded here, write the whole path"]);
    check(
        "[inference]\nthreads = -1\ntop_k = '5'\nthreads = 2",
        &[
            "/etc/s.toml:2:11: `threads`: expected 0 to 64, found -1",
            "/etc/s.toml:3:9: `top_k`: expected an integer, found a string",
            "/etc/s.toml:4:1: duplicate key `threads`",
        ],
    );
}

#[test]
fn relative_images_are_relative_to_the_file() {
    let check = |source: &str, expected: &str| {
        let text = format!("source = '{source}'");
        let config = Config::parse(Path::new("/etc/s.toml"), &text, no_env).expect("a configuration");
        assert_eq!(config.source, expected);
    };
    check("pictures/cat.jpg", "/etc/pictures/cat.jpg");
    check("../pictures", "/etc/../pictures");
    for source in ["/srv/cat.jpg", "file:///srv/cat.jpg", "-", "auto", "/dev/video1", "test://shapes?seed=7"] {
        check(source, source);
    }
}

#[test]
fn every_format_can_be_requested_from_a_source() {
    for format in CaptureFormat::value_variants() {
        let options = Capture { format: *format, ..Capture::default() }.options();
        assert_eq!(options.format.is_none(), *format == CaptureFormat::Auto);
        assert_eq!(options.timeout, Duration::from_secs(2));
    }
}

#[test]
fn the_state_folder_follows_the_environment() {
    let check = |env: &[(&str, &str)], expected: Option<&str>| {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        let config = Config::parse(Path::new("s.toml"), "", lookup).expect("a configuration");
        assert_eq!(config.state_dir, expected.map(PathBuf::from), "{env:?}");
    };
    let (systemd, xdg, home) = (("STATE_DIRECTORY", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h"));
    check(&[systemd, xdg, home], Some("/s"));
    check(&[("STATE_DIRECTORY", "/s:/t"), home], Some("/s"));
    check(&[("STATE_DIRECTORY", ""), xdg, home], Some("/x/spotter"));
    check(&[("XDG_STATE_HOME", "relative"), home], Some("/h/.local/state/spotter"));
    check(&[home], Some("/h/.local/state/spotter"));
    check(&[("HOME", "")], None);
    check(&[], None);
    let lookup = |_: &str| Some(OsString::from("/env"));
    let config = Config::parse(Path::new("/a/s.toml"), "state_dir = 'b'", lookup).expect("a configuration");
    assert_eq!(config.state_dir, Some("/a/b".into()));
}

#[test]
fn a_named_file_must_exist() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let problems = Config::load(Some(&folder.path().join("s.toml"))).expect_err("no file");
    assert!(problems[0].to_string().ends_with("s.toml: no such file"), "{problems:?}");
}

#[test]
fn the_shipped_file_is_valid_and_sets_only_defaults() {
    let path = shipped().join("spotter.toml");
    let text = read_text(&path).expect("the reference file");
    assert_eq!(
        Config::parse(&path, &text, no_env),
        Ok(Config::default()),
        "what is set in spotter.toml is the default"
    );
}

/// Every board's file sets source, size and rates, and quotes the camera command in its comment.
#[test]
fn board_files_are_complete() {
    let mut found: Vec<_> =
        shipped().join("boards").read_dir().expect("a folder").map(|e| e.expect("one").path()).collect();
    found.sort();
    let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(names, ["jetson-nano.toml", "jetson.conf", "orin-nano.toml", "pi-zero-2w.toml", "pi4.toml", "pi5.toml"]);
    for path in found.iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml")) {
        let name = path.display();
        let text = read_text(path).expect("a file of a board");
        let config = Config::parse(path, &text, no_env).unwrap_or_else(|problems| panic!("{problems:?}"));
        for key in ["source", "width", "height", "fps", "threads", "max_fps", "min_fps"] {
            let set = text.lines().filter(|line| line.starts_with(&format!("{key} = "))).count();
            assert_eq!(set, 1, "{name}: {key}");
        }
        assert_eq!(config.source, "csi://0", "{name}");
        let stack = if text.starts_with("# Jetson") { Stack::Argus } else { Stack::Rpicam };
        // The command is split over several comment lines.
        let prose = text.lines().map(|line| line.trim_start_matches(['#', ' ']).trim_end_matches(" \\"));
        let prose = prose.collect::<Vec<_>>().join(" ");
        let command = stack.command(0, &config.capture.options()).join(" ");
        assert!(prose.contains(&command), "{name} does not say: {command}");
        assert!(
            config.rate.max_fps >= config.rate.min_fps && config.rate.max_fps <= config.capture.fps as f32,
            "{name}"
        );
    }
}

/// The examples of `[[notify]]` in the reference file are indented comments, since none of them is a default.
#[test]
fn the_receivers_in_the_reference_file_are_valid() {
    let text = read_text(&shipped().join("spotter.toml")).expect("the reference file");
    let examples: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#     ")).collect();
    let first = examples.iter().position(|line| *line == "[[notify]]").expect("an example");
    let parsed = Config::parse(Path::new("/etc/spotter/spotter.toml"), &examples[first..].join("\n"), no_env);
    if cfg!(feature = "http") {
        assert_eq!(parsed.expect("valid examples").notify.len(), 4, "one of each kind");
    } else {
        assert_eq!(parsed.expect_err("three need the client").len(), 3);
    }
}

#[test]
fn values_in_comments_of_the_reference_file_are_the_defaults() {
    let text = read_text(&shipped().join("spotter.toml")).expect("the reference file");
    // `#key = value`, without a space, is a commented setting; `# ` begins prose.
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(line))
        .collect();
    let env = |name: &str| (name == "STATE_DIRECTORY").then(|| OsString::from("/from/the/environment"));
    let config = Config::parse(Path::new("/etc/spotter/spotter.toml"), &uncommented.join("\n"), env)
        .expect("a valid configuration once everything is set");
    // Some paths have defaults that no value can express; the file shows an example of each.
    let example = |path: &Option<PathBuf>| path.as_ref().is_some_and(|p| p.is_absolute());
    assert!(example(&config.bundle) && example(&config.labels) && example(&config.state_dir), "{config:?}");
    // The same holds for the key.
    assert!(config.bundles.public_key.is_some());
    let bundles = Bundles { public_key: None, ..config.bundles };
    assert!(example(&config.metrics.file));
    let metrics = Metrics { file: None, ..config.metrics };
    assert!(config.capture.login.as_ref().is_some_and(|login| login.password_file.is_absolute()));
    assert!(example(&config.capture.ca_file));
    let capture = Capture { login: None, ca_file: None, ..config.capture };
    assert_eq!(
        Config { bundle: None, labels: None, state_dir: None, capture, bundles, metrics, ..config },
        Config::default()
    );
    let keys = [
        "source",
        "bundle",
        "labels",
        "output",
        "state_dir",
        "width",
        "height",
        "fps",
        "format",
        "timeout_ms",
        "user",
        "password_file",
        "ca_file",
        "threads",
        "top_k",
        "unchanged",
        "max_fps",
        "min_fps",
        "governor",
        "temperature_max_c",
        "public_key",
        "size_max_mib",
        "file",
        "camera",
    ];
    for key in keys {
        let set = uncommented.iter().filter(|line| line.starts_with(&format!("{key} = "))).count();
        assert_eq!(set, 1, "{key}");
    }
}
