//! Models by name, from a hub of our own on this machine that answers as the real one does: the list of files, small files
//! itself, large ones by a redirect to another host, ranges, errors with their codes.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use spotter_engine::hash::{Hasher, hex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_SecretOfTheTest";
const SIGNATURE: &str = "SignatureOfTheTest";

/// What the hub does wrong.
#[derive(Debug, Clone, PartialEq)]
enum Fault {
    /// Answers busy this many times.
    Busy { status: &'static str, times: usize },
    /// Sends only this many bytes of each large file at a time.
    Cut { bytes: usize },
    /// Sends only this many bytes once, and nothing at all after that.
    Dead { bytes: usize },
    /// Sends the whole file whatever part is asked for, and only these bytes of it the first time.
    NoRanges { bytes: usize },
    /// Changes a byte of the weights.
    Damaged,
    /// Announces one byte less than the weights have.
    Longer,
    /// Refuses every request with this status and code.
    Refused { status: &'static str, code: &'static str },
    /// Wants the token.
    Private,
    /// Sends the client to an address without TLS that is none.
    Astray { to: &'static str },
}

/// A request: the host's port, the path, and the values of `Authorization` and `Range`.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    is_hub: bool,
    path: String,
    authorization: Option<String>,
    range: Option<usize>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    fault: Option<Fault>,
    asked: Vec<Asked>,
}

/// A hub with the model `owner/model`. It ends with the test.
struct Hub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// A hub whose model has the files of `folder`.
    fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(inner) = folders.pop() {
            for entry in std::fs::read_dir(inner).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        files.insert("README.md".to_owned(), b"not needed".to_vec());
        files.insert("flax_model.msgpack".to_owned(), vec![7; 1000]);
        let state = Arc::new(Mutex::new(State { files, fault: None, asked: Vec::new() }));
        // Another port is another host.
        let (hub, store) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        let store_address = format!("http://{}", store.local_addr().unwrap());
        for (listener, is_hub) in [(hub, true), (store, false)] {
            let (state, store_address) = (Arc::clone(&state), store_address.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    // A client that is killed breaks its connection.
                    let _ = serve(&state, stream.unwrap(), is_hub, &store_address);
                }
            });
        }
        Self { endpoint, state }
    }

    fn fault(&self, fault: impl Into<Option<Fault>>) {
        let mut state = self.state.lock().unwrap();
        state.fault = fault.into();
        state.asked.clear();
    }

    fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// `model-prep` with this hub and a cache in `place`.
    fn model_prep(&self, place: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(e2e::program("model-prep"));
        command.args(arguments).current_dir(place).env("HF_ENDPOINT", &self.endpoint);
        command.env("HF_HOME", place.join("hf")).env("RUST_LOG", "debug").env("NO_PROXY", "*");
        for key in
            ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "HF_TOKEN_PATH"]
        {
            command.env_remove(key);
        }
        command
    }

    fn export(&self, place: &Path, name: &str) -> Output {
        self.model_prep(place, &["export", name, "--weights", "f32", "--out", "bundle"]).output().unwrap()
    }
}

/// Git's hash of a small file, SHA-256 of a large one.
fn blob_name(name: &str, bytes: &[u8]) -> String {
    if name.ends_with(".safetensors") {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        return hasher.finish_hex();
    }
    let mut hasher = <sha1::Sha1 as sha1::Digest>::new();
    sha1::Digest::update(&mut hasher, format!("blob {}\0", bytes.len()));
    sha1::Digest::update(&mut hasher, bytes);
    hex(&sha1::Digest::finalize(hasher))
}

fn serve(state: &Mutex<State>, stream: TcpStream, is_hub: bool, store: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((key, value)) = header.trim().split_once(": ") else { break };
        headers.insert(key.to_ascii_lowercase(), value.to_owned());
    }
    let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let authorization = headers.get("authorization").cloned();
    let mut state = state.lock().unwrap();
    let is_allowed = authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
    state.asked.push(Asked { is_hub, path: path.clone(), authorization, range });
    let mut stream = stream;
    let answer = |stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
        stream.write_all(body)
    };
    match &mut state.fault {
        Some(Fault::Busy { status, times }) if *times > 0 => {
            *times -= 1;
            return answer(&mut stream, status, "Retry-After: 0\r\n", b"");
        }
        Some(Fault::Refused { status, code }) => {
            return answer(&mut stream, status, &format!("X-Error-Code: {code}\r\n"), b"");
        }
        Some(Fault::Private) if is_hub && !is_allowed => {
            return answer(&mut stream, "401 Unauthorized", "X-Error-Code: RepoNotFound\r\n", b"");
        }
        _ => {}
    }
    let revision =
        path.strip_prefix("/api/models/owner/model/revision/").and_then(|rest| rest.strip_suffix("?blobs=true"));
    if let (true, Some(revision)) = (is_hub, revision) {
        if !["main", "v1", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return answer(&mut stream, "404 Not Found", "X-Error-Code: RevisionNotFound\r\n", b"");
        }
        return answer(&mut stream, "200 OK", "", description(&state).as_bytes());
    }
    let resolved = path.strip_prefix(&format!("/owner/model/resolve/{COMMIT}/"));
    if let (true, Some(name)) = (is_hub, resolved) {
        if let Some(Fault::Astray { to }) = state.fault {
            return answer(&mut stream, "302 Found", &format!("Location: {to}\r\n"), b"");
        }
        let location = if name.ends_with(".safetensors") {
            format!("{store}/{name}?signature={SIGNATURE}")
        } else {
            format!("/api/resolve-cache/{name}")
        };
        return answer(&mut stream, "307 Temporary Redirect", &format!("Location: {location}\r\n"), b"");
    }
    let name = match is_hub {
        true => path.strip_prefix("/api/resolve-cache/"),
        false => path.strip_prefix('/').and_then(|path| path.strip_suffix(&format!("?signature={SIGNATURE}"))),
    };
    let found = name.and_then(|name| Some((name.to_owned(), state.files.get(name)?.clone())));
    let Some((name, bytes)) = found else {
        return answer(&mut stream, "404 Not Found", "X-Error-Code: RepoNotFound\r\n", b"");
    };
    send(&mut state, &mut stream, &name, bytes, range)
}

/// The list of the model's files.
fn description(state: &State) -> String {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let (hash, mut size) = (blob_name(name, bytes), bytes.len());
        if name.ends_with(".safetensors") {
            size -= usize::from(state.fault == Some(Fault::Longer));
            format!(
                "{{\"rfilename\": \"{name}\", \"size\": {size}, \"blobId\": \"{}\", \"lfs\": {{\"sha256\": \"{hash}\", \"size\": \
                 {size}, \"pointerSize\": 134}}}}",
                "1".repeat(40)
            )
        } else {
            format!("{{\"rfilename\": \"{name}\", \"size\": {size}, \"blobId\": \"{hash}\"}}")
        }
    };
    let siblings: Vec<String> = state.files.iter().map(sibling).collect();
    format!(
        "{{\"id\": \"owner/model\", \"sha\": \"{COMMIT}\", \"gated\": false, \"siblings\": [{}]}}",
        siblings.join(", ")
    )
}

/// Sends a file, or what the fault leaves of it.
fn send(
    state: &mut State,
    stream: &mut TcpStream,
    name: &str,
    mut bytes: Vec<u8>,
    range: Option<usize>,
) -> std::io::Result<()> {
    let is_large = name.ends_with(".safetensors");
    if is_large && state.fault == Some(Fault::Damaged) {
        *bytes.last_mut().unwrap() ^= 1;
    }
    let total = bytes.len();
    let (status, from) = match (range, &state.fault) {
        (Some(from), fault) if !matches!(fault, Some(Fault::NoRanges { .. })) => ("206 Partial Content", from),
        _ => ("200 OK", 0),
    };
    let rest = &bytes[from..];
    let most = match &mut state.fault {
        Some(Fault::Cut { bytes }) if is_large => *bytes,
        Some(Fault::Dead { bytes } | Fault::NoRanges { bytes }) if is_large => {
            let is_dead = matches!(state.fault, Some(Fault::Dead { .. }));
            let most = *match &mut state.fault {
                Some(Fault::Dead { bytes } | Fault::NoRanges { bytes }) => bytes,
                _ => unreachable!(),
            };
            if let Some(Fault::Dead { bytes } | Fault::NoRanges { bytes }) = &mut state.fault {
                *bytes = if is_dead { 0 } else { usize::MAX };
            }
            most
        }
        _ => usize::MAX,
    };
    let part =
        if range.is_some() { format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1) } else { String::new() };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{part}\r\n", rest.len())?;
    stream.write_all(&rest[..rest.len().min(most)])
}

fn demo() -> PathBuf {
    e2e::root().join("model-prep/demo/checkpoint")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The lines that begin with `error: `.
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(output));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    lines[0].to_owned()
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

#[test]
fn a_model_is_downloaded_once_into_pythons_cache() {
    let (hub, place) = (Hub::of(&demo()), tempfile::tempdir().unwrap());
    let output = hub.export(place.path(), "owner/model");
    succeeded(&output);
    assert!(text(&output).contains("bundle: model,"), "{}", text(&output));
    let local = place.path().join("local");
    let mut command = hub.model_prep(place.path(), &["export", "--weights", "f32", "--name", "model", "--out"]);
    succeeded(&command.arg(&local).arg(demo()).output().unwrap());
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    for file in std::fs::read_dir(&local).unwrap() {
        let name = file.unwrap().file_name();
        let found = bytes(&place.path().join("bundle").join(&name));
        let mut expected = bytes(&local.join(&name));
        if name == "bundle.json" {
            // It says what it was made from.
            let text = String::from_utf8(expected).unwrap();
            expected = text.replace("\"checkpoint\": \"checkpoint\"", "\"checkpoint\": \"model\"").into_bytes();
        }
        assert!(found == expected, "{name:?} is not the same as from the folder");
    }
    // Weights once, nothing that is not read.
    let asked = hub.asked();
    for name in ["README.md", "flax_model.msgpack"] {
        assert!(!asked.iter().any(|asked| asked.path.contains(name)), "{asked:?}");
    }
    assert_eq!(asked.iter().filter(|asked| !asked.is_hub).count(), 1, "{asked:?}");
    let root = place.path().join("hf/hub/models--owner--model");
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let weights = root.join("snapshots").join(COMMIT).join("model.safetensors");
    let hash = blob_name("model.safetensors", &bytes(&demo().join("model.safetensors")));
    assert_eq!(std::fs::read_link(&weights).unwrap(), Path::new("../../blobs").join(hash));
    assert!(
        std::fs::read_dir(root.join("blobs"))
            .unwrap()
            .all(|blob| { !blob.unwrap().file_name().to_string_lossy().ends_with(".incomplete") })
    );
    // The second time only the list is asked for; offline not even that.
    hub.fault(None);
    succeeded(&hub.export(place.path(), "hf:owner/model@v1"));
    assert_eq!(hub.asked().len(), 1, "{:?}", hub.asked());
    hub.fault(None);
    let mut offline = hub.model_prep(place.path(), &["export", "owner/model", "--out", "offline.tar"]);
    succeeded(&offline.env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert_eq!(hub.asked(), []);
    let mut offline = hub.model_prep(place.path(), &["export", "owner/other", "--out", "offline.tar"]);
    let message = error(&offline.env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(message.contains("owner/other: not in the cache") && message.contains("HF_HUB_OFFLINE"), "{message}");
    // A hub that cannot be reached leaves what is in the cache.
    let mut unreachable = hub.model_prep(place.path(), &["verify", "bundle", "--checkpoint", "owner/model"]);
    let output = unreachable.env("HF_ENDPOINT", "http://127.0.0.1:9").output().unwrap();
    succeeded(&output);
    assert!(text(&output).contains("using what was downloaded before"), "{}", text(&output));
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (hub, place) = (Hub::of(&demo()), tempfile::tempdir().unwrap());
    hub.fault(Fault::Private);
    let message = error(&hub.export(place.path(), "owner/model"));
    assert!(message.contains("no such model, or it is private") && message.contains("HF_TOKEN"), "{message}");
    hub.fault(Fault::Private);
    std::fs::create_dir_all(place.path().join("hf")).unwrap();
    std::fs::write(place.path().join("hf/token"), format!("{TOKEN}\n")).unwrap();
    let output = hub.export(place.path(), "owner/model");
    succeeded(&output);
    for asked in hub.asked() {
        assert_eq!(asked.authorization.is_some(), asked.is_hub, "{asked:?}");
    }
    // Neither the token nor a signed address is shown, even in the most talkative log.
    assert!(text(&output).contains("DEBUG"), "{}", text(&output));
    for secret in [TOKEN, SIGNATURE] {
        assert!(!text(&output).contains(secret), "{secret} is shown");
    }
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_ended() {
    let (hub, place) = (Hub::of(&demo()), tempfile::tempdir().unwrap());
    let size = std::fs::metadata(demo().join("model.safetensors")).unwrap().len() as usize;
    let from = || hub.asked().into_iter().filter(|asked| !asked.is_hub).map(|asked| asked.range).collect::<Vec<_>>();
    // Three times in one run.
    let piece = size / 3 - 1;
    hub.fault(Fault::Cut { bytes: piece });
    succeeded(&hub.export(place.path(), "owner/model"));
    assert_eq!(from(), [None, Some(piece), Some(2 * piece), Some(3 * piece)]);
    // Over several runs.
    let other = tempfile::tempdir().unwrap();
    hub.fault(Fault::Dead { bytes: piece });
    let message = error(&hub.export(other.path(), "owner/model"));
    assert!(message.contains("model.safetensors") && message.contains("goes on from there"), "{message}");
    hub.fault(None);
    succeeded(&hub.export(other.path(), "owner/model"));
    assert_eq!(from(), [Some(piece)]);
    // A server without ranges sends all of it again.
    let third = tempfile::tempdir().unwrap();
    hub.fault(Fault::NoRanges { bytes: piece });
    succeeded(&hub.export(third.path(), "owner/model"));
    assert_eq!(from(), [None, Some(piece)]);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let (hub, place) = (Hub::of(&demo()), tempfile::tempdir().unwrap());
    for status in ["503 Service Unavailable", "429 Too Many Requests"] {
        hub.fault(Fault::Busy { status, times: 3 });
        succeeded(&hub.export(place.path(), "owner/model"));
        hub.fault(Fault::Busy { status, times: 99 });
        let message = error(&hub.export(place.path(), "owner/model"));
        let expected = if status.starts_with("429") { "too many requests" } else { "503 Service Unavailable" };
        assert!(message.contains(expected), "{message}");
        assert_eq!(hub.asked().len(), 5, "{status}");
    }
}

#[test]
fn what_the_hub_refuses_or_sends_wrong_is_said_with_what_to_do() {
    let (hub, place) = (Hub::of(&demo()), tempfile::tempdir().unwrap());
    let refused = |status, code| Fault::Refused { status, code };
    for (what, name, fault, parts) in [
        (
            "gated",
            "owner/model",
            Some(refused("403 Forbidden", "GatedRepo")),
            &["is gated", "/owner/model", "HF_TOKEN"][..],
        ),
        ("missing", "owner/missing", None, &["owner/missing", "no such folder here", "no such model"]),
        ("revision", "owner/model@v2", None, &["owner/model", "no branch, tag or commit `v2`"]),
        ("broken", "owner/model", Some(refused("400 Bad Request", "")), &["expected status 200, found 400"]),
        ("damaged", "owner/model", Some(Fault::Damaged), &["model.safetensors", "expected the hash", "run it again"]),
        ("longer", "owner/model", Some(Fault::Longer), &["model.safetensors", "bytes", "found more"]),
        ("astray", "owner/model", Some(Fault::Astray { to: "file:///etc/passwd" }), &["redirect"]),
        ("in circles", "owner/model", Some(Fault::Astray { to: "/owner/model/resolve/x" }), &["no such model"]),
        ("no name", "hf:owner", None, &["no such model"]),
        ("no name", "hf:a/b/c", None, &["OWNER/NAME"]),
    ] {
        hub.fault(fault);
        let message = error(&hub.export(place.path(), name));
        assert!(parts.iter().all(|part| message.contains(part)), "{what}: {message}");
        assert!(!place.path().join("bundle").exists(), "{what}");
    }
    // What was damaged is not kept.
    hub.fault(None);
    succeeded(&hub.export(place.path(), "owner/model"));
    assert!(hub.asked().iter().all(|asked| asked.range.is_none()), "{:?}", hub.asked());
}
