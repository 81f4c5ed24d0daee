use super::*;
use crate::source::{Matrix, Range};

const RAW: [PixelFormat; 5] =
    [PixelFormat::Rgb24, PixelFormat::Yuyv, PixelFormat::Uyvy, PixelFormat::Nv12, PixelFormat::Grey];

/// The formulas of the standards in floating point, not clamped.
fn reference(matrix: Matrix, range: Range, [y, u, v]: [u8; 3]) -> [f64; 3] {
    let (kr, kb) = if matrix == Matrix::Bt601 { (0.299, 0.114) } else { (0.2126, 0.0722) };
    let [y, u, v] = [y, u, v].map(f64::from);
    let (y, u, v) = match range {
        Range::Full => (y / 255.0, (u - 128.0) / 255.0, (v - 128.0) / 255.0),
        Range::Limited => ((y - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0),
    };
    let (r, b) = (y + 2.0 * (1.0 - kr) * v, y + 2.0 * (1.0 - kb) * u);
    let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
    [r, g, b].map(|value| 255.0 * value)
}

/// Samples of a test image: luma per pixel, chroma per pair (and per two rows for NV12).
fn sample(format: PixelFormat, x: usize, y: usize) -> [u8; 3] {
    let mix = |x: usize, y: usize, salt: usize| (((x * 31 + y * 57 + salt) as u64 * 2_654_435_761) >> 7) as u8;
    let row = if format == PixelFormat::Nv12 { y / 2 } else { y };
    match format {
        PixelFormat::Grey => [mix(x, y, 1), 128, 128],
        _ => [mix(x, y, 1), mix(x / 2, row, 2), mix(x / 2, row, 3)],
    }
}

/// A frame made of `sample`; padding is 0xAA. RGB frames hold the samples as they are.
fn frame(format: PixelFormat, width: usize, height: usize, padding: usize) -> Frame {
    let stride = format.row_bytes(width) + padding;
    let rows = if format == PixelFormat::Nv12 { height + height.div_ceil(2) } else { height };
    let mut bytes = vec![0xAA; stride * rows];
    for (y, row) in bytes.chunks_mut(stride).take(height).enumerate() {
        for x in 0..width {
            let [luma, u, v] = sample(format, x, y);
            match format {
                PixelFormat::Rgb24 => row[3 * x..3 * x + 3].copy_from_slice(&[luma, u, v]),
                PixelFormat::Yuyv => (row[2 * x], row[x / 2 * 4 + 1], row[x / 2 * 4 + 3]) = (luma, u, v),
                PixelFormat::Uyvy => (row[2 * x + 1], row[x / 2 * 4], row[x / 2 * 4 + 2]) = (luma, u, v),
                _ => row[x] = luma,
            }
        }
    }
    if format == PixelFormat::Nv12 {
        for (y, row) in bytes[stride * height..].chunks_mut(stride).enumerate() {
            for x in 0..width.div_ceil(2) {
                let [_, u, v] = sample(format, 2 * x, 2 * y);
                row[2 * x..2 * x + 2].copy_from_slice(&[u, v]);
            }
        }
    }
    bytes.truncate(format.frame_bytes(width, height, stride));
    Frame { format, width, height, stride, bytes, ..Frame::default() }
}

#[test]
fn every_format_matches_the_formulas() {
    let (mut decoder, mut picture) = (Decoder::new(), Picture::default());
    for format in RAW {
        for (width, height) in [(1, 1), (2, 2), (3, 3), (5, 4), (16, 2), (31, 17), (64, 48), (65, 1)] {
            for (matrix, range) in [
                (Matrix::Bt601, Range::Full),
                (Matrix::Bt601, Range::Limited),
                (Matrix::Bt709, Range::Full),
                (Matrix::Bt709, Range::Limited),
            ] {
                for padding in [0, 6] {
                    let frame = Frame { matrix, range, ..frame(format, width, height, padding) };
                    decoder.decode(&frame, &mut picture).unwrap();
                    assert_eq!((picture.width, picture.height, picture.rgb.len()), (width, height, width * height * 3));
                    for (i, got) in picture.rgb.chunks(3).enumerate() {
                        let sample = sample(format, i % width, i / width);
                        let expected = match format {
                            PixelFormat::Rgb24 if range == Range::Full => sample.map(f64::from),
                            // Each value as if it were luma.
                            PixelFormat::Rgb24 => {
                                sample.map(|value| reference(matrix, range, [value, 128, 128])[0].clamp(0.0, 255.0))
                            }
                            _ => reference(matrix, range, sample).map(|value| value.clamp(0.0, 255.0)),
                        };
                        for (got, expected) in got.iter().zip(expected) {
                            let off = (f64::from(*got) - expected).abs();
                            assert!(off <= 0.7, "{format} {width}x{height} pixel {i}: {got}, expected {expected}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn color_bars_have_their_colors() {
    // 100% bars, as in ITU-R BT.801-1 and BT.709.
    for (matrix, yuv, rgb) in [
        (Matrix::Bt601, [235, 128, 128], [255, 255, 255]),
        (Matrix::Bt601, [210, 16, 146], [255, 255, 0]),
        (Matrix::Bt601, [170, 166, 16], [0, 255, 255]),
        (Matrix::Bt601, [145, 54, 34], [0, 255, 0]),
        (Matrix::Bt601, [106, 202, 222], [255, 0, 255]),
        (Matrix::Bt601, [81, 90, 240], [255, 0, 0]),
        (Matrix::Bt601, [41, 240, 110], [0, 0, 255]),
        (Matrix::Bt601, [16, 128, 128], [0, 0, 0]),
        (Matrix::Bt709, [219, 16, 138], [255, 255, 0]),
        (Matrix::Bt709, [63, 102, 240], [255, 0, 0]),
        (Matrix::Bt709, [32, 240, 118], [0, 0, 255]),
    ] {
        let [y, u, v] = yuv;
        let bytes = vec![y, u, y, v];
        let format = PixelFormat::Yuyv;
        let frame =
            Frame { format, width: 2, height: 1, stride: 4, bytes, matrix, range: Range::Limited, ..Frame::default() };
        let mut picture = Picture::default();
        Decoder::new().decode(&frame, &mut picture).unwrap();
        for (got, expected) in picture.rgb.iter().zip(rgb.iter().cycle()) {
            assert!(got.abs_diff(*expected) <= 2, "{yuv:?}: {:?}, expected {rgb:?}", picture.rgb);
        }
    }
}

#[test]
fn incomplete_frames_are_refused() {
    let mut picture = Picture::default();
    let mut error = |frame: &Frame| Decoder::new().decode(frame, &mut picture).unwrap_err().to_string();
    for format in RAW {
        let mut short = frame(format, 7, 5, 3);
        let whole = short.bytes.len();
        short.bytes.pop();
        let expected = format!("{format} frame of 7 x 5 pixels with {} bytes, expected {whole}", whole - 1);
        assert_eq!(error(&short), expected);
        let narrow = Frame { stride: format.row_bytes(7) - 1, ..frame(format, 7, 5, 3) };
        assert!(error(&narrow).contains("bytes a row, expected at least"));
        for (width, height) in [(0, 5), (7, 0), (usize::MAX, 2), (1 << 20, 1 << 20)] {
            let wrong = Frame { width, height, stride: usize::MAX, ..frame(format, 7, 5, 0) };
            assert!(error(&wrong).contains("pixels, expected 1 to"), "{width}x{height}");
        }
    }
    for format in [PixelFormat::Encoded, PixelFormat::Mjpeg] {
        let empty = Frame { format, number: 9, ..Frame::default() };
        assert_eq!(error(&empty), format!("cannot decode the {format} frame 9"));
        let named = Frame { path: Some("x.jpg".into()), ..empty };
        assert_eq!(error(&named), "x.jpg: cannot decode");
    }
}

#[test]
fn buffers_are_reused() {
    let (mut decoder, mut picture) = (Decoder::new(), Picture::default());
    decoder.decode(&frame(PixelFormat::Yuyv, 64, 48, 0), &mut picture).unwrap();
    let place = picture.rgb.as_ptr();
    for format in RAW {
        decoder.decode(&frame(format, 32, 48, 0), &mut picture).unwrap();
        assert_eq!((picture.rgb.as_ptr(), picture.width), (place, 32));
    }
}
