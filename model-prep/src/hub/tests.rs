use std::ffi::OsString;

use super::client::RemoteFile;
use super::*;

#[test]
fn names_are_told_from_paths() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("owner/model");
    std::fs::create_dir_all(&own).expect("a folder");
    let main = |repo: &str| Some((repo.to_owned(), "main".to_owned()));
    for (text, expected) in [
        ("openai/clip-vit-base-patch32", main("openai/clip-vit-base-patch32")),
        ("a_b/c.d-e", main("a_b/c.d-e")),
        ("owner/model@refs/pr/3", Some(("owner/model".to_owned(), "refs/pr/3".to_owned()))),
        ("owner/model@v1.0", Some(("owner/model".to_owned(), "v1.0".to_owned()))),
        ("hf:owner/model", main("owner/model")),
        ("hf:bert-base-uncased", main("bert-base-uncased")),
        // Paths.
        ("checkpoint", None),
        ("a/b/c", None),
        ("./owner/model", None),
        ("../model", None),
        ("/owner/model", None),
        ("owner/", None),
        ("owner/model ", None),
        ("owner/model@", None),
        ("owner/model@../../x", None),
        (".hidden/model", None),
        ("owner/a..b", None),
        (own.to_str().expect("a path"), None),
    ] {
        let found = Name::of(Path::new(text)).expect(text).map(|name| (name.repo, name.revision));
        assert_eq!(found, expected, "{text}");
    }
    for text in ["hf:", "hf:a/b/c", "hf:../x", "hf:a/b@", "hf:a/b@/etc"] {
        let message = Name::of(Path::new(text)).expect_err(text).to_string();
        assert!(message.starts_with(text) && message.contains("OWNER/NAME"), "{message}");
    }
}

fn settings(values: &[(&str, &str)]) -> Result<Settings, HubError> {
    let get = |key: &str| values.iter().find(|(name, _)| *name == key).map(|(_, value)| OsString::from(value));
    Settings::from_environment(&get)
}

#[test]
fn the_cache_is_where_python_has_it() {
    for (values, expected) in [
        (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
        (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
        (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub"),
        (&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
        (&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
        (&[("HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
        (&[("HOME", "/h"), ("HF_HUB_CACHE", "")], "/h/.cache/huggingface/hub"),
    ] {
        let found = settings(values).expect("settings");
        assert_eq!((found.cache, found.offline), (PathBuf::from(expected), false), "{values:?}");
        assert_eq!((found.endpoint.as_str(), found.token), ("https://huggingface.co", None), "{values:?}");
    }
    for (value, expected) in [("1", true), ("true", true), ("ON", true), ("Yes", true), ("0", false), ("no", false)] {
        for key in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            assert_eq!(settings(&[("HOME", "/h"), (key, value)]).expect("settings").offline, expected, "{key}={value}");
        }
    }
    let message = settings(&[]).expect_err("no home").to_string();
    assert!(message.contains("HF_HOME") && message.contains("HOME is not set"), "{message}");
}

#[test]
fn tokens_and_addresses_are_checked_and_tokens_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "hf_file\n").expect("a file");
    let path = path.to_str().expect("a path");
    let token = |values: &[(&str, &str)]| {
        let values = [&[("HOME", "/nowhere")], values].concat();
        settings(&values).map(|settings| settings.token.map(|token| token.header()))
    };
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(token(&[]).expect("none"), None);
    assert_eq!(token(&[("HF_TOKEN", " hf_a\n")]).expect("a token"), bearer("hf_a"));
    assert_eq!(token(&[("HF_TOKEN_PATH", path)]).expect("a token"), bearer("hf_file"));
    assert_eq!(token(&[("HF_TOKEN", "hf_a"), ("HF_TOKEN_PATH", path)]).expect("a token"), bearer("hf_a"));
    assert_eq!(token(&[("HF_TOKEN", "hf_a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).expect("none"), None);
    let wrong = token(&[("HF_TOKEN", "hf_se cret")]).expect_err("a space").to_string();
    assert!(wrong.contains("HF_TOKEN") && !wrong.contains("cret"), "{wrong}");
    let shown = format!("{:?}", settings(&[("HOME", "/h"), ("HF_TOKEN", "hf_secret")]));
    assert!(shown.contains("Token(...)") && !shown.contains("secret"), "{shown}");
    let endpoint = |value: &str| settings(&[("HOME", "/h"), ("HF_ENDPOINT", value)]).map(|settings| settings.endpoint);
    assert_eq!(endpoint("http://127.0.0.1:80/").expect("an address"), "http://127.0.0.1:80");
    for value in ["hub", "ftp://hub", "https://", "https://a b", "https://user:word@hub"] {
        let message = endpoint(value).expect_err(value).to_string();
        assert!(message.contains("HF_ENDPOINT"), "{message}");
    }
}

fn remote(paths: &[&str]) -> Vec<RemoteFile> {
    let file = |path: &&str| RemoteFile { path: (*path).to_owned(), bytes: 1, hash: "0".repeat(40) };
    paths.iter().map(file).collect()
}

fn chosen(paths: &[&str], subfolder: Option<&str>) -> Result<Vec<String>, String> {
    let name = Name::of(Path::new("a/b")).expect("a name").expect("a name");
    let prefix = chosen::prefix(subfolder.map(Path::new)).map_err(|error| error.to_string())?;
    let files = chosen::files(&name, &prefix, &remote(paths)).map_err(|error| error.to_string())?;
    Ok(files.needed.into_iter().chain(files.index).map(|file| file.path).collect())
}

#[test]
fn only_what_is_needed_is_chosen() {
    let whole = [
        "README.md",
        ".gitattributes",
        "config.json",
        "flax_model.msgpack",
        "merges.txt",
        "model.safetensors",
        "onnx/model.onnx",
        "preprocessor_config.json",
        "pytorch_model.bin",
        "tf_model.h5",
        "tokenizer.json",
        "vocab.json",
        "model.fp16.safetensors",
    ];
    let expected =
        ["config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt", "model.safetensors"];
    assert_eq!(chosen(&whole, None).expect("files"), expected);
    for (paths, subfolder, expected) in [
        (&["config.json", "pytorch_model.bin"][..], None, &["config.json", "pytorch_model.bin"][..]),
        (&["config.json", "model.fp16.safetensors"], None, &["config.json", "model.fp16.safetensors"]),
        (
            &["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"],
            None,
            &["config.json", "model.safetensors.index.json"],
        ),
        (
            &[
                "config.json",
                "model.safetensors",
                "vision/config.json",
                "vision/model.safetensors",
                "vision/x/config.json",
            ],
            Some("./vision/"),
            &["vision/config.json", "vision/model.safetensors"],
        ),
    ] {
        assert_eq!(chosen(paths, subfolder).expect("files"), expected, "{paths:?}");
    }
    for (paths, subfolder, parts) in [
        (&["README.md"][..], None, &["no config.json"][..]),
        (&["config.json", "README.md"], None, &["a/b: no weights"]),
        (&["config.json", "model.gguf"], None, &["other programs"]),
        (&["adapter_config.json"], None, &["adapter", "merge"]),
        (&["open_clip_config.json"], None, &["OpenCLIP"]),
        (&["text/config.json"], None, &["--subfolder text"]),
        (&["config.json"], Some("text"), &["a/b, in text: no such folder"]),
        (&["config.json"], Some("../text"), &["--subfolder", "../text"]),
    ] {
        let message = chosen(paths, subfolder).expect_err("nothing to export");
        assert!(parts.iter().all(|part| message.contains(part)), "{paths:?}: {message}");
    }
}

#[test]
fn links_and_refs_have_the_layout_of_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let repo = Repo::new(folder.path(), "owner/model");
    let (commit, hash) = ("c".repeat(40), "a".repeat(64));
    let root = folder.path().join("models--owner--model");
    assert_eq!(repo.root(), root);
    std::fs::create_dir_all(root.join("blobs")).expect("a folder");
    std::fs::write(repo.blob(&hash), "content").expect("a blob");
    assert_eq!(repo.snapshot("main"), None);
    for _ in 0..2 {
        repo.link(&commit, "config.json", &hash).expect("a link");
        repo.link(&commit, "text/deep/config.json", &hash).expect("a link");
        repo.write_ref("main", &commit).expect("a ref");
        repo.write_ref("refs/pr/1", &commit).expect("a ref");
        repo.write_ref(&commit, &commit).expect("nothing to record");
    }
    let snapshot = root.join("snapshots").join(&commit);
    for file in ["config.json", "text/deep/config.json"] {
        assert_eq!(std::fs::read_to_string(snapshot.join(file)).expect("a file"), "content");
    }
    let link = std::fs::read_link(snapshot.join("config.json")).expect("a link");
    assert_eq!(link, Path::new("../../blobs").join(&hash));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).expect("a ref"), commit);
    for revision in ["main", "refs/pr/1", &commit] {
        assert_eq!(repo.snapshot(revision), Some(snapshot.clone()), "{revision}");
    }
    // A ref that leads elsewhere is none.
    std::fs::write(root.join("refs/main"), "../../..").expect("a ref");
    assert_eq!((repo.snapshot("main"), repo.snapshot("other")), (None, None));
    let left: Vec<_> =
        std::fs::read_dir(&snapshot).expect("a folder").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
