use spotter_engine::picture::jpeg_marker::{APP2, COM, SOI};

use super::*;

const MAX: usize = 4096;

/// A marker segment with its length.
fn segment(code: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, code], &len[..], content].concat()
}

/// A syntactically valid JPEG: `headers`, then a scan with stuffed bytes and a restart marker.
fn jpeg(headers: &[Vec<u8>], scan: &[u8]) -> Vec<u8> {
    let sos = segment(SOS, &[1, 1, 0, 0, 63, 0]);
    [&[0xFF, SOI], &headers.concat()[..], &sos, scan, &[0xFF, EOI]].concat()
}

fn plain(fill: u8) -> Vec<u8> {
    jpeg(&[segment(0xDB, &[fill; 65])], &[fill, 0xFF, 0x00, fill, 0xFF, 0xD0, fill])
}

/// Feeds `stream` in pieces of varying size; returns the images and what was skipped.
fn split(stream: &[u8], seed: u64) -> (Vec<Vec<u8>>, Skipped) {
    split_within(MAX, stream, seed)
}

/// As [`split`], with images of up to `max_frame_bytes`.
fn split_within(max_frame_bytes: usize, stream: &[u8], seed: u64) -> (Vec<Vec<u8>>, Skipped) {
    let mut splitter = Splitter::new(max_frame_bytes);
    let (mut frames, mut frame, mut rest, mut random) = (Vec::new(), Vec::new(), stream, seed);
    while !rest.is_empty() {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let most = if seed == 0 { 1 } else { 1 << (random >> 60) };
        let (piece, after) = rest.split_at(rest.len().min(most));
        splitter.push(piece);
        rest = after;
        while splitter.take_frame(&mut frame) {
            frames.push(frame.clone());
        }
    }
    while splitter.take_last(&mut frame) {
        frames.push(frame.clone());
    }
    (frames, splitter.take_skipped().unwrap_or_default())
}

/// Expects that many broken images and bytes between images.
fn check(name: &str, stream: &[Vec<u8>], expected: &[Vec<u8>], images: u64, bytes: u64) {
    for seed in 0..40 {
        let (frames, skipped) = split(&stream.concat(), seed);
        assert_eq!(frames, expected, "{name}, pieces {seed}");
        assert_eq!((skipped.images, skipped.bytes), (images, bytes), "{name}, pieces {seed}");
    }
}

/// The image without its end marker.
fn open_ended(image: &[u8]) -> Vec<u8> {
    image.strip_suffix(&[0xFF, EOI]).unwrap().to_vec()
}

/// The image with `stray` bytes before segment `number`, counted from 0.
fn with_stray(image: &[u8], number: usize, stray: &[u8]) -> Vec<u8> {
    let mut at = 2;
    for _ in 0..number {
        at += 2 + usize::from(u16::from_be_bytes([image[at + 2], image[at + 3]]));
    }
    [&image[..at], stray, &image[at..]].concat()
}

#[test]
fn images_are_found_in_any_pieces() {
    let (a, b) = (plain(1), plain(2));
    let thumbnail = jpeg(&[segment(0xE1, &plain(3)), segment(0xE0, &[0xFF, EOI, 0xFF, SOI, 0xFF])], &[4]);
    let progressive =
        [&jpeg(&[], &[5])[..plain(5).len().min(13)], &segment(0xC4, &[6; 20]), &segment(SOS, &[7]), &[8, 0xFF, EOI]]
            .concat();
    let filled = [&[0xFF, SOI, 0xFF, 0xFF, 0xFF][..], &segment(0xDB, &[1; 9])[1..], &[0xFF, 0xFF, EOI]].concat();
    let boundary = b"\r\n--boundary\r\nContent-Type: image/jpeg\r\nContent-Length: 93\r\n\r\n".to_vec();
    let dnl = [&open_ended(&a)[..], &segment(0xDC, &[0, 16]), &[0xFF, EOI]].concat();
    let bare = [&[0xFF, SOI, 7, 7][..], &a[2..]].concat();

    check("none", &[], &[], 0, 0);
    check("one", std::slice::from_ref(&a), std::slice::from_ref(&a), 0, 0);
    check("two", &[a.clone(), b.clone()], &[a.clone(), b.clone()], 0, 0);
    check("thumbnail", &[thumbnail.clone(), a.clone()], &[thumbnail.clone(), a.clone()], 0, 0);
    check("progressive", &[progressive.clone(), a.clone()], &[progressive.clone(), a.clone()], 0, 0);
    check("number of lines", &[dnl.clone(), a.clone()], &[dnl, a.clone()], 0, 0);
    check("fill bytes", &[filled.clone(), a.clone()], &[filled, a.clone()], 0, 0);
    check("padding", &[a.clone(), vec![0; 3000], b.clone(), vec![0xFF; 7]], &[a.clone(), b.clone()], 0, 3000);
    check("stray at once", &[bare.clone(), bare.clone()], &[bare.clone(), bare], 0, 0);
    let multipart = [boundary.clone(), a.clone(), boundary.clone(), b.clone()];
    check("multipart", &multipart, &[a.clone(), b.clone()], 0, 0);
    check("garbage", &[b"\x80\x81rest".to_vec(), a.clone()], std::slice::from_ref(&a), 0, 6);

    for (name, image) in [("plain", &a), ("thumbnail", &thumbnail), ("progressive", &progressive)] {
        let open = open_ended(image);
        let stream = [open.clone(), open.clone(), b.clone(), open.clone()];
        check(name, &stream, &[image.clone(), image.clone(), b.clone(), image.clone()], 0, 0);
        for stray in [&b"\0"[..], b"\r\n", b"abc", &[0; 7], b"\xFF\0\x11", b"\xFF\x02\x33"] {
            for number in 0..=1 {
                let stray = with_stray(image, number, stray);
                let stream = [stray.clone(), stray.clone(), b.clone(), open_ended(&stray)];
                check(name, &stream, &[stray.clone(), stray.clone(), b.clone(), stray], 0, 0);
            }
        }
    }
    // A multipart stream without end markers: bytes between two images belong to the first.
    let part = |image: &[u8]| [&open_ended(image)[..], &boundary].concat();
    let ended = [part(&a), vec![0xFF, EOI]].concat();
    check("multipart without ends", &[part(&a), part(&a), b.clone()], &[ended.clone(), ended, b], 0, 0);
}

#[test]
fn broken_images_are_skipped() {
    let (a, b) = (plain(1), plain(2));
    let whole = [b.clone(), a.clone(), b.clone()];
    let pixels = a.len() - 2 - 7;
    for cut in 3..a.len() {
        let stream = [&a[..cut], &whole.concat()].concat();
        for seed in 0..4 {
            let (frames, skipped) = split(&stream, seed);
            // The decoder judges images whose pixels are truncated.
            let is_kept = cut >= pixels;
            assert_eq!(frames[usize::from(is_kept)..], whole, "cut at {cut}");
            assert_eq!(skipped.images, u64::from(!is_kept), "cut at {cut}");
        }
    }
    let short = vec![0xFF, SOI, 0xFF, 0xDB, 0, 1];
    check("segment of 1 byte", &[short, a.clone()], std::slice::from_ref(&a), 1, 0);
    check("no marker", &[vec![0xFF, SOI, 0xFF, 0x00, 7], a.clone()], std::slice::from_ref(&a), 1, 0);
    check("starts only", &[[0xFF, SOI].repeat(50), a.clone()], std::slice::from_ref(&a), 50, 0);
    // A segment length that reaches beyond the images that follow.
    let lie = vec![0xFF, SOI, 0xFF, 0xE0, 0x0A, 0x00];
    let many: Vec<_> = std::iter::once(lie.clone()).chain(std::iter::repeat_n(a.clone(), 60)).collect();
    check("lie", &many, &many[1..], 1, 0);
    check("lie to the end", &many[..6], &many[1..6], 1, 0);
    check("lies", &[lie.clone(), a.clone(), lie.clone(), b.clone()], &[a.clone(), b.clone()], 2, 0);
    let within = jpeg(&[segment(0xE1, &a)], &[4]);
    let cut_within = within[..within.len() - 40].to_vec();
    // The thumbnail begins an image as well, which is cut too.
    check("cut, with a thumbnail", &[cut_within, b.clone()], std::slice::from_ref(&b), 2, 0);
}

/// The image with an index of images at these offsets from its start.
fn with_index(image: &[u8], offsets: &[u32]) -> Vec<u8> {
    let mut tiff = b"II*\0\x08\0\0\0\x01\0\x02\xB0\x07\0".to_vec();
    tiff.extend((16 * (offsets.len() + 1) as u32).to_le_bytes());
    tiff.extend([26, 0, 0, 0, 0, 0, 0, 0]);
    // The header starts 10 bytes after the image: SOI, marker, length, `MPF\0`.
    for offset in std::iter::once(0).chain(offsets.iter().map(|offset| offset - 10)) {
        tiff.extend([[0; 8], [0; 8]].concat());
        let at = tiff.len() - 8;
        tiff[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    }
    let segment = segment(APP2, &[b"MPF\0", &tiff[..]].concat());
    [&image[..2], &segment, &image[2..]].concat()
}

#[test]
fn images_that_belong_to_another_are_skipped() {
    let (a, b, c) = (plain(1), plain(2), plain(3));
    let len = with_index(&a, &[1000]).len() as u32;
    let one = with_index(&a, &[len]);
    check("one", &[one.clone(), b.clone(), c.clone()], &[one.clone(), c.clone()], 0, 0);
    check("twice", &[one.clone(), b.clone(), one.clone(), b.clone()], &[one.clone(), one.clone()], 0, 0);
    let len = with_index(&a, &[1000, 2000]).len() as u32;
    let two = with_index(&a, &[len, len + b.len() as u32]);
    check("two", &[two.clone(), b.clone(), b.clone(), c.clone()], &[two, c.clone()], 0, 0);
    // An image at another offset than the index says stands for itself.
    check("not there", &[one.clone(), vec![0; 4], b.clone()], &[one.clone(), b.clone()], 0, 0);
    let far = with_index(&a, &[u32::MAX]);
    check("far", &[far.clone(), b.clone()], &[far, b], 0, 0);
    for cut in 0..one.len() {
        split(&one[..cut], 1);
    }
}

#[test]
fn pieces_make_no_difference_once_the_budget_is_spent() {
    const LEVELS: u64 = 100;
    let a = plain(1);
    // Nested segments of 60,000 bytes that all end in stray bytes: each would be searched whole.
    let level = [0xFF, SOI, 0xFF, 0xE1, 0xEA, 0x60];
    let stream = [level.repeat(LEVELS as usize), vec![7; 61_000], a.clone(), vec![0; 200_000], a.clone()].concat();
    let (frames, skipped) = split_within(1 << 20, &stream, 0);
    assert_eq!(frames, [a.clone(), a]);
    assert!((2..LEVELS).contains(&skipped.images), "{skipped:?}");
    for seed in 1..8 {
        assert_eq!(split_within(1 << 20, &stream, seed), (frames.clone(), skipped.clone()), "pieces {seed}");
    }
    // As many starts as fit, in segments that all reach beyond the end.
    let starts = [0xFF, SOI, 0xFF, 0xE0, 0xFF, 0xFF].repeat(10_000);
    let (frames, skipped) = split_within(1 << 20, &starts, 0);
    assert!(frames.is_empty());
    assert_eq!(split_within(1 << 20, &starts, 1), (frames, skipped));
}

#[test]
fn time_is_linear_in_the_bytes() {
    // Searched again from each start, these would take minutes.
    let mut random = 1_u64;
    let mut chance = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as u8
    };
    let noise: Vec<u8> = (0..4 << 20)
        .map(|_| if chance() < 64 { 0xFF } else { [SOI, EOI, SOS, 0xE0, 0xDB, 0][chance() as usize % 6] })
        .collect();
    let repeated = |bytes: &[u8]| [&[0xFF, SOI], &bytes.repeat((4 << 20) / bytes.len())[..]].concat();
    for (name, stream) in [
        ("nested", repeated(&[0xFF, 0xE0, 0, 8, 0xFF, SOI, 0xFF, 0xE0, 0, 2])),
        ("lies", repeated(&[0xFF, SOI, 0xFF, 0xE0, 0xFF, 0xFF])),
        ("long lies", repeated(&[0xFF, SOI, 0xFF, 0xE1, 0x7F, 0xFF, 7])),
        ("comments", repeated(&[0xFF, COM, 0, 7, 0xFF, SOI, 0xFF, COM, 0xFF])),
        ("starts", repeated(&[0xFF, SOI])),
        ("fill", repeated(&[0xFF])),
        ("stray", repeated(&[7])),
        ("empty images", repeated(&[0xFF, EOI, 0xFF, SOI])),
        ("scans", repeated(&[0xFF, SOS, 0, 2])),
        ("tables", repeated(&[0xFF, 0xDB, 0xFF, 0xFF])),
        ("noise", noise),
    ] {
        let start = std::time::Instant::now();
        let mut splitter = Splitter::new(32 << 20);
        let mut frame = Vec::new();
        for piece in stream.chunks(64 << 10) {
            splitter.push(piece);
            while splitter.take_frame(&mut frame) {}
        }
        while splitter.take_last(&mut frame) {}
        // A tenth of a second; twenty times that is still far from minutes.
        assert!(start.elapsed().as_secs() < 20, "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn memory_is_bounded() {
    let a = plain(1);
    let large = jpeg(&[], &[9; MAX]);
    check("large", &[large.clone(), a.clone()], std::slice::from_ref(&a), 1, 0);
    let thumbnail = jpeg(&[segment(0xE1, &[&plain(3)[..], &[9; MAX]].concat())], &[4]);
    check("large segment", &[thumbnail, a.clone()], std::slice::from_ref(&a), 1, 0);
    let endless = jpeg(&[], &[9; 100 * MAX]);
    let mut splitter = Splitter::new(MAX);
    for piece in endless.chunks(1000) {
        splitter.push(piece);
        assert!(!splitter.take_frame(&mut Vec::new()));
        assert!(splitter.buffer.len() <= MAX + 2000);
    }
}

#[test]
fn any_bytes_are_safe() {
    let interesting = [0xFF, 0xFF, SOI, EOI, SOS, 0xDB, 0x00, 0x02, 0xD0, 0xE1, 7];
    let mut random = 1_u64;
    for round in 0..200 {
        let stream: Vec<u8> = (0..2000)
            .map(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                interesting[(random >> 33) as usize % interesting.len()]
            })
            .collect();
        let (frames, skipped) = split(&stream, round);
        assert_eq!(split(&stream, round + 1), (frames.clone(), skipped));
        assert!(frames.iter().all(|frame| frame.starts_with(&[0xFF, SOI]) && frame.ends_with(&[0xFF, EOI])));
    }
}
