//! ffmpeg, which decodes what this program does not: network cameras and video files. It writes MJPEG of the wanted size and
//! rate.
//!
//! Every option exists from ffmpeg 4.3 to 8. There are none for time limits of sockets, whose names and meanings differ between
//! versions: a silent ffmpeg is ended by the limits of the source. There is no `-hwaccel auto`: where no such decoder is, it
//! complains and costs time at each start, and it does not find those of small boards, which are codecs of their own
//! (`exec:ffmpeg -c:v h264_v4l2m2m …`).

use std::path::Path;
use std::time::Duration;

use super::address::{self, Address};
use super::command::Program;
use super::stream::Patience;
use super::uri::Video;
use super::{CaptureOptions, SourceError};
use crate::process::group::is_program;
use crate::secret::Credentials;

/// The program.
pub(crate) const FFMPEG: &str = "ffmpeg";

/// Advice if it is not installed.
const HINT: &str = "; network cameras and videos need it: `apt install ffmpeg`";

/// Time that a network camera gets for its first frame: connecting takes seconds, and decoding begins with a key frame, of which
/// some cameras send one in ten seconds.
pub(crate) const NETWORK_FIRST_FRAME: Duration = Duration::from_secs(25);

/// Time for each frame of a file: a disk may have to start, and a small board decodes large frames slowly.
const FILE_FRAME: Duration = Duration::from_secs(60);

/// Longest time that ffmpeg looks at a stream before it decodes, in microseconds: until the first key frame.
const ANALYZE_US: &str = "12000000";

/// Share of the time between two frames at the wanted rate after which a frame is let through: frames come with jitter, and a
/// camera of just that rate should lose none.
const GAP: f64 = 0.9;

/// What ffmpeg says, in whole words, and what to do about it.
const ADVICE: [(&str, &str); 12] = [
    ("401", LOGIN),
    ("Unauthorized", LOGIN),
    ("403", LOGIN),
    ("404", PATH),
    ("Not Found", PATH),
    ("454", PATH),
    ("Connection refused", HOST),
    ("No route to host", HOST),
    ("timed out", HOST),
    ("resolve", HOST),
    ("Protocol not found", "; this ffmpeg lacks the protocol: install another build of it"),
    ("Invalid data", "; there is no video that ffmpeg reads"),
];
pub(super) const LOGIN: &str = "; check user and password: in the address, or `user` and `password_file` in the section [capture] of the configuration";
pub(super) const PATH: &str = "; check the path of the address, which the camera's manual or settings name";
pub(super) const HOST: &str = "; check the host and the port of the address, and that the camera is on";

/// Returns whether ffmpeg is installed.
pub(crate) fn is_installed() -> bool {
    is_program(FFMPEG)
}

/// The program for a network camera.
pub(super) fn network(address: &Address, credentials: Option<&Credentials>, options: &CaptureOptions) -> Program {
    let mut input = vec!["-flags", "low_delay", "-fpsprobesize", "0", "-analyzeduration", ANALYZE_US];
    if address.scheme().starts_with("rtsp") {
        // By UDP, which is the default, pictures lose parts.
        input.extend(["-rtsp_transport", "tcp"]);
    }
    let mut secrets = address::secrets(credentials);
    let whole = address.with_login(credentials);
    if whole != address.to_string() {
        secrets.push(whole);
    }
    Program {
        words: words(&input, &address.with_login(credentials), Some(options), options),
        name: address.to_string(),
        hint: HINT,
        is_live: true,
        ends: false,
        patience: Patience { first: options.timeout.max(NETWORK_FIRST_FRAME), next: options.timeout },
        secrets,
        tidied,
        advice,
    }
}

/// The program for a video file.
///
/// # Errors
/// There is no such file.
pub(super) fn video(video: &Video, options: &CaptureOptions) -> Result<Program, SourceError> {
    let Video { path, every_frame } = video;
    // Not opened here: ffmpeg may read what this program does not, such as a pipe.
    std::fs::metadata(path).map_err(|error| SourceError::of_file(path, error))?;
    let input: &[&str] = if *every_frame { &[] } else { &["-re"] };
    Ok(Program {
        words: words(input, &format!("file:{}", path_text(path)?), (!every_frame).then_some(options), options),
        name: path.display().to_string(),
        hint: HINT,
        is_live: !every_frame,
        ends: true,
        patience: Patience { first: FILE_FRAME, next: FILE_FRAME },
        secrets: Vec::new(),
        tidied,
        advice,
    })
}

fn path_text(path: &Path) -> Result<&str, SourceError> {
    path.to_str().ok_or_else(|| SourceError::Network {
        name: path.display().to_string(),
        why: "the name is not UTF-8; rename the file".to_owned(),
    })
}

/// Program and arguments, with the options of the input; frames beyond the rate of `thinned` are left out.
fn words(input: &[&str], url: &str, thinned: Option<&CaptureOptions>, size: &CaptureOptions) -> Vec<String> {
    let CaptureOptions { width, height, .. } = size;
    // A file's own rate is of no interest: its frames are numbered.
    let (select, fps) = match thinned {
        None => (String::new(), 25),
        Some(CaptureOptions { fps, .. }) => {
            let gap = GAP / f64::from(*fps);
            let passes = format!("isnan(prev_selected_t)+lt(t,prev_selected_t)+gte(t-prev_selected_t,{gap:.5})");
            (format!("select='{passes}',"), *fps)
        }
    };
    // With times that are exact multiples of the rate, ffmpeg neither repeats nor drops a frame; the option that turns this off
    // has another name in every other version.
    let filters = format!(
        "{select}setpts=N/({fps}*TB),\
         scale=w='min({width},iw)':h='min({height},ih)':force_original_aspect_ratio=decrease"
    );
    let rate = fps.to_string();
    let before = [FFMPEG, "-nostdin", "-hide_banner", "-loglevel", "error"];
    let output =
        ["-an", "-sn", "-dn", "-vf", &filters, "-r", &rate, "-f", "mjpeg", "-q:v", "3", "-flush_packets", "1", "-"];
    before.iter().chain(input).chain(&["-i", url]).chain(&output).map(ToString::to_string).collect()
}

/// The words of ffmpeg without those that say which part of it speaks, as in `[rtsp @ 0x55e047af6a00] `: they differ each time, and
/// would make every failure look like a new one. Of the first of them only the end may be there.
fn tidied(said: String) -> String {
    let mut rest = said.as_str();
    let mut tidy = String::with_capacity(said.len());
    while let Some((before, after)) = rest.split_once(" @ 0x") {
        let Some(end) = after.find("] ") else { break };
        tidy.push_str(match before.rfind('[') {
            Some(start) => &before[..start],
            None if before == ":" => ": ",
            None => break,
        });
        rest = &after[end + 2..];
    }
    tidy + rest
}

/// What to do about the words of ffmpeg.
fn advice(said: &str) -> &'static str {
    ADVICE.iter().find(|(part, _)| has_words(said, part)).map_or("", |(_, advice)| advice)
}

/// Returns whether a text has these words. A part of an address is none: port 4010, or 404, is not an answer of a server.
fn has_words(text: &str, words: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || ":./-".contains(c);
    text.match_indices(words).any(|(at, _)| {
        let after = text[at + words.len()..].chars().next();
        !text[..at].ends_with(is_part) && !after.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;
    use crate::source::Uri;

    #[test]
    fn a_camera_is_thinned_and_scaled_and_its_password_not_told() {
        let options = CaptureOptions { width: 320, height: 240, fps: 5, ..CaptureOptions::default() };
        let program = |text: &str| {
            let Ok(Uri::Network(address)) = text.parse::<Uri>() else { panic!("{text}") };
            network(&address, address.credentials(), &options)
        };
        let camera = program("rtsp://me:hunter2@cam/1");
        let line = camera.words.join(" ");
        for part in [
            "ffmpeg -nostdin -hide_banner -loglevel error ",
            " -rtsp_transport tcp -i rtsp://me:hunter2@cam/1 -an ",
            "gte(t-prev_selected_t,0.18000)',setpts=N/(5*TB),scale=w='min(320,iw)':h='min(240,ih)':",
            " -r 5 -f mjpeg ",
        ] {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
        assert_eq!((camera.name.as_str(), camera.is_live, camera.ends), ("rtsp://cam/1", true, false));
        assert!(camera.secrets.contains(&"hunter2".to_owned()));
        let other = program("http://cam/live.m3u8").words.join(" ");
        assert!(!other.contains("rtsp_transport") && other.contains(" -i http://cam/live.m3u8 "), "{other}");
    }

    #[test]
    fn a_file_is_played_in_real_time_or_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("-a:b.mp4");
        std::fs::write(&path, "").unwrap();
        let line = |every_frame| {
            let program = video(&Video { path: path.clone(), every_frame }, &CaptureOptions::default()).unwrap();
            assert_eq!((program.is_live, program.ends), (!every_frame, true));
            program.words.join(" ")
        };
        let named = format!("-i file:{} -an", path.display());
        assert!(
            line(false).contains(&format!("error -re {named}")) && line(false).contains("select="),
            "{}",
            line(false)
        );
        assert!(line(true).contains(&format!("error {named}")) && !line(true).contains("select="), "{}", line(true));
        let missing = Video { path: "/nowhere/x.mp4".into(), every_frame: false };
        let error = video(&missing, &CaptureOptions::default()).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/x.mp4: not found"), "{error}");
    }

    #[test]
    fn parts_of_ffmpeg_are_not_named() {
        for (said, expected) in [
            ("", ""),
            (": [rtsp @ 0x55e0] DESCRIBE failed; [a,b @ 0x1] no; [x] y", ": DESCRIBE failed; no; [x] y"),
            (": @ 0x1] cut; [h264 @ 0x2] b", ": cut; b"),
            (": a @ 0x1] b", ": a @ 0x1] b"),
            (": [a @ 0x1", ": [a @ 0x1"),
        ] {
            assert_eq!(tidied(said.to_owned()), expected);
        }
    }

    #[test]
    fn known_failures_come_with_advice() {
        for (said, part) in [
            (": method DESCRIBE failed: 401 Unauthorized", "check user and password"),
            (": Server returned 404 Not Found", "check the path"),
            (": Server returned 403 Forbidden (access denied)", "check user and password"),
            (": method SETUP failed: 454 Session Not Found", "check the path"),
            (": Could not resolve hostname cam.404: no", "check the host"),
            (": Connection to tcp://cam:554 failed: Connection refused", "check the host and the port"),
            (": Connection to tcp://cam:404 failed: Connection refused", "check the host and the port"),
            (": Connection to tcp://cam-401:40135 failed: Connection refused", "check the host and the port"),
            (": 4010 frames of /454/403.mp4", ""),
            (": something else", ""),
        ] {
            assert!(advice(said).contains(part) && advice(said).is_empty() == part.is_empty(), "{said}");
        }
    }
}
