//! Bundles that exhaust memory, never finish, or crash whoever loads them: a separate process finds out, and whoever
//! started it goes on.

use std::process::Command;
use std::time::Duration;

use prost::Message as _;
use tract_onnx::pb;

use super::*;
use crate::harness::with_ulimit;

/// A fault in the process that tries a bundle, and the expected message about the bundle.
struct Fault {
    fault: &'static str,
    /// Its time limit.
    time_ms: &'static str,
    expected: &'static str,
}

impl Fault {
    fn variables(&self) -> [(&str, &str); 2] {
        [("SPOTTER_TEST_FAULT", self.fault), ("SPOTTER_TEST_REHEARSAL_MS", self.time_ms)]
    }
}

/// Longer than any trial of these bundles takes.
const LONG_MS: &str = "600000";

const HANG: Fault = Fault { fault: "hang rehearsal", time_ms: LONG_MS, expected: "" };

/// The faults that can be tested here: an emulator does not limit memory.
fn faults() -> Vec<Fault> {
    let mut faults = vec![
        Fault { fault: "hang rehearsal", time_ms: "300", expected: "it did not load within 0.3 s" },
        Fault {
            fault: "panic rehearsal",
            time_ms: LONG_MS,
            expected: "the program panicked: injected fault in the thread `rehearsal`",
        },
        Fault { fault: "eat rehearsal", time_ms: LONG_MS, expected: "it needs more memory than the " },
    ];
    if e2e::emulated() {
        println!("skipped: memory that is limited, since this is emulated");
        faults.retain(|fault| !fault.fault.starts_with("eat"));
    }
    faults
}

/// The number after a word such as `Threads:` in a process's status file.
fn figure(id: u32, word: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("{word}: {text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// State and parent of a process, if it exists.
fn state_of(id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Children of this process that have not ended.
fn children(parent: u32) -> Vec<u32> {
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let ids = names.filter_map(|name| name.parse::<u32>().ok());
    ids.filter(|id| state_of(*id).is_some_and(|(state, of)| of == parent && state != "Z")).collect()
}

/// Returns whether it has ended; whoever inherited it may not have reaped it yet.
fn has_ended(id: u32) -> bool {
    state_of(id).is_none_or(|(state, _)| state == "Z" || state == "X")
}

/// Waits until `is_so`.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bundle `a` has run here, and `b` is installed.
fn with_two() -> Place {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "");
    run_once(&place);
    check(&place, "install b.tar", 0, "");
    place
}

#[test]
fn a_bundle_that_kills_its_rehearsal_does_not_disturb_a_running_program() {
    /// More than frames and labels take, less than a bundle that exhausts memory takes.
    const MORE_KB: u64 = 64 << 10;
    for fault in faults() {
        let place = with_two();
        let mut watching = Watching::start_with(&place, 0, &fault.variables());
        let id = watching.program.id();
        let figures = |id| ["VmData:", "VmRSS:", "Threads:"].map(|word| figure(id, word));
        let [data, resident, threads] = figures(id);
        // It works without the fault.
        check(&place, "activate b", 0, "b is active now, instead of a");
        let start = Instant::now();
        let refused = loop {
            assert_eq!(watching.frame(), "a", "{}", fault.fault);
            if let Some(event) = watching.program.events().into_iter().find(|event| event.event == "bundle_refused") {
                break event.message;
            }
            assert!(start.elapsed() < DEADLINE, "{}: {}", fault.fault, watching.program.stderr());
        };
        let expected = format!("b cannot be loaded, a stays: {}", fault.expected);
        assert!(refused.starts_with(&expected), "{}: {refused}", fault.fault);
        (0..3).for_each(|_| assert_eq!(watching.frame(), "a", "{}", fault.fault));
        let listing = Listing::of(&place);
        assert_eq!((listing.active.as_str(), listing.failed.as_deref(), listing.proven), ("a", Some("b"), true));
        let found = figures(id);
        println!("{}: data, resident, threads: {:?}, then {found:?}", fault.fault, [data, resident, threads]);
        assert!(found[0] < data + MORE_KB && found[1] < resident + MORE_KB, "{}: {found:?}", fault.fault);
        assert_eq!(found[2], threads, "{}", fault.fault);
        assert!(children(id).is_empty(), "{}: nothing is left of it", fault.fault);
    }
}

#[test]
fn a_bundle_that_kills_its_rehearsal_is_not_activated() {
    let place = with_two();
    // A panic has a message of its own, which ends up in the same place.
    for fault in faults().iter().filter(|fault| !fault.fault.starts_with("panic")) {
        let done = finish(place.spotter("bundle activate b").envs(fault.variables()));
        assert_eq!(done.code, Some(1), "{}: {}", fault.fault, done.stderr);
        assert!(done.stderr.contains(&format!("error: {}", fault.expected)), "{}: {}", fault.fault, done.stderr);
        let listing = Listing::of(&place);
        assert_eq!((listing.active.as_str(), listing.failed, listing.proven), ("a", None, true), "{}", fault.fault);
    }
    check(&place, "activate b", 0, "b is active now, instead of a");
}

#[test]
fn a_rehearsal_ends_with_the_program_that_started_it() {
    let check_killed = |what: &str, id: u32, kill: &dyn Fn()| {
        until(&format!("{what}: no rehearsal"), || !children(id).is_empty());
        let rehearsals = children(id);
        kill();
        until(&format!("{what}: {rehearsals:?} are still there"), || rehearsals.iter().all(|id| has_ended(*id)));
    };
    let place = with_two();
    let mut command = place.spotter("bundle activate b");
    let mut child = command.envs(HANG.variables()).spawn().unwrap();
    check_killed("activate", child.id(), &|| {
        assert!(Command::new("kill").arg("-9").arg(child.id().to_string()).status().unwrap().success());
    });
    assert_eq!(child.wait().unwrap().code(), None);
    assert_eq!(Listing::of(&place).active, "a");

    let watching = Watching::start_with(&place, 0, &HANG.variables());
    check(&place, "activate b", 0, "b is active now");
    check_killed("run, killed", watching.program.id(), &|| watching.program.signal("KILL"));
}

#[test]
fn activating_another_bundle_ends_a_rehearsal() {
    let place = with_two();
    let mut watching = Watching::start_with(&place, 0, &HANG.variables());
    let id = watching.program.id();
    check(&place, "activate b", 0, "b is active now");
    until("no rehearsal", || !children(id).is_empty());
    check(&place, "rollback", 0, "a is active again, instead of b");
    until("the rehearsal is still there", || children(id).is_empty());
    (0..3).for_each(|_| assert_eq!(watching.frame(), "a"));
    assert!(watching.program.events().is_empty(), "{:?}", watching.program.events());
    let listing = Listing::of(&place);
    assert_eq!((listing.active.as_str(), listing.failed), ("a", None));
}

#[test]
fn a_program_that_ends_does_not_wait_for_a_rehearsal() {
    e2e::in_time("the end of a rehearsal", |attempt| {
        let place = with_two();
        let watching = Watching::start_with(&place, attempt, &HANG.variables());
        check(&place, "activate b", 0, "b is active now");
        let id = watching.program.id();
        until("no rehearsal", || !children(id).is_empty());
        let rehearsals = children(id);
        watching.program.signal("TERM");
        let (code, _, stderr) = watching.program.end();
        assert_eq!(code, Some(0), "{stderr}");
        until("the rehearsal is still there", || rehearsals.iter().all(|id| has_ended(*id)));
        // That a program was ended says nothing about the bundle.
        let listing = Listing::of(&place);
        assert_eq!((listing.active.as_str(), listing.failed), ("b", None));
        // A rehearsal that does not end by itself is killed after a while, and prints no last line.
        if stderr.contains(" frames labelled") { Ok(()) } else { Err(stderr) }
    });
}

#[test]
fn a_bundle_that_is_too_large_is_not_activated() {
    let place = with_two();
    // An image tower of very many nodes.
    let demo = Bundle::open(&e2e::root().join("config/demo")).unwrap();
    let files = demo.manifest().files().map(|file| demo.read(file).unwrap());
    let mut model = pb::ModelProto::decode(&*files[0]).unwrap();
    let node = pb::NodeProto { op_type: "Identity".into(), ..Default::default() };
    model.graph.as_mut().unwrap().node.extend(vec![node; 100_000]);
    let vision = model.encode_to_vec();
    let contents = Contents { vision: &vision, text: &files[1], tokenizer: &files[2], model_card: &files[3] };
    spotter_engine::bundle::write(&place.at("nodes.tar"), demo.manifest().clone(), &contents).unwrap();
    check(&place, "install nodes.tar", 0, "installed");
    check(&place, "activate nodes", 1, "more than 16384 nodes");
    // Two towers of 9 MiB together, with a limit of 8.
    if e2e::emulated() {
        println!("skipped: memory that is limited, since this is emulated");
    } else {
        place.write("one.toml", "[inference]\nthreads = 1\n");
        let done = finish(&mut with_ulimit('d', 8192, &place.spotter("bundle --config one.toml activate b")));
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(
            done.stderr.contains("error: it needs more memory than the 8 MiB that are available"),
            "{}",
            done.stderr
        );
    }
    assert_eq!(Listing::of(&place).active, "a");
}
