use super::*;

const MAX: usize = 4096;

/// A marker segment with its length.
fn segment(code: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, code], &len[..], content].concat()
}

/// A JPEG in form: `headers`, then a scan with stuffed bytes and a restart marker.
fn jpeg(headers: &[Vec<u8>], scan: &[u8]) -> Vec<u8> {
    let sos = segment(SOS, &[1, 1, 0, 0, 63, 0]);
    [&[0xFF, SOI], &headers.concat()[..], &sos, scan, &[0xFF, EOI]].concat()
}

fn plain(fill: u8) -> Vec<u8> {
    jpeg(&[segment(0xDB, &[fill; 65])], &[fill, 0xFF, 0x00, fill, 0xFF, 0xD0, fill])
}

/// Feeds `stream` in pieces of changing size; gives the images and the garbage.
fn split(stream: &[u8], seed: u64) -> (Vec<Vec<u8>>, u64) {
    let mut splitter = Splitter::new(MAX);
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
    (frames, splitter.garbage_bytes())
}

fn check(name: &str, stream: &[Vec<u8>], expected: &[Vec<u8>], garbage: u64) {
    for seed in 0..40 {
        assert_eq!(split(&stream.concat(), seed), (expected.to_vec(), garbage), "{name}, pieces {seed}");
    }
}

#[test]
fn images_are_found_whatever_the_pieces() {
    let (a, b) = (plain(1), plain(2));
    let thumbnail = jpeg(&[segment(0xE1, &plain(3)), segment(0xE0, &[0xFF, EOI, 0xFF, SOI, 0xFF])], &[4]);
    let progressive =
        [&jpeg(&[], &[5])[..plain(5).len().min(13)], &segment(0xC4, &[6; 20]), &segment(SOS, &[7]), &[8, 0xFF, EOI]]
            .concat();
    let filled = [&[0xFF, SOI, 0xFF, 0xFF, 0xFF][..], &segment(0xDB, &[1; 9])[1..], &[0xFF, 0xFF, EOI]].concat();
    let boundary = b"\r\n--boundary\r\nContent-Type: image/jpeg\r\nContent-Length: 93\r\n\r\n".to_vec();
    let skipped = boundary.len() as u64;

    check("none", &[], &[], 0);
    check("one", std::slice::from_ref(&a), std::slice::from_ref(&a), 0);
    check("two", &[a.clone(), b.clone()], &[a.clone(), b.clone()], 0);
    check("thumbnail", &[thumbnail.clone(), a.clone()], &[thumbnail, a.clone()], 0);
    check("progressive", &[progressive.clone(), a.clone()], &[progressive, a.clone()], 0);
    check("fill bytes", &[filled.clone(), a.clone()], &[filled, a.clone()], 0);
    let multipart = [boundary.clone(), a.clone(), boundary, b.clone()];
    check("multipart", &multipart, &[a.clone(), b.clone()], 2 * skipped);
}

#[test]
fn broken_images_are_skipped() {
    let (a, b) = (plain(1), plain(2));
    let len = a.len();
    // Where a segment's length is cut, the next image's first bytes take its place, and much more may be lost.
    for cut in (3..len).filter(|cut| ![4, 5, 73, 74].contains(cut)) {
        // Where a segment's content is cut, the next image is taken for it.
        let in_segment = (6..71).contains(&cut) || (75..81).contains(&cut);
        let whole = [b.clone(), a.clone(), b.clone()];
        for seed in 0..4 {
            let (frames, garbage) = split(&[&a[..cut], &whole.concat()].concat(), seed);
            assert!(frames.ends_with(&whole[1..]), "cut at {cut}");
            assert!(in_segment || frames == whole, "cut at {cut}: {}", frames.len());
            let all: usize = frames.iter().map(Vec::len).sum();
            assert_eq!(garbage as usize, cut + 3 * len - all, "cut at {cut}");
        }
    }
    let short = vec![0xFF, SOI, 0xFF, 0xDB, 0, 1];
    check("segment of 1 byte", &[short, a.clone()], std::slice::from_ref(&a), 6);
    check("no marker", &[vec![0xFF, SOI, 0xFF, 0x00, 7], a.clone()], std::slice::from_ref(&a), 5);
    check("starts only", &[[0xFF, SOI].repeat(50), a.clone()], std::slice::from_ref(&a), 100);
}

#[test]
fn memory_is_bounded() {
    let a = plain(1);
    let large = jpeg(&[], &[9; MAX]);
    check("large", &[large.clone(), a.clone()], std::slice::from_ref(&a), large.len() as u64);
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
        let (frames, garbage) = split(&stream, round);
        assert_eq!(split(&stream, round + 1), (frames.clone(), garbage));
        assert!(frames.iter().all(|frame| frame.starts_with(&[0xFF, SOI, 0xFF]) && frame.ends_with(&[0xFF, EOI])));
    }
}

#[test]
fn a_segment_beyond_the_end_was_none() {
    let (a, b) = (plain(1), plain(2));
    let lie = vec![0xFF, SOI, 0xFF, 0xE0, 0x0F, 0x00];
    let mut splitter = Splitter::new(MAX);
    let mut frame = Vec::new();
    splitter.push(&[lie, a.clone(), b.clone()].concat());
    assert!(!splitter.take_frame(&mut frame), "the segment may still come");
    assert!(splitter.end() && splitter.take_frame(&mut frame));
    assert_eq!(frame, a);
    assert!(splitter.take_frame(&mut frame));
    assert_eq!(frame, b);
    splitter.push(&a[..a.len() - 2]);
    assert!(!splitter.take_frame(&mut frame) && !splitter.end(), "an image that was cut off is none");
}
