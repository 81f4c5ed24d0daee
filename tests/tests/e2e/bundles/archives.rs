//! Archives that must not be installed: damaged, malicious, too large, not signed.

use std::io::Write as _;

use minisign::KeyPair;
use tar::{Builder, EntryType, Header};

use super::*;

/// The files of the archive `a.tar`.
fn files(place: &Place) -> Vec<(String, Vec<u8>)> {
    let bundle = Bundle::open(&place.at("a.tar")).unwrap();
    let manifest = serde_json::to_vec(bundle.manifest()).unwrap();
    let others = bundle.manifest().files().map(|file| (file.name.clone(), bundle.read(file).unwrap().into_owned()));
    std::iter::once(("bundle.json".to_owned(), manifest)).chain(others).collect()
}

/// One entry, with any name that fits a header.
fn entry(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    // Written directly: the library refuses bad names.
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    if matches!(kind, EntryType::Symlink | EntryType::Link) {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A whole archive, with `extra` before or after the bundle's own files.
fn with(files: &[(String, Vec<u8>)], extra: &[u8], first: bool) -> Vec<u8> {
    let own: Vec<u8> = files.iter().flat_map(|(name, content)| entry(EntryType::Regular, name, content)).collect();
    let mut bytes = if first { [extra, &own].concat() } else { [&own, extra].concat() };
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// Installs these bytes, which must fail with `expected` and leave nothing behind.
fn refused(place: &Place, what: &str, bytes: &[u8], expected: &str) {
    place.write("bad.tar", bytes);
    let before = tree(&place.at("."));
    let done = bundle(place, "install bad.tar");
    assert_eq!(done.code, Some(1), "{what}: {}", done.stdout);
    assert!(done.stderr.contains(expected), "{what}: expected {expected:?}, found {}", done.stderr);
    let lock = |entry: &(PathBuf, u64)| {
        entry.0.ends_with(".lock") || entry.0.ends_with("bundles") || entry.0.ends_with("state")
    };
    let mut after = tree(&place.at("."));
    after.retain(|entry| !lock(entry));
    let mut kept = before;
    kept.retain(|entry| !lock(entry));
    assert_eq!(after, kept, "{what}: something was left behind");
    assert!(!place.at("../escaped").exists() && !Path::new("/escaped").exists(), "{what}");
    assert_eq!(Listing::of(place).names(), [""; 0], "{what}");
}

#[test]
fn malicious_archives_are_refused() {
    let place = prepared();
    let files = files(&place);
    let plain = |name: &str| entry(EntryType::Regular, name, b"x");
    let not_plain = "not a plain file name";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a way up", plain("../escaped"), not_plain),
        ("a longer way up", plain("./../../escaped"), not_plain),
        ("an absolute path", plain("/escaped"), not_plain),
        ("a nested file", plain("a/b"), not_plain),
        ("a hidden file", plain(".aside-x"), not_plain),
        ("a control character", plain("a\x1b[2Jb"), not_plain),
        ("a file of no name", plain(""), not_plain),
        ("a symbolic link", entry(EntryType::Symlink, "extra.onnx", b""), "a link"),
        ("a link to a folder", entry(EntryType::Symlink, "d", b""), "a link"),
        ("a hard link", entry(EntryType::Link, "extra.onnx", b""), "a link"),
        ("a folder", entry(EntryType::Directory, "d/", b""), "a folder"),
        ("a character device", entry(EntryType::Char, "null", b""), "an entry of type Char"),
        ("a block device", entry(EntryType::Block, "sda", b""), "an entry of type Block"),
        ("a pipe", entry(EntryType::Fifo, "pipe", b""), "an entry of type Fifo"),
        ("a sparse file", entry(EntryType::GNUSparse, "s", b""), "an entry of type GNUSparse"),
        ("a long name", entry(EntryType::GNULongName, "././@LongLink", &[b'a'; 300]), "a name that is too long"),
        ("a long link", entry(EntryType::GNULongLink, "././@LongLink", &[b'a'; 300]), "a name that is too long"),
        ("a large extension", entry(EntryType::XHeader, "x", &vec![b'a'; 70_000]), "an entry of type XHeader"),
        ("a file twice", plain("vision.onnx"), "a second file of that name"),
        ("a manifest twice", plain("./bundle.json"), "a second file of that name"),
        ("many files", (0..40).flat_map(|i| plain(&format!("f{i}"))).collect(), "more than 32 files"),
        (
            "many entries",
            (0..99).flat_map(|_| entry(EntryType::Directory, "./", b"")).collect(),
            "more than 64 entries",
        ),
    ];
    for (what, extra, expected) in cases {
        for first in [true, false] {
            refused(&place, what, &with(&files, &extra, first), expected);
        }
    }
}

#[test]
fn damaged_and_foreign_archives_are_refused() {
    let place = prepared();
    let files = files(&place);
    let whole = fs::read(place.at("a.tar")).unwrap();
    let mut wrong_size = whole.clone();
    // The size in the first header: far more than there is.
    wrong_size[124..136].copy_from_slice(b"77777777777\0");
    let sum: u32 = wrong_size[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    wrong_size[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    refused(&place, "a size that is a lie", &wrong_size, "bad.tar: 8589934591 bytes: expected at most 1073741824");
    refused(&place, "nothing", b"", "expected a .tar of a bundle, found an empty file");
    refused(&place, "no archive", &[b'x'; 4096], "cannot be read as a tar archive");
    refused(&place, "a torn one", &whole[..whole.len() / 2], "");
    refused(&place, "a torn header", &whole[..700], "");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    refused(&place, "a flipped bit", &flipped, "SHA-256: expected");
    for index in 0..files.len() {
        let mut fewer = files.clone();
        let (name, _) = fewer.remove(index);
        refused(&place, &format!("without {name}"), &with(&fewer, b"", true), &name);
    }
    let manifest = String::from_utf8(files[0].1.clone()).unwrap();
    for (what, from, to, expected) in [
        (
            "a manifest that points out",
            "\"vision.onnx\"",
            "\"../vision.onnx\"",
            "file.name: expected a plain file name",
        ),
        ("a manifest of another version", "\"format_version\":1", "\"format_version\":99", "format version 99"),
        ("a manifest of other content", "\"name\":", "\"nmae\":", "not a valid manifest"),
    ] {
        let changed = manifest.replace(from, to);
        assert_ne!(changed, manifest, "{what}");
        let mut other = files.clone();
        other[0].1 = changed.into_bytes();
        refused(&place, what, &with(&other, b"", true), expected);
    }
    check(&place, "install . --name x", 1, "expected a .tar of a bundle, found a directory without one");
}

#[test]
fn size_is_bounded() {
    let place = prepared();
    place.write("spotter.toml", "[bundles]\nsize_max_mib = 1\n");
    check(&place, "install a.tar", 1, "as bundles.size_max_mib says");
    assert_eq!(Listing::of(&place).names(), [""; 0]);
}

#[test]
fn archives_of_other_tools_are_accepted() {
    let place = prepared();
    let files = files(&place);
    let folder = place.at("unpacked");
    fs::create_dir(&folder).unwrap();
    for (name, content) in &files {
        fs::write(folder.join(name), content).unwrap();
    }
    fs::write(folder.join("labels.toml"), "").unwrap();
    // As written by `tar -C unpacked -cf`: a folder first, names with `./`; extended headers, as Python's tarfile
    // writes.
    for (format, arguments) in [
        ("gnu", &["--format=gnu"][..]),
        ("pax", &["--format=pax"]),
        ("ustar", &["--format=ustar"]),
        ("v7", &["--format=v7"]),
    ] {
        let mut tar = std::process::Command::new("tar");
        let out = place.at(&format!("{format}.tar"));
        tar.args(arguments).arg("-C").arg(&folder).arg("-cf").arg(&out).arg(".");
        assert!(tar.status().unwrap().success());
        check(&place, &format!("install {format}.tar --activate"), 0, "is active now");
        assert_eq!(classifying(&place), "a");
        let kept = place.state().join("bundles").join(format).join("bundle.tar");
        assert!(fs::read(kept).unwrap() == fs::read(out).unwrap(), "{format}: the archive is kept as it is");
    }
    let mut builder = Builder::new(Vec::new());
    for (name, content) in &files {
        let mut header = Header::new_ustar();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    place.write("bare.tar", builder.into_inner().unwrap());
    check(&place, "install bare.tar", 0, "installed");
}

/// Signs a file as `minisign -S` does.
pub(super) fn sign(place: &Place, keys: &KeyPair, file: &str, to: &str, comment: &str) {
    let data = fs::File::open(place.at(file)).unwrap();
    let signature = minisign::sign(Some(&keys.pk), &keys.sk, data, Some(comment), None).unwrap();
    place.write(to, signature.into_string());
}

#[test]
fn with_a_key_only_what_it_signed_is_installed() {
    let place = prepared();
    let (keys, other) =
        (KeyPair::generate_unencrypted_keypair().unwrap(), KeyPair::generate_unencrypted_keypair().unwrap());
    // Without a key anything is accepted, and not regarded as signed.
    sign(&place, &other, "a.tar", "a.tar.minisig", "by somebody");
    let done = bundle(&place, "install a.tar");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("the signature was not checked"), "{}", done.stderr);
    assert_eq!(Listing::of(&place).slots[0].signed, None);

    place.write("spotter.toml", format!("[bundles]\npublic_key = \"{}\"\n", keys.pk.to_base64()));
    check(&place, "install b.tar", 1, "b.tar: not signed: expected its signature in ");
    sign(&place, &other, "b.tar", "b.tar.minisig", "by another key");
    check(&place, "install b.tar", 1, "expected a signature of the archive by the key that the configuration names");
    sign(&place, &keys, "c.tar", "b.tar.minisig", "of another file");
    check(&place, "install b.tar", 1, "expected a signature of the archive");
    for text in ["", "untrusted comment: x\n", "no signature at all\n\n\n\n", &"x".repeat(100_000), "\u{1F980}"] {
        place.write("b.tar.minisig", text);
        check(&place, "install b.tar", 1, "b.tar.minisig: ");
    }
    sign(&place, &keys, "b.tar", "b.tar.minisig", "release 7");
    let good = fs::read(place.at("b.tar")).unwrap();
    for at in [0, 600, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        place.write("b.tar", bytes);
        check(&place, "install b.tar", 1, "expected a signature of the archive");
    }
    // Nothing may hide after the end either.
    let mut file = fs::File::create(place.at("b.tar")).unwrap();
    file.write_all(&good).unwrap();
    file.write_all(&[0; 512]).unwrap();
    check(&place, "install b.tar", 1, "expected a signature of the archive");
    // A comment is signed as well.
    let signature = fs::read_to_string(place.at("b.tar.minisig")).unwrap();
    place.write("b.tar", &good);
    place.write("b.tar.minisig", signature.replace("release 7", "release 8"));
    check(&place, "install b.tar", 1, "expected a signature of the archive");
    assert_eq!(Listing::of(&place).names(), ["a"]);
    place.write("b.tar.minisig", signature);
    check(&place, "install b.tar --activate", 0, "b is active now");
    let listing = Listing::of(&place);
    let row = listing.slots.iter().find(|row| row.slot == "b").unwrap();
    assert_eq!(row.signed.as_deref(), Some("release 7"));
}

#[test]
fn with_a_key_slots_that_it_has_not_signed_are_not_used() {
    let place = prepared();
    let (keys, other) =
        (KeyPair::generate_unencrypted_keypair().unwrap(), KeyPair::generate_unencrypted_keypair().unwrap());
    let name_key = |keys: &KeyPair| {
        place.write("spotter.toml", format!("[bundles]\npublic_key = \"{}\"\n", keys.pk.to_base64()));
    };
    // Installed before the key was configured: the running one, and the one before it.
    check(&place, "install a.tar --activate", 0, "a is active now");
    check(&place, "install b.tar --activate", 0, "b is active now");
    name_key(&keys);
    check(&place, "activate a", 1, "slot \"a\": not signed when it was installed: expected an archive that is signed");
    check(&place, "rollback", 1, "slot \"a\": not signed when it was installed");
    assert_eq!(Listing::of(&place).active, "b");
    check(&place, "list", 0, "not signed when it was installed");
    let run = |place: &Place| {
        let arguments = "run --output json --frames 1 --labels labels.toml --config spotter.toml --source";
        finish(place.spotter(arguments).arg("test://shapes?size=64x64"))
    };
    let done = run(&place);
    assert_eq!((done.code, bundle_of(&lines(&done)[0])), (Some(0), "built-in"), "{}", done.stderr);
    assert!(done.stderr.contains("slot \"b\": not signed when it was installed"), "{}", done.stderr);
    assert!(done.stderr.contains("bundle b: rolled back to a"), "{}", done.stderr);
    assert!(done.stderr.contains("bundle a: rolled back to built-in"), "{}", done.stderr);
    // Signed afterwards and installed again.
    sign(&place, &keys, "a.tar", "a.tar.minisig", "release 1");
    check(&place, "install a.tar --activate", 0, "a is active now");
    let done = run(&place);
    assert_eq!((done.code, bundle_of(&lines(&done)[0])), (Some(0), "a"), "{}", done.stderr);
    assert_eq!(Listing::of(&place).slots.iter().find(|r| r.slot == "a").unwrap().signed.as_deref(), Some("release 1"));
    // With another key, signatures of the old one no longer count.
    name_key(&other);
    check(
        &place,
        "activate a",
        1,
        "slot \"a\": signed by another key: expected an archive that is signed by the configured key",
    );
    assert_eq!(bundle_of(&lines(&run(&place))[0]), "built-in");
    let done = finish(&mut place.spotter("check --labels labels.toml --config spotter.toml"));
    assert_eq!(done.code, Some(0), "{} {}", done.stdout, done.stderr);
    // Whoever may write the configuration or the command line decides what they name.
    let named = "run --output json --frames 1 --labels labels.toml --config spotter.toml --bundle c.tar --source";
    let done = finish(place.spotter(named).arg("test://shapes?size=64x64"));
    assert_eq!((done.code, bundle_of(&lines(&done)[0])), (Some(0), "c"), "{}", done.stderr);
}

/// Root installs with a restrictive umask; the service is another user.
#[test]
fn what_is_installed_can_be_read_by_the_service() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = prepared();
    place.write("spotter.toml", format!("state_dir = '{}'\nlabels = 'labels.toml'\n", place.state().display()));
    let spotter = e2e::program("spotter").display().to_string();
    let script = format!("umask 077; {spotter} bundle --config spotter.toml install a.tar --activate");
    let done = finish(std::process::Command::new("sh").args(["-c", &script]).current_dir(place.at("")));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let folder = place.state().display().to_string();
    assert!(done.stdout.contains(&format!("instead of built-in, in the state folder {folder}\n")), "{}", done.stdout);
    let mut paths: Vec<_> = tree(&place.state()).into_iter().map(|(path, _)| path).collect();
    paths.push(place.state());
    assert!(paths.len() >= 8, "{paths:?}");
    for path in paths {
        let data = path.metadata().unwrap();
        let expected = match data.is_dir() {
            true => 0o755,
            // Whoever can open the lock can block changes of the slots.
            false if path.ends_with(".lock") => 0o600,
            false => 0o644,
        };
        assert_eq!(data.permissions().mode() & 0o777, expected, "{}", path.display());
    }
}

/// The service's user could not change what root writes into its folder.
#[test]
fn root_is_sent_to_the_owner_of_the_state_folder() {
    let place = prepared();
    let folder = place.state();
    std::fs::create_dir_all(&folder).unwrap();
    if let Err(error) = std::os::unix::fs::chown(&folder, Some(65534), None) {
        assert!(!e2e::is_ci(), "automation runs this as root: {error}");
        return println!("skipped: only root can give a folder away: {error}");
    }
    check(&place, "install a.tar", 1, "expected its owner, user 65534, to change it, found root");
    assert!(tree(&folder).is_empty());
    assert_eq!(bundle(&place, "list").code, Some(0));
}
