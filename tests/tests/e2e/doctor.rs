//! `spotter doctor`: what it finds, and what it advises.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use serde_json::Value;
use spotter::config::Config;
use spotter_engine::tower::Threads;

use crate::harness::{Place, finish};

/// The findings of one severity, and the whole output; the exit code must fit them.
fn examine(place: &Place, arguments: &str) -> Value {
    let done = finish(&mut place.spotter(&format!("doctor --json {arguments}")));
    let found: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout));
    let problems = found["findings"].as_array().unwrap().iter().filter(|f| f["severity"] == "problem").count();
    assert_eq!(done.code, Some(i32::from(problems > 0)), "{found:#}");
    found
}

/// Checks that there is a finding of that severity whose text contains `part`, with advice.
fn check(found: &Value, severity: &str, part: &str) {
    let findings = found["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| f["what"].as_str().unwrap().contains(part));
    let finding = finding.unwrap_or_else(|| panic!("{part:?} was not found: {findings:#?}"));
    assert_eq!(finding["severity"], severity, "{finding:#}");
    assert!(finding["todo"].as_str().unwrap().len() > 5, "{finding:#}");
}

#[test]
fn a_healthy_board_has_no_problems() {
    let place = Place::new();
    let found = examine(&place, "");
    println!("{found:#}");
    let cpu = &found["cpu"];
    assert_eq!(cpu["kernels"], *Threads::available_kernels().last().unwrap());
    assert_eq!(cpu["arch"], std::env::consts::ARCH);
    assert!(cpu["cores"].as_u64().unwrap() >= 1);
    assert!(found["libc"].as_str().unwrap().contains('.') || found["libc"].as_str().unwrap().contains("musl"));
    assert!(found["memory"]["available_bytes"].as_u64().unwrap() < found["memory"]["total_bytes"].as_u64().unwrap());
    assert_eq!(found["storage"]["writable"], true);
    let model = &found["model"];
    assert_eq!((model["name"].as_str(), model["place"].as_str()), (Some("demo"), Some("slot built-in")));
    assert_eq!((model["sentences_cached"].as_u64(), model["sentences_new"].as_u64()), (Some(0), Some(48)));
    assert!(model["speed"]["frames_hz"].as_f64().unwrap() > 0.0);
    assert!(!place.state().exists(), "it only looks");
    let findings = found["findings"].as_array().unwrap();
    let about_us =
        |finding: &&Value| ["bundle", "label", "config"].iter().any(|w| finding["what"].as_str().unwrap().contains(w));
    assert_eq!(findings.iter().filter(about_us).count(), 0, "{findings:#?}");
    let text = finish(&mut place.spotter("doctor"));
    for part in ["kernels", "libc", "memory", "state", "48 new", "frames/s expected", "problem"] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
}

#[test]
fn problems_are_named() {
    let place = Place::new();
    place.write("spotter.toml", "source = '/dev/video99'\nlabels = 'labels.toml'\n");
    place.write("labels.toml", "[[label]]\nnmae = 'x'\n");
    let found = examine(&place, "--config spotter.toml");
    check(&found, "problem", "/dev/video99: the configured camera does not exist");
    check(&found, "problem", "labels.toml:2:1: unknown key `nmae`");
    place.write("spotter.toml", "state_dir = 'labels.toml/state'\n");
    check(&examine(&place, "--config spotter.toml"), "problem", "labels.toml/state cannot be written");
    place.write("spotter.toml", "sorce = 'auto'\n");
    check(&examine(&place, "--config spotter.toml"), "problem", "unknown key `sorce`");
    check(&examine(&place, "--bundle nothing.tar"), "problem", "nothing.tar");
}

#[test]
fn damaged_bundles_are_found() {
    let place = Place::new();
    let done = finish(&mut place.spotter("labels"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let found = examine(&place, "");
    assert_eq!(found["model"]["sentences_cached"], 48);
    let mut cache = std::fs::read(place.cache()).unwrap();
    cache.truncate(cache.len() / 2);
    std::fs::write(place.cache(), cache).unwrap();
    check(&examine(&place, ""), "note", "the label cache is damaged");
    // An unused slot with a torn bundle.
    let slot = place.state().join("bundles/torn");
    std::fs::create_dir_all(&slot).unwrap();
    check(&examine(&place, ""), "problem", "slot torn: ");
    std::fs::write(place.state().join("bundles.json"), "{").unwrap();
    check(&examine(&place, ""), "problem", "bundles.json: expected the state of the bundles");
}

#[test]
fn kernels_slower_than_the_fastest_are_reported() {
    let place = Place::new();
    let done = finish(place.spotter("doctor --json").env("SPOTTER_KERNELS", "scalar"));
    let found: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(found["cpu"]["kernels"], "scalar");
    if Threads::available_kernels().len() > 1 {
        check(&found, "note", "the kernels scalar are used instead of the fastest");
    }
    let done = finish(place.spotter("doctor --json").env("SPOTTER_KERNELS", "warp"));
    assert_eq!(done.code, Some(1));
    check(&serde_json::from_str(&done.stdout).unwrap(), "problem", "kernels \"warp\" cannot be used here");
}

/// What the doctor finds on a simulated board, made of files.
fn examine_board(place: &Place, config: &str, files: &[(&str, &str)]) -> Value {
    let root = place.at("board");
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let config = Config::parse(&place.at("spotter.toml"), config, |_| None).unwrap();
    let mut out = Vec::new();
    spotter::commands::doctor::run(&config, &[], &root, true, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn heat_throttling_memory_and_cameras_of_other_boards_are_reported() {
    const ZONE: &str = "sys/class/thermal/thermal_zone0";
    let place = Place::new();
    let zone = |file: &str| format!("{ZONE}/{file}");
    let (kind, temperature) = (zone("type"), zone("temp"));
    let flags = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";
    let config = format!("state_dir = '{}'\nsource = '/dev/v4l/by-id/usb-cam'\n", place.state().display());
    let found = examine_board(
        &place,
        &config,
        &[
            ("sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
            ("proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 20000 kB\n"),
            (&kind, "cpu-thermal\n"),
            (&temperature, "81000\n"),
            (flags, "d0008\n"),
            ("dev/video0", ""),
        ],
    );
    println!("{found:#}");
    assert_eq!(found["cpu"]["model"], "Raspberry Pi 5 Model B Rev 1.0");
    assert_eq!(found["heat"]["throttled"], 0xd_0008);
    check(&found, "problem", "the board's firmware throttles the CPU: it is too hot");
    check(
        &found,
        "note",
        "since the board was started, the supply voltage was too low, it was throttled, it was too hot",
    );
    check(&found, "problem", "cpu-thermal is at 81 °C, where the rate is lowered");
    check(&found, "problem", "20 MiB of memory are left, 48 are needed");
    check(&found, "problem", "/dev/v4l/by-id/usb-cam: the configured camera does not exist");
    assert_eq!(found["cameras"][0]["path"], "/dev/video0");
    assert!(found["cameras"][0]["problem"].as_str().unwrap().contains("not a capture device"), "{found:#}");
    // A kernel without the firmware's flags, and a healthy board.
    std::fs::remove_dir_all(place.at("board")).unwrap();
    let hwmon = "sys/class/hwmon/hwmon2";
    let (name, alarm) = (format!("{hwmon}/name"), format!("{hwmon}/in0_lcrit_alarm"));
    let files = [
        ("sys/firmware/devicetree/base/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
        ("proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 700000 kB\n"),
        (kind.as_str(), "cpu-thermal\n"),
        (temperature.as_str(), "51000\n"),
        (name.as_str(), "rpi_volt\n"),
        (alarm.as_str(), "1\n"),
    ];
    let found = examine_board(&place, "source = 'csi://0'\n", &files);
    check(&found, "problem", "the board's supply voltage is too low");
    check(&found, "note", "there is no state folder");
    assert_eq!(found["heat"]["zones"][0]["limit_c"], 75.0);
    if found["findings"].as_array().unwrap().iter().all(|f| !f["what"].as_str().unwrap().contains("csi://0 needs")) {
        println!("a camera program is installed here");
    }
    let found = examine_board(&place, "source = 'exec:no-such-camera'\n", &[(alarm.as_str(), "0\n")]);
    check(&found, "problem", "no-such-camera: the program of the configured source is not installed");
    let about = |part: &str| found["findings"].to_string().contains(part);
    assert!(!about("voltage") && !about("hot") && !about("memory"), "{found:#}");
}

#[test]
fn memory_is_measured_with_the_model_at_work() {
    let place = Place::new();
    let found = examine(&place, "");
    let memory = &found["memory"];
    assert_eq!(memory["with_model"], true);
    let (program, bundle) = (memory["program_bytes"].as_u64().unwrap(), found["model"]["bytes"].as_u64().unwrap());
    // The same program without a loadable model.
    let without = examine(&place, "--bundle nothing.tar");
    assert_eq!(without["memory"]["with_model"], false);
    let bare = without["memory"]["program_bytes"].as_u64().unwrap();
    println!("{} KiB with a bundle of {} KiB, {} KiB without", program >> 10, bundle >> 10, bare >> 10);
    assert!(program - bare > bundle / 2, "{program} {bare} {bundle}");
}
