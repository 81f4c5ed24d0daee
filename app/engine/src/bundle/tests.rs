//! Bundles written, read back, and damaged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::*;
use crate::preprocess::{Filter, Normalize, PreprocessConfig, Resize, Size, Target};
use crate::score::ScoringKind;

/// A manifest with placeholder files and `width` as projection dimension.
pub(crate) fn manifest(width: usize) -> Manifest {
    let file = || FileEntry { name: "file".into(), bytes: 0, sha256: "0".repeat(64) };
    let batch = || Dim::Named("batch".into());
    let tokens = |name: &str| TensorSpec {
        name: name.into(),
        dtype: Dtype::I64,
        shape: vec![batch(), Dim::Named("sequence".into())],
    };
    let embedding =
        |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![batch(), Dim::Fixed(width)] };
    let pixels = vec![batch(), Dim::Fixed(3), Dim::Fixed(8), Dim::Fixed(6)];
    Manifest {
        format_version: FORMAT_VERSION,
        name: "test".into(),
        projection_dim: width,
        logit_scale: 2.6592,
        logit_bias: None,
        scoring: ScoringKind::Softmax,
        vision: Tower {
            file: file(),
            architecture: Architecture::Vit,
            weights: Weights::Int8,
            inputs: vec![TensorSpec { name: "pixel_values".into(), dtype: Dtype::F32, shape: pixels }],
            output: embedding("image_embeds"),
            features: None,
        },
        text: Tower {
            file: file(),
            architecture: Architecture::Bert,
            weights: Weights::Int8,
            inputs: vec![tokens("input_ids"), tokens("attention_mask")],
            output: embedding("text_embeds"),
            features: None,
        },
        preprocess: PreprocessConfig {
            resize: Some(Resize { to: Target::Exact(Size { height: 8, width: 6 }), filter: Filter::Bilinear }),
            rescale_factor: Some(1.0 / 255.0),
            normalize: Some(Normalize { mean: [0.5; 3], std: [0.5; 3] }),
            ..PreprocessConfig::NONE
        },
        tokenizer: TokenizerSpec {
            file: file(),
            max_length: 64,
            truncation_side: TruncationSide::Right,
            padding: Padding::Longest,
            padding_side: PaddingSide::Right,
            pad_token: "[PAD]".into(),
            pad_id: 0,
            pad_type_id: 0,
            positions: Positions::Sequential,
            siglip: None,
        },
        templates: vec!["a photo of a {}.".into()],
        source: Source { checkpoint: "test".into(), sha256: "0".repeat(64) },
        overrides: Vec::new(),
        quantization: Quantization {
            recipe: "none".into(),
            image_cosine_min: 1.0,
            text_cosine_min: 1.0,
            exceptions: BTreeMap::new(),
            calibration: None,
            layers: Vec::new(),
        },
        adapted_labels: Vec::new(),
        model_card: file(),
    }
}

const CONTENTS: Contents<'_> =
    Contents { vision: b"the image tower", text: b"the text tower", tokenizer: b"{}", model_card: b"# A model\n" };

fn written(path: &Path) -> Manifest {
    write(path, manifest(4), &CONTENTS).expect("writes")
}

fn open_and_read(path: &Path) -> Result<(), BundleError> {
    Bundle::open(path)?.verify()
}

#[test]
fn a_directory_and_a_tar_read_back_as_written() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["bundle", "bundle.tar"] {
        let path = folder.path().join(name);
        let manifest = written(&path);
        let bundle = Bundle::open(&path).expect("opens");
        assert_eq!(bundle.manifest(), &manifest);
        assert_eq!(&*bundle.read(&manifest.vision.file).expect("reads"), CONTENTS.vision);
        assert_eq!(&*bundle.read(&manifest.text.file).expect("reads"), CONTENTS.text);
        bundle.verify().expect("verifies");
    }
}

#[test]
fn adapted_labels_come_back_and_wrong_ones_are_refused() {
    struct Case {
        what: &'static str,
        label: AdaptedLabel,
        refused: Option<&'static str>,
    }
    let label = AdaptedLabel::new("cat", "a".repeat(64), 5, &[1.5, 0.0, -0.25, 0.0]);
    assert_eq!(label.values(), Some(vec![1.5, 0.0, -0.25, 0.0]));
    let with = |embedding: &[f32]| AdaptedLabel::new("cat", "a".repeat(64), 5, embedding);
    let text = |embedding: &str| AdaptedLabel { embedding: embedding.into(), ..label.clone() };
    for Case { what, label, refused } in [
        Case { what: "a blend", label: label.clone(), refused: None },
        Case { what: "no key", label: AdaptedLabel { sentences: "cat".into(), ..label.clone() }, refused: Some("64") },
        Case { what: "another width", label: with(&[1.0, 0.0, 0.0]), refused: Some("3 floats") },
        Case { what: "no direction", label: with(&[0.0; 4]), refused: Some("norm 0") },
        Case { what: "not a number", label: with(&[f32::NAN, 1.0, 0.0, 0.0]), refused: Some("norm NaN") },
        Case { what: "infinite", label: with(&[f32::INFINITY, 1.0, 0.0, 0.0]), refused: Some("norm inf") },
        Case { what: "far too long", label: with(&[1e4, 1.0, 0.0, 0.0]), refused: Some("norm 10000") },
        Case { what: "not Base64", label: text("?"), refused: Some("0 floats") },
        Case { what: "half a float", label: text("AAA="), refused: Some("0 floats") },
    ] {
        let json = serde_json::to_vec(&Manifest { adapted_labels: vec![label.clone()], ..manifest(4) }).expect("JSON");
        match (Manifest::parse("bundle.json", &json), refused) {
            (Ok(found), None) => assert_eq!(found.adapted_labels, [label], "{what}"),
            (Err(error), Some(part)) => {
                let error = error.to_string();
                assert!(error.contains("adapted_labels.") && error.contains(part), "{what}: {error}");
            }
            (found, _) => panic!("{what}: {found:?}"),
        }
    }
}

#[test]
fn only_bundles_are_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bundle");
    written(&path);
    std::fs::write(path.join("labels.toml"), b"mine").expect("a file");
    let mut other = manifest(4);
    other.name = "second".into();
    write(&path, other, &CONTENTS).expect("replaces a bundle");
    assert_eq!(Bundle::open(&path).expect("opens").manifest().name, "second");
    assert_eq!(std::fs::read(path.join("labels.toml")).expect("still there"), b"mine");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(left.len(), 1, "nothing is left beside it: {left:?}");

    let foreign = folder.path().join("photos");
    std::fs::create_dir(&foreign).expect("a folder");
    std::fs::write(foreign.join("holiday.jpg"), b"precious").expect("a file");
    let error = write(&foreign, manifest(4), &CONTENTS).expect_err("not a bundle");
    assert!(std::error::Error::source(&error).is_some_and(|s| s.to_string().contains("no bundle")), "{error:?}");
    assert!(foreign.join("holiday.jpg").exists());
}

#[test]
fn leftovers_of_a_killed_writer_are_rescued_and_removed() {
    struct Case {
        what: &'static str,
        /// Path of the old bundle, with labels in its folder.
        before: &'static str,
        /// True if a bundle is at the destination.
        in_place: bool,
        /// True if the labels are there after the next bundle is written.
        keeps_labels: bool,
    }
    let cases = [
        Case { what: "killed while it wrote", before: "elsewhere", in_place: true, keeps_labels: false },
        Case { what: "killed after the exchange", before: ".bundle.new-1-0/new", in_place: true, keeps_labels: true },
        Case { what: "killed between two renames", before: ".bundle.new-1-0/old", in_place: false, keeps_labels: true },
        Case { what: "killed after two renames", before: ".bundle.new-1-0/old", in_place: true, keeps_labels: true },
    ];
    for Case { what, before, in_place, keeps_labels } in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at(".bundle.new-1-0/half")).expect("a folder");
        if in_place {
            written(&at("bundle"));
        }
        written(&at(before));
        std::fs::write(at(before).join("labels.toml"), b"mine").expect("a file");
        written(&at("bundle"));
        open_and_read(&at("bundle")).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(!at(".bundle.new-1-0").exists(), "{what}");
        assert_eq!(at("bundle/labels.toml").exists(), keeps_labels, "{what}");
    }
}

#[test]
fn damage_is_reported() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 22] = [
        ("bit flip", |p| flip(&p.join("vision.onnx")), "SHA-256"),
        ("truncated", |p| std::fs::write(p.join("text.onnx"), b"the text").expect("writes"), "expected 14 bytes"),
        ("missing file", |p| std::fs::remove_file(p.join("tokenizer.json")).expect("removes"), "tokenizer.json"),
        ("no manifest", |p| std::fs::remove_file(p.join(MANIFEST_FILE)).expect("removes"), "not a bundle"),
        ("empty manifest", |p| std::fs::write(p.join(MANIFEST_FILE), b"").expect("writes"), "not a valid manifest"),
        ("newer version", |p| edit(p, "\"format_version\": 1", "\"format_version\": 2"), "version 2"),
        ("wrong type", |p| edit(p, "\"projection_dim\": 4", "\"projection_dim\": \"4\""), "not a valid manifest"),
        ("unknown key", |p| edit(p, "\"name\": \"test\"", "\"nmae\": \"test\""), "not a valid manifest"),
        ("other width", |p| edit(p, "\"projection_dim\": 4", "\"projection_dim\": 5"), "vision.output"),
        ("infinite scale", |p| edit(p, "\"logit_scale\": 2.6592", "\"logit_scale\": 1e9"), "logit_scale"),
        ("infinite bias", |p| edit(p, "2.6592,", "2.6592, \"logit_bias\": 2e38,"), "logit_bias"),
        ("unknown scoring", |p| edit(p, "2.6592,", "2.6592, \"scoring\": \"argmax\","), "not a valid manifest"),
        ("other picture size", |p| edit(p, "\"height\": 8", "\"height\": 9"), "preprocess"),
        ("2^63 tokens", |p| length(p, "9223372036854775808"), "tokenizer.max_length: expected 2 to 4096"),
        ("10^12 tokens", |p| length(p, "1000000000000"), "tokenizer.max_length: expected 2 to 4096"),
        ("a table of tokens", |p| length(p, "4097"), "tokenizer.max_length: expected 2 to 4096"),
        ("one token", |p| length(p, "1"), "tokenizer.max_length: expected 2 to 4096"),
        (
            "wide pictures",
            |p| edit(p, "          6\n", "          4097\n"),
            "vision.inputs: expected sides of at most 4096",
        ),
        (
            "large tower",
            |p| edit(p, "\"bytes\": 15", "\"bytes\": 2147483649"),
            "file.bytes: expected at most 2147483648",
        ),
        (
            "large tokenizer",
            |p| edit(p, "\"bytes\": 2,", "\"bytes\": 134217729,"),
            "file.bytes: expected at most 134217728",
        ),
        ("large manifest", |p| grow(&p.join(MANIFEST_FILE), 1 << 40), "expected at most 1048576 bytes"),
        ("path in a name", |p| edit(p, "\"name\": \"text.onnx\"", "\"name\": \"../text.onnx\""), "plain file name"),
    ];
    for (name, damage, expected) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bundle");
        written(&path);
        damage(&path);
        let error = open_and_read(&path).expect_err(name);
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

fn edit(bundle: &Path, from: &str, to: &str) {
    let path = bundle.join(MANIFEST_FILE);
    let text = std::fs::read_to_string(&path).expect("a manifest");
    assert!(text.contains(from), "{from} is in the manifest");
    std::fs::write(path, text.replacen(from, to, 1)).expect("writes");
}

/// Sets the maximum length of prompts.
fn length(bundle: &Path, tokens: &str) {
    edit(bundle, "\"max_length\": 64", &format!("\"max_length\": {tokens}"));
}

/// Makes a file longer without using disk space.
fn grow(path: &Path, bytes: u64) {
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_len(bytes)).expect("grows");
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes[3] ^= 1;
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn every_truncation_of_a_tar_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bundle.tar");
    written(&path);
    let good = std::fs::read(&path).expect("a file");
    // The end marker of 1024 bytes and the padding of the last file to a block of 512 hold no content.
    let content_end = good.len() - 1024 - 512 + CONTENTS.model_card.len();
    for length in (0..content_end).step_by(61) {
        std::fs::write(&path, &good[..length]).expect("writes");
        assert!(open_and_read(&path).is_err(), "{length} of {} bytes", good.len());
    }
}

#[test]
fn other_paths_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, b"hello").expect("writes");
    for path in [folder.path().to_owned(), text, folder.path().join("missing")] {
        let error = Bundle::open(&path).expect_err("no bundle").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn only_regular_files_in_the_folder_are_read() {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, mkfifoat};

    struct Case {
        what: &'static str,
        file: &'static str,
        make: fn(&Path),
        expected: &'static str,
    }
    let pipe = |path: &Path| mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a pipe");
    let cases = [
        Case { what: "a pipe", file: MANIFEST_FILE, make: pipe, expected: "found a named pipe" },
        Case { what: "a pipe", file: "vision.onnx", make: pipe, expected: "found a named pipe" },
        Case {
            what: "a device",
            file: "text.onnx",
            make: |path| symlink("/dev/zero", path).expect("a link"),
            expected: "found a device",
        },
        Case {
            what: "a folder",
            file: "tokenizer.json",
            make: |path| std::fs::create_dir(path).expect("a folder"),
            expected: "found a directory",
        },
        Case {
            what: "a link outside",
            file: "MODEL_CARD.md",
            make: |path| symlink("../outside", path).expect("a link"),
            expected: "outside of its folder",
        },
    ];
    for Case { what, file, make, expected } in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bundle");
        written(&path);
        std::fs::write(folder.path().join("outside"), CONTENTS.model_card).expect("a file");
        std::fs::remove_file(path.join(file)).expect("removes");
        make(&path.join(file));
        let error = Bundle::open(&path).expect_err(what);
        let message = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
        assert!(error.to_string().contains(file) && message.contains(expected), "{what}: {error}: {message}");
    }
    // A link within the folder is followed.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bundle");
    written(&path);
    std::fs::rename(path.join("text.onnx"), path.join("text.data")).expect("renames");
    symlink("text.data", path.join("text.onnx")).expect("a link");
    open_and_read(&path).expect("opens");
}

/// Opens an archive both ways: by its headers, and after reading all of it.
fn opened_both_ways(path: &Path) -> [Result<Bundle, BundleError>; 2] {
    let whole = Archive::read(path, File::open(path).expect("a file"), |_| ());
    [Bundle::open(path), whole.and_then(Archive::open)]
}

#[test]
fn every_byte_of_an_archive_is_passed_on_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bundle.tar");
    written(&path);
    let good = std::fs::read(&path).expect("a file");
    let (no_tar, behind) = (vec![b'x'; 5000], [good.as_slice(), &[0; 700], b"behind the end"].concat());
    for (what, bytes, is_bundle) in [
        ("whole", good.as_slice(), true),
        ("more behind the end mark", &behind, true),
        ("torn in a header", &good[..700], false),
        ("torn in a file", &good[..good.len() / 2], false),
        ("no archive", &no_tar, false),
        ("empty", &[], false),
    ] {
        std::fs::write(&path, bytes).expect("writes");
        let mut seen = Vec::new();
        let archive = Archive::read(&path, File::open(&path).expect("a file"), |piece| seen.extend_from_slice(piece));
        assert!(seen == bytes, "{what}: {} of {} bytes", seen.len(), bytes.len());
        let bundle = archive.expect("reads").open();
        assert_eq!(bundle.is_ok(), is_bundle, "{what}: {bundle:?}");
    }
}

#[test]
fn later_reads_of_an_archive_match_the_first_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, other) = (folder.path().join("bundle.tar"), folder.path().join("other.tar"));
    let manifest = written(&path);
    let good = std::fs::read(&path).expect("a file");
    let mut evil = good.clone();
    for (from, to) in
        [(&b"\"name\": \"test\""[..], &b"\"name\": \"evil\""[..]), (b"the image tower", b"the other tower")]
    {
        let at = evil.windows(from.len()).position(|window| window == from).expect("is there");
        evil[at..at + to.len()].copy_from_slice(to);
    }
    type Change<'a> = &'a dyn Fn();
    let renamed = || {
        std::fs::write(&other, &evil).expect("writes");
        std::fs::rename(&other, &path).expect("renames");
    };
    let in_place = || std::fs::write(&path, &evil).expect("writes");
    let cut = || std::fs::write(&path, &good[..600]).expect("writes");
    let cases: [(&str, Change<'_>, bool); 3] = [
        ("another file of that name", &renamed, true),
        ("changed in place", &in_place, false),
        ("cut off", &cut, false),
    ];
    for (what, change, is_read) in cases {
        // Changed with the last byte of the first pass, or after the archive was opened.
        for late in [false, true] {
            std::fs::remove_file(&path).expect("removes");
            std::fs::write(&path, &good).expect("writes");
            let mut seen = 0;
            let archive = Archive::read(&path, File::open(&path).expect("a file"), |piece| {
                seen += piece.len();
                if !late && seen == good.len() {
                    change();
                }
            });
            let bundle = archive.and_then(Archive::open).expect("opens");
            assert_eq!(bundle.manifest(), &manifest, "{what}");
            if late {
                change();
            }
            let mut pieces = Vec::new();
            let read = bundle.open_file(&manifest.vision.file).expect("opens").read_to_end(&mut pieces);
            assert_eq!((read.is_ok(), bundle.verify().is_ok()), (is_read, is_read), "{what}: {read:?}");
            assert!(!is_read || pieces == CONTENTS.vision, "{what}");
            assert_eq!(bundle.read(&manifest.vision.file).is_ok(), is_read, "{what}");
        }
    }
}

#[test]
fn archives_with_false_headers_are_refused_before_anything_is_allocated() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bundle.tar");
    written(&path);
    let good = std::fs::read(&path).expect("a file");
    let header = |name: &str, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).expect("a name");
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let many: Vec<u8> = (0..5000).flat_map(|number| header(&format!("file{number}"), 0)).collect();
    for (what, first, expected) in [
        ("a tower of 1 TiB", header("vision.onnx", 1 << 40), "vision.onnx: size: expected no more than the"),
        ("a manifest of 1 TiB", header(MANIFEST_FILE, 1 << 40), "bundle.json: size: expected no more than the"),
        ("as large as can be", header("vision.onnx", u64::MAX >> 1), ""),
        (
            "one byte more than there is",
            header("other", good.len() as u64 + 1),
            "other: size: expected no more than the",
        ),
        ("a file twice", header("vision.onnx", 0), "two files called vision.onnx"),
        ("a manifest twice", header("./bundle.json", 0), "two files called bundle.json"),
        ("many entries", many, "more than 4096 entries"),
        ("a forged line", header("a\nb", 1 << 40), "a\\nb: size"),
    ] {
        std::fs::write(&path, [first.as_slice(), &good].concat()).expect("writes");
        for result in opened_both_ways(&path) {
            let error = result.err().unwrap_or_else(|| panic!("{what}: opened")).to_string();
            assert!(error.contains(expected), "{what}: {error}");
        }
    }
    let error = Bundle::open(Path::new("/dev/zero")).expect_err("a device").to_string();
    assert!(error.contains("found neither a file nor a folder"), "{error}");
}
