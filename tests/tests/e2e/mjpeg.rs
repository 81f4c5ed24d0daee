//! Streams as cameras send them, made by ffmpeg, on standard input: which frames are labelled, and their pixels.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Done, Place, finish, lines};

const WIDTH: usize = 320;
const HEIGHT: usize = 240;
const FRAMES: usize = 12;

/// Tolerance of a sample without chroma subsampling: both decoders round, in different places.
const WORST: u8 = 4;

/// Tolerance of the mean where chroma is interpolated, which each decoder does in its own way.
const MEAN: f64 = 2.0;

/// Runs ffmpeg and returns its standard output; `None` if ffmpeg is missing, which is an error in CI.
fn ffmpeg(arguments: &str, input: Option<&Path>) -> Option<Vec<u8>> {
    let stdin = input.map_or_else(Stdio::null, |path| File::open(path).unwrap().into());
    let output = Command::new("ffmpeg").args(["-v", "error"]).args(arguments.split(' ')).stdin(stdin).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            assert!(!e2e::is_ci(), "ffmpeg: {error}; install it");
            println!("skipped: no ffmpeg here ({error})");
            return None;
        }
    };
    assert!(output.status.success(), "ffmpeg {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

/// A moving picture, as MJPEG with this pixel format in this container.
fn recorded(pixels: &str, container: &str) -> Option<Vec<u8>> {
    let picture = format!("-f lavfi -i testsrc2=size={WIDTH}x{HEIGHT}:rate=3 -frames:v {FRAMES}");
    let coding = "-c:v mjpeg -huffman default -q:v 3 -flags +bitexact";
    ffmpeg(&format!("{picture} {coding} -pix_fmt {pixels} -f {container} -"), None)
}

/// The frames of a stream without anything between them.
fn frames(stream: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<_> =
        stream.windows(3).enumerate().filter(|(_, w)| w == &[0xFF, 0xD8, 0xFF]).map(|(i, _)| i).collect();
    let ends = starts.iter().skip(1).copied().chain([stream.len()]);
    let frames: Vec<_> = starts.iter().zip(ends).map(|(start, end)| stream[*start..end].to_vec()).collect();
    assert_eq!(frames.len(), FRAMES);
    frames
}

/// The frame without its Huffman tables, as webcams send it.
fn without_tables(frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..2].to_vec();
    let mut at = 2;
    loop {
        let end = at + 2 + usize::from(u16::from_be_bytes([frame[at + 2], frame[at + 3]]));
        match frame[at + 1] {
            0xC4 => {}
            0xDA => break,
            _ => out.extend(&frame[at..end]),
        }
        at = end;
    }
    assert!(at > out.len(), "the frame had tables");
    out.extend(&frame[at..]);
    out
}

/// Pseudorandom numbers, the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// Random bytes, many of which start markers.
    fn garbage(&mut self) -> Vec<u8> {
        let length = self.below(5000);
        (0..length).map(|_| if self.below(8) == 0 { 0xFF } else { self.below(256) as u8 }).collect()
    }
}

fn run(place: &Place, stream: &Path) -> Done {
    let done = finish(place.spotter("run --source - --output json").stdin(File::open(stream).unwrap()));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

/// The pixels of one frame of a stream.
fn pixels(place: &Place, stream: &Path, number: usize) -> Vec<u8> {
    let arguments = format!("snapshot --source - --skip {number} picture.ppm");
    let done = finish(place.spotter(&arguments).stdin(File::open(stream).unwrap()));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let picture = image::open(place.at("picture.ppm")).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (WIDTH as u32, HEIGHT as u32));
    picture.into_raw()
}

#[test]
fn pixels_are_those_that_ffmpeg_decodes() {
    for format in ["yuvj444p", "yuvj422p", "yuvj420p", "gray"] {
        let place = Place::new();
        let Some(stream) = recorded(format, "mjpeg") else { return };
        let stripped: Vec<_> = frames(&stream).iter().flat_map(|frame| without_tables(frame)).collect();
        let path = place.write("stream.mjpeg", &stream);
        let bare = place.write("bare.mjpeg", stripped);
        let decoding = "-f mjpeg -i - -vf scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp";
        let expected = ffmpeg(&format!("{decoding} -f rawvideo -pix_fmt rgb24 -"), Some(&path)).unwrap();
        let (mut worst, mut sum) = (0, 0.0);
        for (number, expected) in expected.chunks(WIDTH * HEIGHT * 3).enumerate() {
            let found = pixels(&place, &path, number);
            assert!(found == pixels(&place, &bare, number), "{format}, frame {number}: the tables are the standard's");
            let off = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
            worst = worst.max(off.clone().max().unwrap());
            sum += off.map(f64::from).sum::<f64>();
        }
        assert_eq!(expected.len(), FRAMES * WIDTH * HEIGHT * 3);
        let mean = sum / expected.len() as f64;
        println!("{format}: off by at most {worst}, {mean:.3} on average");
        assert!(mean <= MEAN && (worst <= WORST || format.contains("42")), "{format}: {worst}, {mean}");
    }
}

#[test]
fn complete_frames_survive_garbage_between_them() {
    let place = Place::new();
    let (Some(stream), Some(multipart)) = (recorded("yuvj422p", "mjpeg"), recorded("yuvj422p", "mpjpeg")) else {
        return;
    };
    let good = frames(&stream);
    let path = place.write("good.mjpeg", stream);
    let expected = lines(&run(&place, &path));
    assert_eq!(expected.len(), FRAMES);
    let differ = expected.windows(2).all(|pair| pair[0].labels != pair[1].labels);
    assert!(differ, "the frames can be told apart by their scores");

    let check = |what: &str, stream: Vec<u8>, survivors: &[usize]| {
        let path = place.write("stream.mjpeg", stream);
        let found = lines(&run(&place, &path));
        assert_eq!(found.len(), survivors.len(), "{what}");
        for (number, (line, original)) in found.iter().zip(survivors).enumerate() {
            assert_eq!(line.frame, Some(number as u64), "{what}");
            assert!(line.labels == expected[*original].labels, "{what}: frame {number} is not number {original}");
        }
        let last = survivors.len() - 1;
        assert!(pixels(&place, &path, last) == pixels(&place, &place.at("good.mjpeg"), survivors[last]), "{what}");
    };

    // Found among them, in order: a frame whose pixels are cut off is shown as far as it goes, as by other decoders.
    let check_among = |what: &str, stream: Vec<u8>, survivors: &[usize]| {
        let path = place.write("stream.mjpeg", stream);
        let done = run(&place, &path);
        let found = lines(&done);
        assert!(found.len() <= FRAMES, "{what}");
        let mut rest = found.iter();
        for original in survivors {
            assert!(rest.any(|line| line.labels == expected[*original].labels), "{what}: number {original} is missing");
        }
    };

    let all: Vec<_> = (0..FRAMES).collect();
    let mut chance = Chance(1);
    check("multipart", multipart, &all);
    check("no tables", good.iter().flat_map(|frame| without_tables(frame)).collect(), &all);
    let garbage = good.iter().flat_map(|frame| [chance.garbage(), frame.clone()].concat()).collect();
    check("garbage between frames", garbage, &all);
    // The start of an image, and a segment that seems to extend over the following frames.
    let lies = good.iter().flat_map(|frame| [&[0xFF, 0xD8, 0xFF, 0xE0, 0xFF, 0xFF], &frame[..]].concat()).collect();
    check("false starts", lies, &all);
    let survivors: Vec<_> = all.iter().copied().filter(|number| number % 3 != 1).collect();
    for _ in 0..5 {
        let cut = |(number, frame): (usize, &Vec<u8>)| {
            let whole = if survivors.contains(&number) { frame.len() } else { 3 + chance.below(frame.len() - 4) };
            frame[..whole].to_vec()
        };
        let truncated = good.iter().enumerate().flat_map(cut).collect();
        check_among("truncated frames", truncated, &survivors);
    }
    let everything = good.iter().enumerate().flat_map(|(number, frame)| {
        let frame = without_tables(frame);
        let whole = if survivors.contains(&number) { frame.len() } else { 3 + chance.below(frame.len() - 4) };
        [&frame[..whole], b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n"].concat()
    });
    check_among("everything", everything.collect(), &survivors);

    // Without end markers, and with stray bytes before a segment of each.
    let open: Vec<_> = good.iter().map(|frame| frame[..frame.len() - 2].to_vec()).collect();
    check("no end markers", open.concat(), &all);
    let stray = |frame: &Vec<u8>| {
        let at = 4 + usize::from(u16::from_be_bytes([frame[4], frame[5]]));
        [&frame[..at], b"\0\0stray", &frame[at..]].concat()
    };
    check("stray bytes", open.iter().map(stray).collect::<Vec<_>>().concat(), &all);
}

#[test]
fn skipped_parts_of_a_stream_are_counted() {
    let place = Place::new();
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&crate::harness::drawn(1)).unwrap();
    for (name, stream, frames, left_out, what) in [
        ("whole", jpeg.repeat(3), 3, 0, "broken"),
        ("no ends", jpeg[..jpeg.len() - 2].repeat(3), 3, 0, "broken"),
        ("a header cut off", [&jpeg[..30], &jpeg[..], &jpeg[..30], &jpeg[..]].concat(), 2, 2, "broken JPEG frames"),
        ("garbage", [&b"\x80\x81\x82"[..], &jpeg].concat(), 1, 3, "bytes between frames"),
        ("the last one cut off", [&jpeg[..], &jpeg[..30]].concat(), 1, 1, "broken JPEG frames"),
    ] {
        let path = place.write("stream.mjpeg", stream);
        let output = place.spotter("run --source - --output json").stdin(File::open(path).unwrap()).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.matches("\"labels\"").count(), frames, "{name}: {stdout}");
        // In one event, or in one at once and one at the end.
        let told: Vec<_> = stdout.lines().filter(|line| line.contains("frames_skipped")).collect();
        let counts = told.iter().map(|line| {
            let (_, count) = line.split(what).next().unwrap().trim_end().rsplit_once(' ').unwrap();
            count.parse::<u64>().unwrap_or_else(|_| panic!("{name}: {line}"))
        });
        assert_eq!(counts.sum::<u64>(), left_out, "{name}: {told:?}");
    }
}
