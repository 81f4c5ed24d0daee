//! Image files and preprocessing against Pillow and transformers; `tests/reference/make_pictures.py`, `make_gifs.py`
//! and `make_tiff.py` made the goldens.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde::Deserialize;
use spotter_engine::picture::{DecodeError, GifDamage, JpegDecoder, Picture, decode};
use spotter_engine::preprocess::{PreprocessConfig, Preprocessor, Size};

use crate::jpegs::{Pixels, pixels};

/// Tolerance of a resized pixel, of 255. It is the only tolerance of resampling, which is in fact exact except for a
/// sine that the C library rounds differently.
const PIXEL_TOLERANCE: u8 = 1;
/// Tolerance of a tensor's value if the pixel is right: the last bit of values up to 256.
const VALUE_TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Case {
    picture: String,
    recipe: PreprocessConfig,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/pictures").join(name)
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Largest and mean difference from Pillow's pixels.
fn compare(name: &str, picture: &Picture, expected: &SafeTensors<'_>) -> (u8, f64) {
    let expected = expected.tensor(name).expect("a golden for every picture");
    assert_eq!([picture.height, picture.width, 3], expected.shape(), "{name}");
    assert_eq!(picture.rgb.len(), expected.data().len(), "{name}");
    let differences = || picture.rgb.iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences().map(u64::from).sum();
    (differences().max().unwrap_or(0), sum as f64 / picture.rgb.len() as f64)
}

#[test]
fn files_decode_to_the_pixels_that_pillow_reads() {
    let golden = file("decoded.safetensors");
    let golden = SafeTensors::deserialize(&golden).expect("goldens");
    let mut live = (JpegDecoder::new(), Picture::default());
    let mut check = |name: &str| {
        let bytes = file(name);
        let picture = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let (worst, mean) = compare(name, &picture, &golden);
        assert_eq!(worst, 0, "{name}: off by {worst}, {mean:.4} on average");
        if name.ends_with(".jpg") {
            live.0.decode_into(&bytes, &mut live.1).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert!(live.1 == picture, "{name}: a decoder used before gives other pixels");
        }
    };
    golden.names().into_iter().for_each(&mut check);
}

#[test]
fn recipes_give_the_tensors_of_the_image_processors() {
    let golden = file("preprocessed.safetensors");
    let golden = SafeTensors::deserialize(&golden).expect("goldens");
    let cases: BTreeMap<String, Case> = serde_json::from_slice(&file("recipes.json")).expect("recipes");
    let check = |name: &str, case: &Case| {
        let picture = decode(&file(&case.picture)).expect("a source");
        let run = |recipe: &PreprocessConfig| {
            let mut preprocessor = Preprocessor::new(recipe).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut out = Vec::new();
            let size = preprocessor.run(&picture, &mut out).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(size, preprocessor.output_size(Size { height: picture.height, width: picture.width }), "{name}");
            let first = out.clone();
            preprocessor.run(&picture, &mut out).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(out == first, "{name}: the second run differs from the first");
            (size, out)
        };
        let pixels = golden.tensor(&format!("{name}/pixels")).expect("pixels");
        let (size, found) = run(&PreprocessConfig { rescale_factor: None, normalize: None, ..case.recipe.clone() });
        assert_eq!([3, size.height, size.width], pixels.shape(), "{name}");
        let differences = || found.iter().zip(pixels.data()).map(|(found, &pixel)| (*found as u8).abs_diff(pixel));
        let worst = differences().max().unwrap_or(0);
        assert!(worst <= PIXEL_TOLERANCE, "{name}: a pixel is off by {worst}");

        let values = golden.tensor(&format!("{name}/values")).expect("values");
        let values = values.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (_, found) = run(&case.recipe);
        assert_eq!(found.len(), values.len(), "{name}");
        for (at, ((found, value), difference)) in found.iter().zip(values).zip(differences()).enumerate() {
            let close = (found - value).abs() <= VALUE_TOLERANCE;
            assert!(difference > 0 || close, "{name}: value {at} is {found}, expected {value}");
        }
        differences().filter(|&difference| difference > 0).count()
    };
    let off: usize = cases.iter().map(|(name, case)| check(name, case)).sum();
    assert!(off <= 2, "{off} pixels are not those of Pillow");
}

#[test]
fn incomplete_pictures_are_refused_with_the_reason() {
    let check = |what: &str, bytes: &[u8], expected: fn(&DecodeError) -> bool| {
        let error = decode(bytes).expect_err(what);
        assert!(expected(&error), "{what}: {error:?}");
        assert!(!error.to_string().is_empty() && !error.to_string().ends_with('.'), "{what}: {error}");
    };
    let (jpeg, png) = (file("420.jpg"), file("rgb.png"));
    check("0 bytes", b"", |error| matches!(error, DecodeError::Empty));
    check("text", b"labels = [\"cat\"]\n", |error| matches!(error, DecodeError::UnknownFormat { .. }));
    check("JSON", &file("recipes.json"), |error| matches!(error, DecodeError::UnknownFormat { .. }));
    check("20000 x 10000", &file("huge.png"), |error| matches!(error, DecodeError::Size { .. }));
    for length in [2, 3, 20, jpeg.len() / 2, jpeg.len() - 1] {
        check("truncated JPEG", &jpeg[..length], |error| matches!(error, DecodeError::Truncated { .. }));
    }
    for length in [8, 30, png.len() / 2] {
        check("truncated PNG", &png[..length], |error| matches!(error, DecodeError::Image(_)));
    }
    for name in ["rgb.bmp", "rgb.ppm", "lossless.webp", "lossy.webp"] {
        let bytes = file(name);
        check(name, &bytes[..bytes.len() / 2], |error| matches!(error, DecodeError::Image(_)));
    }
    let gif = file("palette.gif");
    for length in [6, 20, gif.len() / 2] {
        check("truncated GIF", &gif[..length], |error| {
            matches!(error, DecodeError::Gif { what: GifDamage::Truncated })
        });
    }
    let tiff = file("rgb.tiff");
    for length in [4, 8, tiff.len() / 2] {
        check("truncated TIFF", &tiff[..length], |error| matches!(error, DecodeError::DamagedTiff(_)));
    }
    let mut wide = jpeg.clone();
    let frame = wide.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    wide[frame + 5..frame + 9].fill(0xff);
    check("JPEG of 65535 x 65535", &wide, |error| matches!(error, DecodeError::Size { .. }));
}

/// A chunk of a PNG with its checksum.
fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let checked = [&kind[..], data].concat();
    let crc = checked.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    [&(data.len() as u32).to_be_bytes()[..], &checked, &(!crc).to_be_bytes()].concat()
}

/// A PNG of that size and pixel type, without any pixel data.
fn png_header(width: u32, height: u32, bits: u8, color: u8) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[bits, color, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &png_chunk(b"IHDR", &header), &png_chunk(b"IDAT", &[0; 64])].concat()
}

#[test]
fn pictures_beyond_the_budget_are_refused_before_memory_is_taken() {
    struct Case {
        what: &'static str,
        size: (u32, u32),
        bits: u8,
        /// PNG's number: 0 for grey, 2 for RGB, 6 for RGBA.
        color: u8,
        expected: fn(&DecodeError) -> bool,
    }
    let is_size = |error: &DecodeError| matches!(error, DecodeError::Size { .. });
    let is_memory = |error: &DecodeError| matches!(error, DecodeError::Memory { .. });
    // One that fits is read, and reported as cut off.
    let is_cut = |error: &DecodeError| matches!(error, DecodeError::Image(_));
    let cases = [
        Case { what: "a strip", size: (89_478_485, 1), bits: 1, color: 0, expected: is_size },
        Case { what: "a column", size: (1, 65_536), bits: 8, color: 2, expected: is_size },
        Case { what: "1 bit", size: (9459, 9459), bits: 1, color: 0, expected: is_size },
        Case { what: "RGBA of 16 bits", size: (9459, 9459), bits: 16, color: 6, expected: is_size },
        Case { what: "fewer of 16 bits", size: (6000, 4000), bits: 16, color: 6, expected: is_memory },
        Case { what: "RGB of 16 bits", size: (9504, 6336), bits: 16, color: 2, expected: is_memory },
        Case { what: "few of 16 bits", size: (5000, 4000), bits: 16, color: 6, expected: is_cut },
        Case { what: "a camera's", size: (9504, 6336), bits: 8, color: 2, expected: is_cut },
        Case { what: "a long one", size: (65_535, 1000), bits: 8, color: 2, expected: is_cut },
    ];
    for Case { what, size: (width, height), bits, color, expected } in cases {
        let error = decode(&png_header(width, height, bits, color)).expect_err(what);
        assert!(expected(&error), "{what}: {error:?}");
        let names_size = error.to_string().contains(&format!("{width} x {height}"));
        assert!(names_size || is_cut(&error), "{what}: {error}");
    }
    // Coefficients of a progressive JPEG are larger than its pixels.
    let jpeg = |name: &str, marker: u8, height: u16, width: u16| {
        let mut jpeg = file(name);
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, marker]).expect("a frame header") + 5;
        jpeg[frame..frame + 4].copy_from_slice(&[height.to_be_bytes(), width.to_be_bytes()].concat());
        decode(&jpeg)
    };
    let found = jpeg("progressive.jpg", 0xc2, 8000, 8000).expect_err("coefficients");
    assert!(is_memory(&found), "{found:?}");
}

#[test]
fn damaged_pictures_never_panic() {
    let mut seed = 1_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for name in ["420.jpg", "progressive.jpg", "grey.jpg", "palette.png", "palette.gif", "lossy.webp", "rgb.tiff"] {
        let good = file(name);
        for _ in 0..200 {
            let mut bytes = good.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            if let Ok(picture) = decode(&bytes) {
                assert_eq!(picture.rgb.len(), picture.width * picture.height * 3, "{name}");
            }
        }
    }
}

#[test]
fn gifs_of_every_kind_are_read_as_pillow_reads_them_or_refused_with_the_reason() {
    // `None` if Pillow refuses the file.
    let golden: BTreeMap<String, Option<Pixels>> =
        serde_json::from_slice(&file("../gifs/pixels.json")).expect("goldens");
    assert!(golden.len() > 50, "{} goldens", golden.len());
    let damage = |name: &str| match name.trim_end_matches(".gif") {
        "cut" | "cut-palette" | "cut-head" => "found the end of the file",
        "no-columns" => "a frame with pixels, found one without",
        "no-frame" => "a frame, found none",
        "too-few" => "35 pixels in the frame, found 20",
        "too-few-interlaced" => "105 pixels in the frame, found 40",
        "nothing" => "35 pixels in the frame, found 0",
        "bits-1" => "24 pixels in the frame, found 5",
        _ => "an unknown file",
    };
    let mut wrong = Vec::new();
    for (name, expected) in &golden {
        let bytes = file(&format!("../gifs/{name}"));
        let fault = match (decode(&bytes), expected) {
            (Ok(_), None) => Some("Pillow does not read it".to_owned()),
            (Ok(found), Some(expected)) => {
                let found = pixels(&found);
                (found != *expected).then(|| format!("{found:?}"))
            }
            (Err(error), None) => {
                let message = error.to_string();
                (!message.contains(damage(name))).then_some(message)
            }
            (Err(error), Some(_)) => Some(error.to_string()),
        };
        wrong.extend(fault.map(|fault| format!("{name}: {fault}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Kinds of TIFF that Pillow reads and Spotter refuses: colours that need a colour profile, bytes with reversed bits,
/// fax group 3, and YCbCr that is compressed or subsampled.
const TIFF_REFUSED: [&str; 6] =
    ["1-group3", "cielab-u8", "grey-reversed", "rgb-reversed", "ycbcr-halved", "ycbcr-jpeg"];

#[test]
fn tiff_of_every_kind_is_read_as_pillow_reads_it_or_refused_with_the_reason() {
    let golden = std::fs::read(path("../tiff.safetensors")).expect("goldens");
    let golden = SafeTensors::deserialize(&golden).expect("goldens");
    let mut wrong = Vec::new();
    for name in golden.names().into_iter().filter_map(|name| name.strip_suffix("/file")) {
        let bytes = golden.tensor(&format!("{name}/file")).expect("a file").data();
        let expected = golden.tensor(&format!("{name}/rgb")).ok();
        let refused = expected.is_none() || TIFF_REFUSED.iter().any(|kind| name.starts_with(kind));
        let fault = match (decode(bytes), expected) {
            (Ok(_), None) => Some("Pillow does not read it".to_owned()),
            (Ok(_), _) if refused => Some("it is read: take it off the list".to_owned()),
            (Ok(found), Some(expected)) => {
                let same = [found.height, found.width, 3] == expected.shape() && found.rgb == expected.data();
                (!same).then(|| format!("{:?} instead of {:?}", found.rgb, expected.data()))
            }
            (Err(error @ DecodeError::Tiff { .. }), _) if refused => {
                let message = error.to_string();
                let is_told = message.starts_with("a TIFF with ") && message.contains("save it as PNG or JPEG");
                (!is_told || message.contains("Unknown(")).then_some(message)
            }
            (Err(error), _) => Some(format!("{error:?}")),
        };
        wrong.extend(fault.map(|fault| format!("{name}: {fault}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
