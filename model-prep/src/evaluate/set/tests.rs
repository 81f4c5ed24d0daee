//! Valid and invalid layouts of sets.

use std::fs;
use std::io::Write as _;

use rawzip::{CompressionMethod, ZipArchiveWriter};

use super::layout::CLASSES_FILE;
use super::*;

/// Creates a folder with these files. Content matters only for `.tsv` and `.txt` files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).expect("a folder");
            continue;
        }
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    folder
}

fn open(folder: &tempfile::TempDir) -> Result<ImageSet, EvaluateError> {
    ImageSet::open(folder.path(), &Places::default())
}

fn files(set: &ImageSet) -> Vec<&str> {
    set.images.iter().map(|path| path.to_str().expect("text")).collect()
}

fn left(set: &ImageSet) -> Vec<(&str, usize)> {
    set.left_out.iter().map(|left| (left.what, left.count)).collect()
}

const CLASSES: [(&str, &str); 8] = [
    ("dog/b.JPG", ""),
    ("dog/a.png", ""),
    ("dog/inner/c.webp", ""),
    ("dog/notes.txt", ""),
    ("black_cat/x.jpeg", ""),
    ("stray.png", ""),
    (".hidden/y.png", ""),
    ("README", ""),
];

#[test]
fn a_folder_is_a_class() {
    let set = open(&folder(&CLASSES)).expect("a set");
    assert_eq!(files(&set), ["black_cat/x.jpeg", "dog/a.png", "dog/b.JPG", "dog/inner/c.webp"]);
    let Question::Classes { classes, truths } = set.question() else { panic!("{set:?}") };
    let described: Vec<_> = classes.iter().map(|c| (&*c.folder, &*c.name, c.prompts.join("|"))).collect();
    assert_eq!(described, [("black_cat", "black cat", "black cat".to_owned()), ("dog", "dog", "dog".to_owned())]);
    assert_eq!(truths, &[0, 1, 1, 1]);
    assert_eq!(left(&set), [("images outside of the classes' folders", 1), ("files without an image's extension", 2)]);
}

#[test]
fn class_names_come_from_the_file() {
    let names = "\u{feff}n2\tcrane, wading bird,\r\n\nn1\tgoldfish\nn3\tcrane\nn9\tdragon\n";
    let set = open(&folder(&[("n1/a.png", ""), ("n2/a.png", ""), ("n3/a.png", ""), (CLASSES_FILE, names)]));
    let set = set.expect("a set");
    let Question::Classes { classes, truths } = set.question() else { panic!("{set:?}") };
    let described: Vec<_> = classes.iter().map(|c| (&*c.folder, &*c.name, c.prompts.join("|"))).collect();
    let expected = [
        ("n1", "goldfish", "goldfish"),
        ("n2", "crane (n2)", "crane|wading bird"),
        ("n3", "crane (n3)", "crane"),
        ("n9", "dragon", "dragon"),
    ];
    assert_eq!(described, expected.map(|(folder, name, prompts)| (folder, name, prompts.to_owned())));
    assert_eq!(truths, &[0, 1, 2]);
    assert_eq!(left(&set), []);
}

#[test]
fn captions_belong_to_images() {
    let captions = "b.png\tTwo dogs.\na.jpg#0\tA cat .\nb.png#1\t A dog\tand a dog. \ngone.png\tNothing.\n";
    let set = open(&folder(&[("a.jpg", ""), ("b.png", ""), ("c.png", ""), ("notes", ""), ("captions.txt", captions)]));
    let set = set.expect("a set");
    assert_eq!(files(&set), ["b.png", "a.jpg", "gone.png"]);
    let Question::Captions(found) = set.question() else { panic!("{set:?}") };
    let found: Vec<_> = found.iter().map(|caption| (caption.image, &*caption.text)).collect();
    assert_eq!(found, [(0, "Two dogs."), (1, "A cat ."), (0, "A dog\tand a dog."), (2, "Nothing.")]);
    assert_eq!(left(&set), [("images without a caption", 1), ("files without an image's extension", 1)]);
}

/// Two images, one of them with two captions, in every format.
#[test]
fn captions_come_in_several_formats() {
    for (name, content) in [
        ("captions.tsv", "a.png\tOne.\nb.png\tTwo, and \"three\".\na.png\tFour.\n"),
        ("captions.csv", "image,caption\na.png,One.\nb.png,\"Two, and \"\"three\"\".\"\na.png,Four.\n"),
        ("captions.csv", "a.png#0,One.\nb.png,\"Two, and \"\"three\"\".\"\na.png#1,Four.\n"),
        (
            "captions.jsonl",
            r#"{"file_name": "a.png", "text": "One."}
            {"image": "b.png", "caption": " Two, and \"three\"."}
            {"file_name": "a.png", "text": ["Four."], "width": 7}"#,
        ),
    ] {
        let set = open(&folder(&[("a.png", ""), ("b.png", ""), (name, content)])).expect(content);
        assert_eq!(files(&set), ["a.png", "b.png"], "{content}");
        let Question::Captions(captions) = set.question() else { panic!("{set:?}") };
        let captions: Vec<_> = captions.iter().map(|caption| (caption.image, &*caption.text)).collect();
        assert_eq!(captions, [(0, "One."), (1, "Two, and \"three\"."), (0, "Four.")], "{content}");
        assert!(set.bad_rows().is_empty() && left(&set).is_empty(), "{content}");
    }
}

#[test]
fn bad_rows_are_left_out_and_named_if_wanted() {
    let check = |name: &str, content: &str, images: &[&str], bad: &[&str]| {
        let folder = folder(&[(name, content)]);
        let set = ImageSet::open_with(folder.path(), &Places::default(), BadRows::LeftOut).expect(content);
        assert_eq!(files(&set), images, "{content}");
        assert_eq!(set.bad_rows().len(), bad.len(), "{:?}", set.bad_rows());
        assert!(set.bad_rows().iter().zip(bad).all(|(row, part)| row.contains(part)), "{:?}", set.bad_rows());
        open(&folder).expect_err("evaluation refuses them");
    };
    check(
        "captions.tsv",
        "a.png\tOne.\nb.png\t \nno tab\nb.png\tTwo.\n",
        &["a.png", "b.png"],
        &["captions.tsv:2: ", "captions.tsv:3: "],
    );
    check(
        "captions.jsonl",
        "{\"file_name\": \"a.png\", \"text\": \"One.\"}\n{\n{\"file_name\": \"b.png\", \"text\": \"\"}\n{\"text\": \"x\"}\n[]\n\
         {\"file_name\": \"c.png\", \"text\": [\"x\", \"y\"]}\n",
        &["a.png", "c.png"],
        &["jsonl:2: ", "jsonl:3: ", "jsonl:4: ", "jsonl:5: "],
    );
    check("captions.csv", "a.png,1\nb.png,\"2\nc.png\nd.png,4\n", &["a.png", "d.png"], &["csv:2: ", "csv:3: "]);
    let nothing = folder(&[("captions.tsv", "a\nb\n")]);
    let error = ImageSet::open_with(nothing.path(), &Places::default(), BadRows::LeftOut).expect_err("nothing is left");
    let error = error.to_string();
    assert!(error.contains("2 lines cannot be used") && error.contains("captions.tsv:1: "), "{error}");
}

#[test]
fn a_limit_spreads_over_the_set() {
    let mut all: Vec<_> = (0..10).map(|i| (format!("{}/{i}.png", if i < 5 { "a" } else { "b" }), "")).collect();
    all.push(("c/9.png".to_owned(), ""));
    let all: Vec<_> = all.iter().map(|(name, content)| (&**name, *content)).collect();
    let whole = open(&folder(&all)).expect("a set");
    let check = |limit, expected: &[&str], truths_expected: &[usize]| {
        let mut set = whole.clone();
        set.limit(limit);
        let Question::Classes { truths, .. } = set.question() else { panic!("{set:?}") };
        assert_eq!((files(&set), &truths[..]), (expected.to_vec(), truths_expected), "{limit}");
    };
    check(3, &["a/0.png", "a/3.png", "b/7.png"], &[0, 0, 1]);
    check(1, &["a/0.png"], &[0]);
    assert_eq!(whole.len(), 11);
    let mut set = whole.clone();
    set.limit(11);
    assert_eq!((files(&set), set.question()), (files(&whole), whole.question()));

    let mut set = open(&folder(&[("captions.tsv", "a.png\t1\nb.png\t2\nc.png\t3\na.png\t4\n")])).expect("a set");
    set.limit(2);
    let Question::Captions(captions) = set.question() else { panic!("{set:?}") };
    let captions: Vec<_> = captions.iter().map(|caption| (caption.image, &*caption.text)).collect();
    assert_eq!((files(&set), captions), (vec!["a.png", "b.png"], vec![(0, "1"), (1, "2"), (0, "4")]));
}

#[test]
fn invalid_sets_are_refused() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let error = open(&folder(files)).expect_err("refused").to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error:?} lacks one of {expected:?}");
    };
    let line = "a class's folder, a tab, and its names";
    check(
        &[],
        &["a folder per class", "captions.tsv, captions.txt, captions.jsonl, captions.csv", "0 images and no folder"],
    );
    check(&[("a.png", ""), ("b.png", "")], &["2 images and no folder"]);
    check(&[("cat/a.png", "")], &["two classes or more", "one, \"cat\""]);
    check(
        &[("cat/a.png", ""), ("dog/", "")],
        &["dog: expected images of this class, with the extension jpg", "found none"],
    );
    check(&[("cat/a.png", ""), ("dog/x.txt", "")], &["dog: expected images", "found none"]);
    let with = |names: &'static str| [("cat/a.png", ""), ("dog/a.png", ""), (CLASSES_FILE, names)];
    check(&with("cat\tcat\n"), &["dog: expected a line for it in", "none"]);
    check(&with("cat\tcat\n\ndog\n"), &["classes.tsv:3: expected", line, "\"dog\""]);
    check(&with("cat\tcat\ndog\t ,\n"), &["classes.tsv:2: expected", "commas only"]);
    check(&with("cat\tcat\ndog\tdog\ncat\tkitten\n"), &["classes.tsv:3: expected one line per class", "after line 1"]);
    check(
        &[("captions.tsv", "a.png,A cat.\n")],
        &["captions.tsv:1: expected an image's file, a tab", "\"a.png,A cat.\""],
    );
    check(&[("captions.tsv", "a.png\tA cat.\na.png\t\n")], &["captions.tsv:2: expected"]);
    check(&[("captions.tsv", "\ta cat\n")], &["captions.tsv:1: expected"]);
    check(&[("captions.tsv", "a.png\tA cat.\n")], &["captions of two images or more", "found 1"]);
    check(&[("captions.tsv", "")], &["captions of two images or more", "found 0"]);

    let missing = ImageSet::open(Path::new("/nonexistent"), &Places::default()).expect_err("refused");
    assert_eq!(missing.to_string(), "/nonexistent");
    let file = folder(&[("x.zip", "no archive")]);
    let error = ImageSet::open(&file.path().join("x.zip"), &Places::default()).expect_err("refused").to_string();
    assert!(error.contains("expected a folder of images or a zip archive of one, found a file that"), "{error}");
}

/// Creates a zip archive of these files, each compressed or not.
fn zip(files: &[(&str, &[u8], CompressionMethod)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut bytes);
    for (name, content, method) in files {
        if name.ends_with('/') {
            archive.new_dir(*name).create().expect("a folder");
            continue;
        }
        let (mut entry, config) = archive.new_file(*name).compression_method(*method).start().expect("an entry");
        if *method == CompressionMethod::DEFLATE {
            let encoder = flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default());
            let mut writer = config.wrap(encoder);
            writer.write_all(content).expect("written");
            let (encoder, descriptor) = writer.finish().expect("written");
            encoder.finish().expect("written");
            entry.finish(descriptor).expect("written");
        } else {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(content).expect("written");
            let (_, descriptor) = writer.finish().expect("written");
            entry.finish(descriptor).expect("written");
        }
    }
    archive.finish().expect("written");
    bytes
}

#[test]
fn archives_are_read_like_folders() {
    let (store, deflate) = (CompressionMethod::STORE, CompressionMethod::DEFLATE);
    let long = vec![b'x'; 5000];
    let entries: [(&str, &[u8], CompressionMethod); 7] = [
        ("dog/b.png", b"stored", store),
        ("dog/", b"", store),
        ("__MACOSX/dog/._b.png", b"", store),
        ("cat/a.png", &long, deflate),
        ("cat/.DS_Store", b"", store),
        ("README", b"", store),
        (CLASSES_FILE, b"cat\tcat\ndog\tdog\n", deflate),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("set.zip");
    let mut bytes = zip(&entries);
    fs::write(&path, &bytes).expect("a file");
    let set = ImageSet::open(&path, &Places::default()).expect("a set");
    assert_eq!(files(&set), ["cat/a.png", "dog/b.png"]);
    let Question::Classes { truths, .. } = set.question() else { panic!("{set:?}") };
    assert_eq!((&truths[..], left(&set)), (&[0, 1][..], vec![("files without an image's extension", 1)]));
    assert_eq!(set.read(0).expect("inflated"), long);
    assert_eq!(set.read(1).expect("read"), b"stored");
    let place = Place::open(&path).expect("an archive").0;
    assert_eq!(place.read(Path::new("cat/a.png"), 4999).expect_err("bounded").kind(), std::io::ErrorKind::FileTooLarge);
    assert_eq!(place.read(Path::new("none"), 9).expect_err("missing").kind(), std::io::ErrorKind::NotFound);

    let at = bytes.windows(6).position(|part| part == b"stored").expect("content");
    bytes[at] = b'S';
    fs::write(&path, &bytes).expect("a file");
    let damaged = ImageSet::open(&path, &Places::default()).expect("a set");
    damaged.read(1).expect_err("a flipped bit is noticed");
    damaged.read(0).expect("only one file is damaged");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("a file");
    let error = ImageSet::open(&path, &Places::default()).expect_err("truncated").to_string();
    assert!(error.contains("expected a folder of images or a zip archive"), "{error}");
}

#[cfg(unix)]
#[test]
fn cycles_of_links_are_refused() {
    let folder = folder(&[("cat/a.png", ""), ("dog/a.png", "")]);
    std::os::unix::fs::symlink(folder.path().join("cat"), folder.path().join("cat/again")).expect("a link");
    let error = open(&folder).expect_err("refused").to_string();
    assert!(error.contains("nested at most 16 deep"), "{error}");
}

#[test]
fn templates_are_read_line_by_line() {
    let check = |content: &str, expected: Result<&[&str], &str>| {
        let folder = folder(&[("t.txt", content)]);
        let found = read_templates(&folder.path().join("t.txt")).map_err(|error| error.to_string());
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found:?} lacks {expected:?}"),
            _ => panic!("{content:?}: {found:?}"),
        }
    };
    check("a photo of a {}.\n\n  {} \r\n", Ok(&["a photo of a {}.", "{}"]));
    check("a photo of a {}.\na photo\n", Err("t.txt:2: expected a template with one {} for the name, found 0 in"));
    check("{} and {}\n", Err("t.txt:1: expected a template with one {} for the name, found 2 in"));
    check("\n", Err("t.txt:1: expected a template"));
}
