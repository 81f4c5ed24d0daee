//! `spotter doctor`: what it finds, and what it says to do.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use serde_json::Value;
use spotter_engine::tower::Threads;

use crate::classify::{Place, finish};

/// The findings of one severity, and the whole; the exit code must fit them.
fn examine(place: &Place, arguments: &str) -> Value {
    let done = finish(&mut place.spotter(&format!("doctor --json {arguments}")));
    let found: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout));
    let problems = found["findings"].as_array().unwrap().iter().filter(|f| f["severity"] == "problem").count();
    assert_eq!(done.code, Some(i32::from(problems > 0)), "{found:#}");
    found
}

/// There is a finding whose text holds `part`, of that severity, and it says what to do.
fn check(found: &Value, severity: &str, part: &str) {
    let findings = found["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| f["what"].as_str().unwrap().contains(part));
    let finding = finding.unwrap_or_else(|| panic!("{part:?} was not found: {findings:#?}"));
    assert_eq!(finding["severity"], severity, "{finding:#}");
    assert!(finding["todo"].as_str().unwrap().len() > 5, "{finding:#}");
}

#[test]
fn a_board_that_is_well() {
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
    assert!(model["speed"]["frames_hz"].as_f64().unwrap() > 0.5);
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
fn what_is_wrong_is_named() {
    let place = Place::new();
    place.write("spotter.toml", "source = '/dev/video99'\nlabels = 'labels.toml'\n");
    place.write("labels.toml", "[[label]]\nnmae = 'x'\n");
    let found = examine(&place, "--config spotter.toml");
    check(&found, "problem", "/dev/video99: the configured camera is not there");
    check(&found, "problem", "labels.toml:2:1: unknown key `nmae`");
    place.write("spotter.toml", "state_dir = 'labels.toml/state'\n");
    check(&examine(&place, "--config spotter.toml"), "problem", "labels.toml/state cannot be written");
    place.write("spotter.toml", "sorce = 'auto'\n");
    check(&examine(&place, "--config spotter.toml"), "problem", "unknown key `sorce`");
    check(&examine(&place, "--bundle nothing.tar"), "problem", "nothing.tar");
}

#[test]
fn damage_is_found() {
    let place = Place::new();
    let done = finish(&mut place.spotter("labels"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let found = examine(&place, "");
    assert_eq!(found["model"]["sentences_cached"], 48);
    let mut cache = std::fs::read(place.cache()).unwrap();
    cache.truncate(cache.len() / 2);
    std::fs::write(place.cache(), cache).unwrap();
    check(&examine(&place, ""), "note", "the label cache is damaged");
    // A slot that nobody uses, with a bundle that is torn.
    let slot = place.state().join("bundles/torn");
    std::fs::create_dir_all(&slot).unwrap();
    check(&examine(&place, ""), "problem", "slot torn: ");
    std::fs::write(place.state().join("bundles.json"), "{").unwrap();
    check(&examine(&place, ""), "problem", "bundles.json: expected the state of the bundles");
}

#[test]
fn slower_kernels_are_noticed() {
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
