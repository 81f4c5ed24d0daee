//! A torn, damaged or foreign label cache or bundle: a clear message, never a wrong score.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use spotter_engine::bundle::Bundle;
use spotter_engine::labels::{Cache, Key};

use crate::harness::{DEADLINE, Done, Place, finish};

const NAMES: [&str; 6] = ["red circle", "green square", "blue star", "black heart", "a dog", "an old ship at sea"];

/// A folder with an image and labels, and the right scores.
fn prepared() -> (Place, String) {
    let place = Place::new();
    place.picture("x.png", 7);
    place.labels("labels.toml", &NAMES);
    let done = classify(&place);
    assert_eq!((done.code, said(&done)), (Some(0), vec![]), "{}", done.stderr);
    assert_eq!(done.stdout.matches("\"name\"").count(), NAMES.len(), "{}", done.stdout);
    (place, done.stdout)
}

fn classify(place: &Place) -> Done {
    finish(&mut place.spotter("classify --json --top-k 1000 --labels labels.toml x.png"))
}

/// Warnings and errors, without doubts about how the labels compete.
fn said(done: &Done) -> Vec<&str> {
    let is_said = |line: &&str| ["WARN", "ERROR", "error:"].iter().any(|mark| line.contains(mark));
    let is_rivalry = |line: &str| line.contains("labels.toml:") && !line.contains("unknown");
    done.stderr.lines().filter(is_said).filter(|line| !is_rivalry(line)).collect()
}

/// Pseudorandom numbers, the same in every run.
struct Spread(u64);

impl Spread {
    /// From 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// After a kill, the cache is complete, and the program gives the right scores without any warning.
fn check_after_kill(what: &str, place: &Place, expected: &str) {
    if let Ok(bytes) = fs::read(place.cache()) {
        let cache = Cache::decode(&bytes).unwrap_or_else(|error| panic!("{what}: {} bytes: {error}", bytes.len()));
        assert!(!cache.is_empty(), "{what}");
    }
    let done = classify(place);
    assert_eq!(done.code, Some(0), "{what}: {}", done.stderr);
    assert!(done.stdout == expected, "{what}: other scores than without a cache: {}", done.stdout);
    assert_eq!(said(&done), Vec::<&str>::new(), "{what}: a cache that was torn");
}

/// Temporary files that writers left behind.
fn leftovers(place: &Place) -> usize {
    let names = place.state().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".tmp")).count()
}

/// Environment variable that names the cache to the process that writes it without end.
const ENDLESS: &str = "SPOTTER_TEST_ENDLESS_CACHE";

/// The process that is killed below, not a test: it keeps writing other caches, each of which contains the previous
/// entries.
#[test]
#[ignore = "run by a_write_killed_at_any_moment_leaves_a_whole_cache"]
fn endless_writer() {
    let Some(path) = std::env::var_os(ENDLESS).map(PathBuf::from) else { return };
    let mut cache = Cache::decode(&fs::read(&path).unwrap()).unwrap();
    let demo = Bundle::open(&e2e::root().join("config/demo")).unwrap();
    let width = demo.manifest().projection_dim;
    // Far more than are written before the kill; ends a writer that nobody kills.
    for round in 0..20_000 {
        let key = Key::new(demo.manifest(), "{}", &format!("thing {}", cache.len()));
        cache.insert(key, vec![round as f32; width]);
        spotter::store::replace_file(&path, &cache.encode().unwrap()).unwrap();
        if round == 0 {
            fs::write(path.with_file_name("started"), "").unwrap();
        }
    }
}

#[test]
fn a_write_killed_at_any_moment_leaves_a_whole_cache() {
    const KILLS: usize = 200;
    let (place, expected) = prepared();
    let started = place.state().join("started");
    let (mut spread, mut torn, mut sizes, start) = (Spread(3), 0, BTreeSet::new(), Instant::now());
    for kill in 0.. {
        // Until one hits a write, however quick writes are here.
        if kill >= KILLS && torn > 0 {
            break;
        }
        assert!(kill < 10 * KILLS, "no kill hit a write");
        let mut writer = Command::new(e2e::this_test());
        writer.args(["--ignored", "--exact", "cache::endless_writer"]).env(ENDLESS, place.cache());
        let mut child = writer.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let waited = Instant::now();
        while !started.exists() {
            assert!(waited.elapsed() < DEADLINE && child.try_wait().unwrap().is_none(), "the writer does not write");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(spread.below(20_000)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "kill {kill} came too late");
        fs::remove_file(&started).unwrap();
        torn += usize::from(leftovers(&place) > 0);
        sizes.extend(place.cache().metadata().map(|data| data.len()).ok());
        check_after_kill(&format!("kill {kill}"), &place, &expected);
    }
    println!(
        "{KILLS} writers and more killed, {torn} of them with a temporary file under way; caches of {} sizes; {:.0} s",
        sizes.len(),
        start.elapsed().as_secs_f64()
    );
}

#[test]
fn a_program_killed_at_any_moment_leaves_a_usable_cache() {
    const KILLS: usize = 40;
    let (place, expected) = prepared();
    // Each writer has two new sentences.
    let writer = |round: usize| {
        let names = [format!("thing {round}"), format!("object {round}"), NAMES[round % NAMES.len()].to_owned()];
        place.labels("changing.toml", &names.each_ref().map(String::as_str));
        place.spotter("labels --labels changing.toml")
    };
    // The quickest of some undisturbed runs, so that most kills come before the end.
    let lives = (0..3).map(|round| {
        let start = Instant::now();
        assert_eq!(finish(&mut writer(1_000_000 + round)).code, Some(0));
        start.elapsed()
    });
    let mut life = lives.min().unwrap();
    let (mut killed, mut spread) = (0, Spread(1));
    for round in 0.. {
        assert!(round < 10 * KILLS, "only {killed} of {round} writers were killed: too fast to be hit");
        if killed == KILLS {
            break;
        }
        // Some start without a cache.
        if round % 5 == 0 {
            let _ = fs::remove_file(place.cache());
        }
        let mut child = writer(round).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Most of what matters happens at the end of a run.
        let share = if round % 2 == 0 { spread.below(1000) } else { 700 + spread.below(300) };
        std::thread::sleep(life.mul_f64(share as f64 / 1000.0));
        let _ = child.kill();
        let in_time = child.wait().unwrap().code().is_none();
        killed += usize::from(in_time);
        // Other load on the machine comes and goes, and makes runs shorter or longer.
        life = if in_time { life * 21 / 20 } else { life * 4 / 5 };
        check_after_kill(&format!("round {round}"), &place, &expected);
    }
    println!("{killed} programs killed within their {:.0} ms", life.as_secs_f64() * 1e3);
}

#[test]
fn a_writer_killed_in_the_middle_of_its_file_leaves_the_old_one() {
    // What a kill between write and rename leaves, whatever moments were hit above.
    let (place, expected) = prepared();
    let whole = fs::read(place.cache()).unwrap();
    for length in [0, 1, 100, whole.len() / 2, whole.len()] {
        fs::write(place.state().join(".label-cache.safetensors.k1lled.tmp"), &whole[..length]).unwrap();
        let done = classify(&place);
        assert_eq!((done.code, said(&done)), (Some(0), vec![]), "{}", done.stderr);
        assert!(done.stdout == expected && fs::read(place.cache()).unwrap() == whole, "{length} bytes");
    }
    // The next writer removes it.
    let names: Vec<String> = (0..NAMES.len() + 4).map(|number| format!("thing {number}")).collect();
    place.labels("labels.toml", &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(finish(&mut place.spotter("labels --labels labels.toml")).code, Some(0));
    assert_eq!(place.state().read_dir().unwrap().count(), 1);
}

/// The summary line of `labels`: sentences cached, and embedded.
fn counts(done: &Done) -> (usize, usize) {
    let sum = done.stdout.lines().last().unwrap_or_default();
    let number = |before: &str, after: &str| {
        let text = sum.split(before).nth(1).and_then(|rest| rest.split(after).next()).unwrap_or_default();
        text.trim().parse().unwrap_or_else(|_| panic!("no number in {sum:?}, {}", done.stderr))
    };
    (number("sentences:", "cached"), number("cached,", "embedded"))
}

#[test]
fn a_kill_while_labels_are_embedded_keeps_those_that_are() {
    let place = Place::new();
    let names: Vec<String> = (0..900).map(|number| format!("thing number {number}")).collect();
    place.labels("labels.toml", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let journal = place.journal();
    for signal in ["TERM", "KILL"] {
        let mut child = place.spotter("run --output json --labels labels.toml --source test://shapes?size=64x64");
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (start, before) = (Instant::now(), fs::metadata(&journal).map_or(0, |data| data.len()));
        while fs::metadata(&journal).map_or(0, |data| data.len()) < before + 10_000 {
            assert!(start.elapsed() < DEADLINE && child.try_wait().unwrap().is_none(), "nothing is written");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
        child.wait().unwrap();
        assert!(!place.cache().exists(), "it had embedded all of them before SIG{signal}");
    }
    let done = finish(&mut place.spotter("labels --labels labels.toml"));
    let (cached, embedded) = counts(&done);
    assert!(cached >= 10 && embedded > 0, "{}", done.stdout);
    assert_eq!(said(&done), Vec::<&str>::new(), "what was torn is nothing to speak of");
}

#[test]
fn a_damaged_journal_is_reported_and_never_trusted() {
    let (place, expected) = prepared();
    let journal = place.journal();
    place.labels("more.toml", &[NAMES[0], "something new"]);
    assert_eq!(finish(&mut place.spotter("labels --labels more.toml")).code, Some(0));
    let good = fs::read(&journal).unwrap();
    let mut spread = Spread(4);
    let flips: Vec<_> = (0..12).map(|_| (spread.below(good.len() as u64) as usize, spread.below(8))).collect();
    for (at, bit) in flips {
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        fs::write(&journal, bad).unwrap();
        let done = classify(&place);
        assert!(done.code == Some(0) && done.stdout == expected, "byte {at}: {}", done.stderr);
        assert!(said(&done).iter().all(|line| line.contains("label-cache.journal")), "byte {at}: {}", done.stderr);
    }
    fs::write(&journal, "not a journal").unwrap();
    let done = classify(&place);
    assert!(done.code == Some(0) && done.stdout == expected, "{}", done.stderr);
    assert!(matches!(said(&done)[..], [line] if line.contains("damaged after 0 bytes")), "{}", done.stderr);
}

/// Damages the cache; the scores must still be right, and the damage reported in one line or, if it hurts no value, not
/// at all.
fn check_cache(what: &str, must_be_told: bool, damage: &dyn Fn(&Path, &[u8])) {
    let (place, expected) = prepared();
    let good = fs::read(place.cache()).unwrap();
    damage(&place.cache(), &good);
    let done = classify(&place);
    assert_eq!(done.code, Some(0), "{what}: {}", done.stderr);
    assert!(done.stdout == expected, "{what}: other scores than without a cache: {}", done.stdout);
    let messages = said(&done);
    println!("{what}: {}", messages.join(" | "));
    assert!(messages.len() == 1 || !must_be_told && messages.is_empty(), "{what}: one message wanted: {}", done.stderr);
    assert!(messages.iter().all(|line| line.contains("label-cache.safetensors")), "{what}: {}", done.stderr);
}

#[test]
fn damaged_caches_are_reported_and_never_trusted() {
    let put = |bytes: fn(&[u8]) -> Vec<u8>| move |path: &Path, good: &[u8]| fs::write(path, bytes(good)).unwrap();
    check_cache("empty", true, &put(|_| Vec::new()));
    check_cache("7 bytes", true, &put(|good| good[..7].to_vec()));
    check_cache("half of it", true, &put(|good| good[..good.len() / 2].to_vec()));
    check_cache("all but one byte", true, &put(|good| good[..good.len() - 1].to_vec()));
    check_cache("one byte more", true, &put(|good| [good, b"x"].concat()));
    check_cache("text", true, &put(|_| b"not a cache".to_vec()));
    check_cache("zeros", true, &put(|good| vec![0; good.len()]));
    let foreign = |_: &[u8]| fs::read(e2e::root().join("tests/golden/tiny/checkpoint/model.safetensors")).unwrap();
    check_cache("another safetensors file", true, &put(foreign));
    let folder = |path: &Path, _: &[u8]| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    let (place, expected) = prepared();
    folder(&place.cache(), &[]);
    let done = classify(&place);
    assert!(done.code == Some(0) && done.stdout == expected, "a folder in its place: {}", done.stderr);
    // Neither readable nor writable.
    let messages = said(&done);
    println!("a folder in its place: {}", messages.join(" | "));
    assert!((1..=2).contains(&messages.len()), "a folder in its place: {}", done.stderr);
    assert!(messages.iter().all(|line| line.contains("label-cache.safetensors")), "{}", done.stderr);
}

#[test]
fn no_flipped_bit_in_a_cache_changes_a_score() {
    let (place, expected) = prepared();
    let good = fs::read(place.cache()).unwrap();
    let mut spread = Spread(2);
    let mut told = 0;
    // The header's length, the header, the values.
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) + 8;
    let len = good.len() as u64;
    let places = [(0, 8), (8, header), (header, len), (len - 4, len)];
    for (from, to) in places.into_iter().flat_map(|range| [range; 12]) {
        let at = (from + spread.below(to - from)) as usize;
        let mut bad = good.clone();
        bad[at] ^= 1 << spread.below(8);
        fs::write(place.cache(), &bad).unwrap();
        let done = classify(&place);
        assert_eq!(done.code, Some(0), "byte {at}: {}", done.stderr);
        assert!(done.stdout == expected, "byte {at}: other scores than without a cache");
        assert!(said(&done).len() <= 1, "byte {at}: {}", done.stderr);
        assert!(at < header as usize || said(&done).len() == 1, "byte {at}: a flipped value was not told");
        told += said(&done).len();
    }
    println!("48 flipped bits: scores unchanged, {told} told");
}

#[test]
fn state_that_cannot_be_written_costs_time_and_nothing_else() {
    let (place, expected) = prepared();
    let kept = || (fs::read(place.cache()).unwrap(), fs::read(place.journal()).ok());
    let unchanged = kept();
    // For reading, a read-only file is as good as any.
    fs::set_permissions(place.cache(), fs::Permissions::from_mode(0o444)).unwrap();
    let done = classify(&place);
    assert_eq!((done.code, said(&done), &done.stdout), (Some(0), vec![], &expected), "{}", done.stderr);

    let check = |what: &str, state: &Path| {
        let mut command = place.spotter("classify --json --top-k 1000 --labels labels.toml x.png");
        let done = finish(command.env("STATE_DIRECTORY", state));
        let messages = said(&done);
        println!("{what}: {}", messages.join(" | "));
        assert!(done.code == Some(0) && done.stdout == expected, "{what}: {}", done.stderr);
        assert!(!messages.is_empty() && messages.len() <= 2, "{what}: {}", done.stderr);
        assert!(messages.iter().all(|line| line.contains("label cache")), "{what}: {}", done.stderr);
    };
    check("the state folder is a file", &place.write("file", ""));
    check("below a file", &place.at("file").join("state"));
    // Also to root.
    check("a file system that cannot be written", Path::new("/proc/spotter"));

    // If permissions bind, this is not run as root.
    fs::set_permissions(place.state(), fs::Permissions::from_mode(0o555)).unwrap();
    place.labels("labels.toml", &["something new"]);
    let done = classify(&place);
    fs::set_permissions(place.state(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    if kept() == unchanged {
        assert!(matches!(said(&done)[..], [line] if line.contains("cannot be written")), "{}", done.stderr);
    } else {
        println!("a state folder without write permission: skipped, permissions do not bind this user");
        assert_eq!(said(&done), Vec::<&str>::new());
    }
}

/// A copy of the demo bundle.
fn copied_bundle(place: &Place) -> PathBuf {
    let bundle = place.at("bundle");
    fs::create_dir(&bundle).unwrap();
    for file in ["bundle.json", "vision.onnx", "text.onnx", "tokenizer.json", "MODEL_CARD.md"] {
        fs::copy(e2e::root().join("config/demo").join(file), bundle.join(file)).unwrap();
    }
    bundle
}

#[test]
fn cached_labels_need_neither_text_tower_nor_tokenizer() {
    let place = Place::new();
    let bundle = copied_bundle(&place);
    let run = || finish(&mut place.spotter("labels --bundle bundle --labels labels.toml"));
    place.labels("labels.toml", &["red circle", "红色"]);
    let first = run();
    let unknown = |done: &Done| matches!(said(done)[..], [line] if line.contains("`红色`: 2 of 2 tokens are unknown"));
    assert!(first.code == Some(0) && unknown(&first), "{}", first.stderr);
    for file in ["text.onnx", "tokenizer.json"] {
        let mut bytes = fs::read(bundle.join(file)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(bundle.join(file), bytes).unwrap();
    }
    let second = run();
    assert!(second.code == Some(0) && unknown(&second), "{}", second.stderr);
    // The same sentences need the tokenizer if something else is to be reported about them.
    place.labels("labels.toml", &["红色", "red circle"]);
    let third = run();
    assert_eq!(third.code, Some(0), "{}", third.stderr);
    assert!(
        matches!(said(&third)[..], [line] if line.contains("cannot compare the labels") && line.contains("tokenizer.json"))
    );
}

/// Copies the demo bundle, damages it, and expects a refusal that contains all of `parts`.
fn check_bundle(what: &str, damage: &dyn Fn(&Path), parts: &[&str]) {
    let place = Place::new();
    place.picture("x.png", 7);
    place.labels("labels.toml", &NAMES);
    damage(&copied_bundle(&place));
    let done = finish(&mut place.spotter("classify --json --bundle bundle --labels labels.toml x.png"));
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{what}: {}", done.stderr);
    let errors: Vec<_> = done.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    println!("{what}: {}", errors.join(" | "));
    assert_eq!(errors.len(), 1, "{what}: {}", done.stderr);
    for part in parts {
        assert!(errors[0].contains(part), "{what}: {part:?} is not in: {}", done.stderr);
    }
    // `check` reports the same in its own form.
    let done = finish(&mut place.spotter("check --bundle bundle --labels labels.toml"));
    assert_eq!(done.code, Some(1), "{what}: check: {}{}", done.stdout, done.stderr);
    for part in parts {
        assert!(done.stdout.contains(part), "{what}: check: {part:?} is not in: {}", done.stdout);
    }
}

#[test]
fn damaged_bundles_are_refused_by_name() {
    let change = |file: &'static str, change: fn(&mut Vec<u8>)| {
        move |bundle: &Path| {
            let mut bytes = fs::read(bundle.join(file)).unwrap();
            change(&mut bytes);
            fs::write(bundle.join(file), bytes).unwrap();
        }
    };
    for file in ["vision.onnx", "text.onnx", "tokenizer.json"] {
        let path = format!("bundle/{file}");
        check_bundle("cut", &change(file, |bytes| bytes.truncate(bytes.len() / 2)), &[&path, "size", "expected"]);
        check_bundle("empty", &change(file, Vec::clear), &[&path, "size", "found 0 bytes"]);
        let flip: fn(&mut Vec<u8>) = |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        };
        check_bundle("a flipped bit", &change(file, flip), &[&path, "SHA-256", "expected", "found"]);
        check_bundle("missing", &|bundle| fs::remove_file(bundle.join(file)).unwrap(), &[&path, "No such file"]);
    }
    let json = "bundle/bundle.json";
    check_bundle("manifest cut", &change("bundle.json", |bytes| bytes.truncate(500)), &[json, "line"]);
    check_bundle("manifest empty", &change("bundle.json", Vec::clear), &[json]);
    fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        assert!(text.contains(from), "no {from} in bundle.json");
        *bytes = text.replacen(from, to, 1).into_bytes();
    }
    let manifest = |edit: fn(&mut Vec<u8>)| change("bundle.json", edit);
    let version = manifest(|bytes| replace(bytes, "\"format_version\": 1", "\"format_version\": 9"));
    check_bundle("version", &version, &[json, "version 9"]);
    let width = manifest(|bytes| replace(bytes, "\"projection_dim\": 256", "\"projection_dim\": 255"));
    check_bundle("width", &width, &[json, "255"]);
    let hash = manifest(|bytes| replace(bytes, "\"sha256\": \"", "\"sha256\": \"zz"));
    check_bundle("hash", &hash, &[json, "sha256"]);
    let key = manifest(|bytes| replace(bytes, "\"logit_scale\"", "\"logit_scall\""));
    check_bundle("key", &key, &[json, "logit_scall"]);
    let gone = |bundle: &Path| fs::remove_dir_all(bundle).unwrap();
    check_bundle("gone", &gone, &["bundle", "No such file"]);
    let emptied = |bundle: &Path| {
        fs::remove_dir_all(bundle).unwrap();
        fs::create_dir(bundle).unwrap();
    };
    check_bundle("an empty folder", &emptied, &["bundle", "bundle.json"]);
    let text = |bundle: &Path| {
        fs::remove_dir_all(bundle).unwrap();
        fs::write(bundle, "not an archive").unwrap();
    };
    check_bundle("a text file", &text, &["bundle", "no tar archive"]);
    let foreign = |bundle: &Path| {
        fs::remove_dir_all(bundle).unwrap();
        // The tar header of one empty file, and the two blocks of its end.
        let mut tar = vec![0; 1536];
        tar[..8].copy_from_slice(b"foreign\0");
        tar[100..108].copy_from_slice(b"0000644\0");
        tar[124..136].copy_from_slice(b"00000000000\0");
        tar[136..148].copy_from_slice(b"00000000000\0");
        tar[156] = b'0';
        tar[257..265].copy_from_slice(b"ustar\x0000");
        tar[148..156].fill(b' ');
        let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        fs::write(bundle, tar).unwrap();
    };
    check_bundle("another tar", &foreign, &["bundle", "bundle.json"]);
}
