//! Signatures are checked at every opening of a slot, whoever wrote to it in between.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use minisign::KeyPair;

use super::archives::sign;
use super::*;

fn keys() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

/// Names the key in the configuration.
fn name_key(place: &Place, keys: &KeyPair) {
    place.write("spotter.toml", format!("[bundles]\npublic_key = \"{}\"\n", keys.pk.to_base64()));
}

/// `spotter run` for a frame, with the place's configuration.
fn run_signed(place: &Place) -> Done {
    let arguments = "run --output json --frames 1 --labels labels.toml --config spotter.toml --source";
    let done = finish(place.spotter(arguments).arg("test://shapes?size=64x64"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_signed_slot_is_checked_at_every_opening() {
    let place = prepared();
    let (keys, other) = (keys(), keys());
    name_key(&place, &keys);
    sign(&place, &keys, "a.tar", "a.tar.minisig", "release 7");
    sign(&place, &other, "a.tar", "other.minisig", "release 7");
    check(&place, "install a.tar --activate", 0, "a is active now");
    assert_eq!(bundle_of(&lines(&run_signed(&place))[0]), "a");
    let slot = place.state().join("bundles/a");
    let (archive, signature) = (slot.join("bundle.tar"), slot.join("bundle.tar.minisig"));
    let (tar, minisig) = (fs::read(&archive).unwrap(), fs::read_to_string(&signature).unwrap());
    let state = fs::read(place.state().join("bundles.json")).unwrap();
    let (tower, size) = place_of(&tar, "vision.onnx");
    let unpack = || {
        for file in [&archive, &signature] {
            fs::remove_file(file).unwrap();
        }
        for name in ["bundle.json", "vision.onnx", "text.onnx", "tokenizer.json", "MODEL_CARD.md"] {
            let (start, size) = place_of(&tar, name);
            fs::write(slot.join(name), &tar[start..start + size]).unwrap();
        }
    };
    let copy = || {
        fs::copy(place.at("b.tar"), &archive).unwrap();
    };
    let link = || {
        fs::rename(&archive, place.at("elsewhere.tar")).unwrap();
        symlink(place.at("elsewhere.tar"), &archive).unwrap();
    };
    let pipe = || {
        fs::remove_file(&archive).unwrap();
        make_pipe(&archive);
    };
    let changed = "slot \"a\": changed after it was signed";
    type Edit<'a> = &'a dyn Fn();
    let cases: [(&str, Edit<'_>, &str); 11] = [
        ("a bit of a tower", &|| flip(&archive, tower + size / 2), changed),
        ("a bit of a name", &|| flip(&archive, 0), changed),
        ("something behind the end", &|| fs::write(&archive, [&tar[..], &[0; 512]].concat()).unwrap(), changed),
        ("the end", &|| fs::write(&archive, &tar[..tar.len() - 1]).unwrap(), changed),
        ("another bundle", &copy, changed),
        ("a comment", &|| fs::write(&signature, minisig.replace("release 7", "release 9")).unwrap(), changed),
        (
            "another key's signature",
            &|| fs::write(&signature, fs::read(place.at("other.minisig")).unwrap()).unwrap(),
            "slot \"a\": signed by another key",
        ),
        ("no signature", &|| fs::remove_file(&signature).unwrap(), "slot \"a\": not signed when it was installed"),
        ("the files unpacked", &unpack, "slot \"a\": not signed when it was installed"),
        ("a link to what was signed", &link, "bundle.tar: cannot be read"),
        ("a pipe", &pipe, "bundle.tar: cannot be read"),
    ];
    let forged = format!(
        "{{\"installed\": \"now\", \"archive_sha256\": \"0\", \"signed\": \"release 7\", \"key\": \"{}\"}}",
        keys.pk.to_base64()
    );
    for (what, edit, expected) in cases {
        edit();
        fs::write(slot.join("slot.json"), &forged).unwrap();
        check(&place, "activate a", 1, expected);
        let row = Listing::of(&place).slots.into_iter().find(|row| row.slot == "a").unwrap();
        assert_eq!(row.signed, None, "{what}");
        let problem = row.problem.unwrap_or_default();
        assert!(problem.contains(expected), "{what}: {problem}");
        let done = run_signed(&place);
        assert_eq!(bundle_of(&lines(&done)[0]), "built-in", "{what}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{what}: {}", done.stderr);
        // Restored.
        fs::remove_dir_all(&slot).unwrap();
        fs::create_dir(&slot).unwrap();
        fs::write(&archive, &tar).unwrap();
        fs::write(&signature, &minisig).unwrap();
        fs::write(place.state().join("bundles.json"), &state).unwrap();
    }
    // A missing note about a slot changes nothing either.
    let row = Listing::of(&place).slots.into_iter().find(|row| row.slot == "a").unwrap();
    assert_eq!((row.signed.as_deref(), row.problem), (Some("release 7"), None));
    assert_eq!(bundle_of(&lines(&run_signed(&place))[0]), "a");
}

#[test]
fn a_signature_beside_an_installed_archive_counts_once_a_key_is_configured() {
    let place = prepared();
    let keys = keys();
    sign(&place, &keys, "a.tar", "a.tar.minisig", "release 7");
    check(&place, "install a.tar --activate", 0, "a is active now");
    name_key(&place, &keys);
    assert_eq!(bundle_of(&lines(&run_signed(&place))[0]), "a");
    // From here on it counts.
    sign(&place, &keys, "b.tar", "b.tar.minisig", "release 6");
    check(&place, "install b.tar", 1, "b.tar: release 6: expected release 7 or newer");
}

#[test]
fn older_signed_releases_are_refused() {
    let place = prepared();
    let keys = keys();
    name_key(&place, &keys);
    sign(&place, &keys, "a.tar", "a.tar.minisig", "release 7");
    sign(&place, &keys, "b.tar", "b.tar.minisig", "release 8");
    sign(&place, &keys, "c.tar", "c.tar.minisig", "by somebody");
    let runs = |expected: &str| assert_eq!(bundle_of(&lines(&run_signed(&place))[0]), expected);
    let older = "release 7: expected release 8 or newer";
    check(&place, "install a.tar --activate", 0, "a is active now");
    runs("a");
    // Installing counts: the running one may stay, a new one may not be older.
    check(&place, "install b.tar", 0, "installed");
    runs("a");
    check(&place, "install a.tar", 1, older);
    check(&place, "install a.tar --name again --activate", 1, older);
    check(&place, "install c.tar", 1, "signed without a release (\"by somebody\"): expected release 8");
    assert_eq!(Listing::of(&place).names(), ["a", "b"]);
    check(&place, "activate b", 0, "b is active now");
    runs("b");
    check(&place, "activate a", 1, &format!("slot \"a\": {older}"));
    // Rollback leads to what worked here, and newer releases remain the only ones that are accepted.
    check(&place, "rollback", 0, "a is active again, instead of b");
    runs("a");
    check(&place, "install a.tar", 1, older);
    check(&place, "activate b", 0, "b is active now");
    runs("b");
    // With `--older`; there is no automatic rollback to a bundle that never worked here.
    check(&place, "activate a --older", 0, "a is active now");
    check(&place, "activate b", 0, "b is active now");
    check(&place, "rollback", 1, &format!("slot \"a\": {older}"));
    assert_eq!(Listing::of(&place).active, "b");
    check(&place, "install a.tar --name again --activate --older", 0, "again is active now");
    runs("a");
    // Counted from there.
    check(&place, "install b.tar --name newer --activate", 0, "newer is active now");
    check(&place, "activate built-in", 0, "built-in is active now");
    check(&place, "activate a", 1, older);
}

#[test]
fn signed_bundles_that_fail_are_not_replaced_by_what_never_worked() {
    let place = prepared();
    let keys = keys();
    name_key(&place, &keys);
    sign(&place, &keys, "a.tar", "a.tar.minisig", "release 7");
    sign(&place, &keys, "b.tar", "b.tar.minisig", "release 8");
    for (is_run, expected) in [(false, "built-in"), (true, "a")] {
        check(&place, "install a.tar --activate --older", 0, "a is active now");
        if is_run {
            run_signed(&place);
        }
        check(&place, "install b.tar --activate", 0, "b is active now");
        damage(&place, "b");
        let done = run_signed(&place);
        assert_eq!(bundle_of(&lines(&done)[0]), expected, "{}", done.stderr);
        assert!(done.stderr.contains(&format!("bundle b: rolled back to {expected}")), "{}", done.stderr);
        check(&place, "activate built-in", 0, "built-in is ");
    }
}

#[test]
fn what_is_not_an_archive_is_refused_at_once() {
    let (place, outside) = (prepared(), tempfile::tempdir().unwrap());
    fs::copy(place.at("a.tar"), outside.path().join("a.tar")).unwrap();
    symlink(outside.path().join("a.tar"), place.at("far.tar")).unwrap();
    symlink("/dev/zero", place.at("zero.tar")).unwrap();
    symlink("a.tar", place.at("near.tar")).unwrap();
    make_pipe(&place.at("pipe.tar"));
    fs::create_dir(place.at("folder.tar")).unwrap();
    fs::File::create(place.at("sparse.tar")).unwrap().set_len(4 << 30).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("vision.onnx").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    place.write("terabyte.tar", [header.as_bytes().as_slice(), &fs::read(place.at("a.tar")).unwrap()].concat());
    for (arguments, expected) in [
        ("install pipe.tar", "expected a .tar of a bundle, found a named pipe"),
        ("install /dev/zero", "expected a .tar of a bundle, found a device"),
        ("install zero.tar", "expected a .tar of a bundle, found a device"),
        ("install far.tar", "which is outside of its folder"),
        ("install folder.tar", "found a directory without one"),
        ("install sparse.tar", "4294967296 bytes: expected at most 1073741824"),
        ("install terabyte.tar", "expected at most 1073741824"),
    ] {
        e2e::in_time(arguments, |_| {
            let start = Instant::now();
            check(&place, arguments, 1, expected);
            let took = start.elapsed();
            if took < e2e::patience(Duration::from_secs(1)) { Ok(()) } else { Err(format!("{took:?}")) }
        });
    }
    assert_eq!(Listing::of(&place).names(), [""; 0]);
    check(&place, "install near.tar", 0, "near installed in");
    for (bundle, expected) in [
        ("terabyte.tar", "vision.onnx: size: expected no more than the "),
        ("pipe.tar", "found neither a file nor a folder"),
        ("zero.tar", "found neither a file nor a folder"),
    ] {
        let done = finish(&mut place.spotter(&format!("classify --bundle {bundle} --labels labels.toml x.png")));
        assert_eq!(done.code, Some(1), "{bundle}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{bundle}: {}", done.stderr);
    }
    // Signature files are read just as carefully.
    name_key(&place, &keys());
    make_pipe(&place.at("a.tar.minisig"));
    check(&place, "install a.tar", 1, "a.tar.minisig: cannot be read: expected a file, found a named pipe");
}

#[test]
fn names_of_bundles_forge_no_lines() {
    let place = prepared();
    archive(&place, "evil.tar", |manifest| manifest.name = "evil\x1b[2J\nbuilt-in  signed".to_owned());
    check(&place, "install evil.tar", 0, "evil installed in");
    let done = bundle(&place, "list");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stdout.lines().count(), 2, "{}", done.stdout);
    assert!(done.stdout.contains("evil\\u{1b}[2J\\nbuilt-in  signed"), "{}", done.stdout);
    assert!(!done.stdout.contains('\x1b'), "{:?}", done.stdout);
    // A hand-written state names anything.
    let state =
        "{\"active\": \"x\\u001b[2J\\ny\", \"previous\": null, \"proven\": true, \"tries\": 0, \"failed\": null}";
    place.write("state/bundles.json", state);
    for arguments in ["list", "activate evil", "rollback"] {
        let done = bundle(&place, arguments);
        let said = done.stdout + &done.stderr;
        assert!(!said.contains('\x1b') && !said.lines().any(|line| line.starts_with('y')), "{arguments}: {said:?}");
    }
}

#[test]
fn a_held_lock_hangs_nothing() {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "a is active now");
    let lock = fs::File::open(place.state().join("bundles/.lock")).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let rollback = scope.spawn(|| bundle(&place, "rollback"));
        let done = run_once(&place);
        assert_eq!(bundle_of(&lines(&done)[0]), "a");
        assert!(done.stderr.contains(".lock: held by another program for 5 s"), "{}", done.stderr);
        let done = rollback.join().unwrap();
        assert_eq!(done.code, Some(1), "{}", done.stdout);
        assert!(done.stderr.contains(".lock: held by another program for 5 s"), "{}", done.stderr);
    });
    // Commands that change nothing need no lock.
    check(&place, "list", 0, "active");
    assert_eq!(classifying(&place), "a");
    drop(lock);
    check(&place, "rollback", 0, "built-in is active again, instead of a");
}
