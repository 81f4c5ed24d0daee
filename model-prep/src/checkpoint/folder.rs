//! Finds the folder of a checkpoint: the given path, or a snapshot in a hub cache. For anything else that people pass,
//! the error says what it is and what to do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spotter_engine::files::folder_of;

use super::bounded;
use super::error::CheckpointError;

/// Size limit of `adapter_config.json`, which has a few dozen keys.
const ADAPTER_BYTES_MAX: u64 = 1 << 20;

/// Size limit of a ref, which holds a commit hash.
const REF_BYTES_MAX: u64 = 1 << 10;

/// Number of folders that a message lists.
const SHOWN_MAX: usize = 3;

/// Longest name out of a file that a message shows, in characters.
const NAME_CHARS_MAX: usize = 120;

/// Files that identify an OpenCLIP checkpoint.
const OPEN_CLIP_FILES: [&str; 4] = [
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
];

/// Returns the folder of the checkpoint at `path`: `path` itself if it has a `config.json`, else the only snapshot of a
/// hub cache.
pub(crate) fn locate(path: &Path) -> Result<PathBuf, CheckpointError> {
    let kind = std::fs::metadata(path).map_err(|source| CheckpointError::io(path, source))?;
    let refuse = |found: String| Err(CheckpointError::NotACheckpoint { path: path.to_owned(), found });
    if !kind.is_dir() {
        return refuse(describe_file(path));
    }
    if path.join("config.json").exists() {
        return Ok(path.to_owned());
    }
    let shown = path.display();
    if path.join("bundle.json").exists() {
        return refuse(format!(
            "a bundle, which is ready for `spotter run --bundle {shown}`; pass the checkpoint it was exported from"
        ));
    }
    if let Some(adapter) = adapter(path) {
        return refuse(adapter);
    }
    if OPEN_CLIP_FILES.iter().any(|name| path.join(name).exists()) {
        return refuse(
            "an OpenCLIP checkpoint (open_clip_config.json): convert it to transformers' format \
             (convert_open_clip_to_hf of transformers, or a copy on the hub with config.json), or export its towers to \
             ONNX and pass these with --vision-onnx and --text-onnx"
                .to_owned(),
        );
    }
    let snapshots = snapshots(path);
    match snapshots.as_slice() {
        [] => refuse(describe_folder(path)),
        [snapshot] => {
            log::warn!("{shown}: a hub cache; using its snapshot {}", snapshot.display());
            Ok(snapshot.clone())
        }
        several => refuse(format!("a hub cache: pass one of its snapshots, {}", list(several))),
    }
}

/// The folder that holds the model: `subfolder` of the checkpoint, or the checkpoint itself.
pub(crate) fn in_subfolder(checkpoint: PathBuf, subfolder: Option<PathBuf>) -> PathBuf {
    match subfolder {
        Some(folder) => checkpoint.join(folder),
        None => checkpoint,
    }
}

/// Describes the adapter in the folder and what to do with it; `None` if there is none.
pub(super) fn adapter(path: &Path) -> Option<String> {
    let config = path.join("adapter_config.json");
    let weights = ["adapter_model.safetensors", "adapter_model.bin"];
    if !config.exists() && !weights.iter().any(|name| path.join(name).exists()) {
        return None;
    }
    let config = bounded::read_at_most(&config, ADAPTER_BYTES_MAX).ok();
    let config: Value = config.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let base = config["base_model_name_or_path"].as_str().map(|name| {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        format!(" of {}", name.escape_debug())
    });
    let kind = match config["peft_type"].as_str() {
        Some("LORA") | None => "a LoRA adapter",
        Some(_) => "a PEFT adapter",
    };
    Some(format!(
        "{kind}{} without the model itself (adapter_config.json): merge it in Python, \
         `PeftModel.from_pretrained(base, ADAPTER).merge_and_unload()`, save that with `save_pretrained`, with tokenizer \
         and image processor, and pass that folder",
        base.unwrap_or_default()
    ))
}

/// Names of a folder's entries, sorted; empty if it cannot be read.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Describes a file that was passed instead of a folder, and what to do.
fn describe_file(path: &Path) -> String {
    let folder = folder_of(path);
    if folder.join("config.json").exists() {
        return format!("a file of a checkpoint: pass its folder, {}", folder.display());
    }
    match path.extension().and_then(OsStr::to_str) {
        Some("tar") => {
            "a .tar file: a bundle is ready for `spotter run --bundle`; anything else must be unpacked".to_owned()
        }
        Some("zip" | "gz" | "tgz" | "xz" | "zst" | "bz2" | "7z") => "an archive: unpack it".to_owned(),
        Some("onnx") => {
            "an ONNX file: pass the folder of its tokenizer, and the towers with --vision-onnx and --text-onnx"
                .to_owned()
        }
        Some("safetensors" | "bin" | "pt" | "pth" | "ckpt") => {
            "a weights file alone: pass a folder written by `save_pretrained`, with all its files".to_owned()
        }
        _ => "a file".to_owned(),
    }
}

/// Name of the folder `path`, after links are resolved; `None` for the root.
pub(crate) fn name_of(path: &Path) -> Option<String> {
    let absolute = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    absolute.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// Returns the model's name, without its owner, if `snapshot` is a snapshot folder of a hub cache.
pub(super) fn model_of_snapshot(snapshot: &Path) -> Option<&str> {
    let folder = snapshot.parent().filter(|folder| folder.ends_with("snapshots"))?;
    let model = folder.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    model.rsplit("--").next()
}

/// The snapshots in a hub cache of one model or of several: of each model the one that `main` refers to, else all.
fn snapshots(path: &Path) -> Vec<PathBuf> {
    if path.join("snapshots").is_dir() {
        return snapshots_of_model(path);
    }
    let models = |folder: &Path| -> Vec<PathBuf> {
        names(folder).iter().filter(|name| name.starts_with("models--")).map(|name| folder.join(name)).collect()
    };
    let mut found = models(path);
    // The layout of ~/.cache/huggingface.
    found.extend(models(&path.join("hub")));
    found.iter().flat_map(|model| snapshots_of_model(model)).collect()
}

/// The snapshots of one model: the one that `main` refers to, else all.
fn snapshots_of_model(model: &Path) -> Vec<PathBuf> {
    let folder = model.join("snapshots");
    let all: Vec<PathBuf> = names(&folder).iter().map(|name| folder.join(name)).collect();
    let all: Vec<PathBuf> = all.into_iter().filter(|snapshot| snapshot.join("config.json").exists()).collect();
    let main = bounded::read_at_most(&model.join("refs/main"), REF_BYTES_MAX).unwrap_or_default();
    let main = String::from_utf8(main).unwrap_or_default();
    let main: Vec<PathBuf> = all.iter().filter(|snapshot| snapshot.ends_with(main.trim())).cloned().collect();
    if main.len() == 1 { main } else { all }
}

/// Describes a folder that is not a checkpoint, and what to do.
fn describe_folder(path: &Path) -> String {
    let names = names(path);
    let inner: Vec<PathBuf> =
        names.iter().map(|name| path.join(name)).filter(|inner| inner.join("config.json").exists()).collect();
    if let Some(newest) = inner.iter().max_by_key(|inner| number(inner)) {
        return match inner.as_slice() {
            [only] => format!("a checkpoint in a subfolder: pass {}", only.display()),
            _ if number(newest).is_some() => {
                format!(
                    "several checkpoints in subfolders, {}: pass one, the newest is {}",
                    list(&inner),
                    newest.display()
                )
            }
            _ => format!("several checkpoints in subfolders: pass one of {}", list(&inner)),
        };
    }
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    if names.is_empty() {
        "an empty directory: download the checkpoint into it".to_owned()
    } else if ends(".onnx") {
        "ONNX files without config.json: pass the towers with --vision-onnx and --text-onnx".to_owned()
    } else if ends(".gguf") {
        "a GGUF model, which is for other programs: pass a checkpoint of transformers".to_owned()
    } else {
        "a directory without config.json: pass a folder written by `save_pretrained` or downloaded completely"
            .to_owned()
    }
}

/// The step number at the end of a trainer's folder name, such as `checkpoint-500`.
fn number(folder: &Path) -> Option<u64> {
    folder.file_name()?.to_str()?.rsplit_once('-')?.1.parse().ok()
}

/// Lists up to [`SHOWN_MAX`] paths.
fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().take(SHOWN_MAX).map(|path| path.display().to_string()).collect();
    let more = if paths.len() > SHOWN_MAX { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case<'a> {
        what: &'a str,
        /// Files to create, with their content.
        files: &'a [(&'a str, &'a str)],
        /// The path to locate, relative to the folder.
        path: &'a str,
        /// The folder that is found, or parts of the message.
        expected: Result<&'a str, &'a [&'a str]>,
    }

    fn check(case: &Case<'_>) {
        let Case { what, files, path, expected } = case;
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in *files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, content).expect("a file");
        }
        let path = folder.path().join(path);
        std::fs::create_dir_all(&path).ok();
        match (locate(&path), expected) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, folder.path().join(wanted), "{what}"),
            (Err(error), Err(parts)) => {
                let message = error.to_string();
                assert!(parts.iter().all(|part| message.contains(part)), "{what}: {parts:?} are not in {message}");
                assert!(!message.chars().any(char::is_control), "{what}: {message:?}");
            }
            (found, _) => panic!("{what}: {found:?}"),
        }
    }

    fn case(what: &str, files: &[(&str, &str)], path: &str, expected: Result<&str, &[&str]>) {
        check(&Case { what, files, path, expected });
    }

    #[test]
    fn paths_that_are_not_checkpoints_are_described() {
        let adapter = "{\"peft_type\": \"LORA\", \"base_model_name_or_path\": \"some/base\"}";
        let both = &[("config.json", "{}"), ("open_clip_config.json", "{}"), ("adapter_config.json", "{}")];
        case("a checkpoint, whatever else is in it", both, "", Ok(""));
        case("LoRA", &[("adapter_config.json", adapter)], "", Err(&["LoRA adapter of some/base", "merge_and_unload"]));
        case(
            "LoRA without a configuration",
            &[("adapter_model.bin", "")],
            "",
            Err(&["LoRA adapter", "merge_and_unload"]),
        );
        let wild = "{\"peft_type\": \"IA3\", \"base_model_name_or_path\": \"a\\u001bb\"}";
        case("another adapter", &[("adapter_config.json", wild)], "", Err(&["a PEFT adapter of a\\u{1b}b"]));
        case("OpenCLIP", &[("open_clip_config.json", "{}")], "", Err(&["OpenCLIP", "--vision-onnx"]));
        case("OpenCLIP's weights", &[("open_clip_pytorch_model.bin", "")], "", Err(&["OpenCLIP"]));
        case("a bundle", &[("bundle.json", "{}")], "", Err(&["a bundle", "spotter run --bundle"]));
        case("a bundle's archive", &[("x.tar", "")], "x.tar", Err(&["spotter run --bundle"]));
        case("an archive", &[("x.tar.gz", "")], "x.tar.gz", Err(&["unpack it"]));
        case("the weights", &[("a/config.json", "{}"), ("a/m.bin", "")], "a/m.bin", Err(&["pass its folder"]));
        case("weights alone", &[("m.safetensors", "")], "m.safetensors", Err(&["save_pretrained"]));
        case("nothing", &[], "", Err(&["an empty directory"]));
        case("ONNX", &[("model.onnx", "")], "", Err(&["--vision-onnx"]));
        case("something", &[("notes.txt", "")], "", Err(&["without config.json"]));
        case("one deeper", &[("run/checkpoint-5/config.json", "{}")], "run", Err(&["pass ", "run/checkpoint-5"]));
        let steps = &[("checkpoint-90/config.json", "{}"), ("checkpoint-500/config.json", "{}")];
        case("a training run", steps, "", Err(&["several", "the newest is", "checkpoint-500"]));
        let parts = &[("text_encoder/config.json", "{}"), ("unet/config.json", "{}")];
        case("parts", parts, "", Err(&["several", "text_encoder", "unet"]));
    }

    #[test]
    fn snapshots_are_named_after_their_model() {
        let check = |path: &str, expected| assert_eq!(model_of_snapshot(Path::new(path)), expected, "{path}");
        check("/hub/models--owner--a-model/snapshots/0123", Some("a-model"));
        check("/hub/models--model/snapshots/0123", Some("model"));
        check("/hub/models--owner--a-model/elsewhere/0123", None);
        check("/other/snapshots/0123", None);
        check("/", None);
    }

    #[test]
    fn snapshots_in_a_hub_cache_are_found() {
        let one = &[("models--a--b/snapshots/01/config.json", "{}"), ("models--a--b/refs/main", "01\n")];
        case("a model", one, "models--a--b", Ok("models--a--b/snapshots/01"));
        case("the cache", one, "", Ok("models--a--b/snapshots/01"));
        let home = &[("hub/models--a--b/snapshots/01/config.json", "{}")];
        case("the cache's home", home, "", Ok("hub/models--a--b/snapshots/01"));
        let old = &[
            ("models--a--b/snapshots/01/config.json", "{}"),
            ("models--a--b/snapshots/02/config.json", "{}"),
            ("models--a--b/refs/main", "02"),
        ];
        case("main", old, "models--a--b", Ok("models--a--b/snapshots/02"));
        case("no main", &old[..2], "models--a--b", Err(&["pass one of its snapshots", "snapshots/01", "snapshots/02"]));
        let two = &[("models--a--b/snapshots/01/config.json", "{}"), ("models--c--d/snapshots/02/config.json", "{}")];
        case("two models", two, "", Err(&["models--a--b/snapshots/01", "models--c--d/snapshots/02"]));
        let bare = &[("models--a--b/snapshots/01/README.md", "")];
        case("a snapshot of little", bare, "models--a--b", Err(&["without config.json"]));
    }
}
