use super::super::{Resize, Target};
use super::*;

const AS_IS: PreprocessConfig = PreprocessConfig::NONE;

#[test]
fn crops_are_centred() {
    let on = |backend, have, want, source: Range<usize>, before| {
        assert_eq!(Span::new(backend, have, want), Span { source, before }, "{want} of {have}");
    };
    let check = |have, want, source: Range<usize>, before| on(Backend::Pillow, have, want, source, before);
    check(8, 8, 0..8, 0);
    check(8, 4, 2..6, 0);
    check(8, 5, 1..6, 0);
    check(7, 4, 1..5, 0);
    check(4, 8, 0..4, 2);
    check(5, 8, 0..5, 2);
    check(4, 7, 0..4, 2);
    check(1, 4, 0..1, 2);
    for backend in [Backend::Fast, Backend::Torchvision] {
        on(backend, 8, 8, 0..8, 0);
        on(backend, 8, 4, 2..6, 0);
        on(backend, 9, 4, 2..6, 0);
        on(backend, 5, 8, 0..5, 1);
        on(backend, 1, 4, 0..1, 1);
        on(backend, 4, 8, 0..4, 2);
    }
    on(Backend::Fast, 7, 4, 2..6, 0);
    on(Backend::Torchvision, 7, 4, 1..5, 0);
}

#[test]
fn planes_follow_the_configuration() {
    let picture =
        Picture { width: 2, height: 1, rgb: vec![0, 51, 102, 255, 204, 153], transparent: Some([0, 51, 102]) };
    let check = |config: PreprocessConfig, expected: &[f32]| {
        let mut out = vec![9.0; 99];
        let mut preprocessor = Preprocessor::new(&config).expect("a valid configuration");
        preprocessor.run(&picture, &mut out).expect("a valid image");
        assert_eq!(out, expected, "{config:?}");
    };
    check(AS_IS, &[0.0, 255.0, 51.0, 204.0, 102.0, 153.0]);
    let rescale_factor = Some(1.0 / 255.0);
    check(PreprocessConfig { rescale_factor, ..AS_IS }, &[0.0, 1.0, 0.2, 0.8, 0.4, 0.6]);
    let normalize = Some(Normalize { mean: [0.5; 3], std: [0.5, 1.0, 2.0] });
    check(
        PreprocessConfig { rescale_factor, crop: Some(Size { height: 1, width: 1 }), normalize, ..AS_IS },
        &[-1.0, 0.2 - 0.5, (0.4 - 0.5) / 2.0],
    );
    check(
        PreprocessConfig { crop: Some(Size { height: 1, width: 3 }), ..AS_IS },
        &[0.0, 0.0, 255.0, 0.0, 51.0, 204.0, 0.0, 102.0, 153.0],
    );
    let (pad, normalize) = (Some(Size { height: 2, width: 3 }), Some(Normalize { mean: [1.0; 3], std: [2.0; 3] }));
    check(
        PreprocessConfig {
            crop: Some(Size { height: 1, width: 1 }),
            normalize,
            pad,
            backend: Backend::Torchvision,
            ..AS_IS
        },
        &[-0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 25.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.5, 0.0, 0.0, 0.0, 0.0, 0.0],
    );
    check(PreprocessConfig { transparent_on_white: true, ..AS_IS }, &[255.0, 255.0, 255.0, 204.0, 255.0, 153.0]);
}

#[test]
fn invalid_images_are_refused() {
    let edge = Some(Resize { to: Target::ShortestEdge(4096), filter: Filter::Box });
    let edges = Some(Resize { to: Target::Edges { shortest: 24, longest: 48 }, filter: Filter::Box });
    let check = |config: &PreprocessConfig, width, height, bytes: usize, expected: &str| {
        let mut preprocessor = Preprocessor::new(config).expect("a valid configuration");
        let picture = Picture { width, height, rgb: vec![0; bytes], transparent: None };
        let message = preprocessor.run(&picture, &mut Vec::new()).expect_err("refused").to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    };
    check(&AS_IS, 0, 0, 0, "1 pixel or more");
    check(&AS_IS, 2, 2, 11, "found 11 bytes");
    check(&AS_IS, usize::MAX, 2, 12, "found 12 bytes");
    check(&PreprocessConfig { resize: edge, ..AS_IS }, 1, 50_000, 150_000, "less elongated");
    check(&PreprocessConfig { resize: edges, ..AS_IS }, 300, 1, 900, "1 pixel or more a side");
    let exact = Some(Resize { to: Target::Exact(Size { height: 4096, width: 4096 }), filter: Filter::Bicubic });
    let backend = Backend::Torchvision;
    // The image is small, but the buffer between the two passes is not.
    check(&PreprocessConfig { resize: exact, backend, ..AS_IS }, 1, 60_000, 180_000, "a smaller or less elongated one");
    check(&AS_IS, 5000, 3000, 45_000_000, "a smaller or less elongated one");
    let pad = Some(Size { height: 9, width: 2 });
    check(
        &PreprocessConfig { pad, ..AS_IS },
        3,
        9,
        81,
        "9 rows and 3 columns before padding, expected at most 9 and 2",
    );
}
#[test]
fn a_tensor_that_the_tower_does_not_take_is_refused() {
    let check = |to: Target, crop: Option<Size>, (width, height): (usize, usize), expected: Option<&str>| {
        let config = PreprocessConfig { resize: Some(Resize { to, filter: Filter::Bilinear }), crop, ..AS_IS };
        let mut preprocessor = Preprocessor::for_size(&config, Size { height: 8, width: 8 }).expect("valid");
        let picture = Picture { width, height, rgb: vec![0; width * height * 3], transparent: None };
        let found = preprocessor.run(&picture, &mut Vec::new()).err().map(|error| error.to_string());
        let is_right = match (&found, expected) {
            (Some(found), Some(part)) => found.contains(part),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(is_right, "{to:?} of {width} x {height}: {found:?}");
    };
    let (edge, square) = (Target::ShortestEdge(8), Some(Size { height: 8, width: 8 }));
    check(edge, None, (20, 20), None);
    check(edge, square, (1, 400), None);
    check(edge, None, (1, 400), Some("3200 rows and 8 columns when preprocessed, expected 8 and 8"));
    check(edge, None, (1, 40_000), Some("320000 rows and 8 columns when preprocessed"));
    check(Target::Exact(Size { height: 9, width: 8 }), None, (20, 20), Some("9 rows and 8 columns"));
}

#[test]
fn camera_images_fit_every_configuration() {
    let check = |to: Target, backend: Backend, (width, height): (usize, usize), fits: bool| {
        let resize = Some(Resize { to, filter: Filter::Bicubic });
        let crop = Some(Size { height: 224, width: 224 });
        let preprocessor = Preprocessor::new(&PreprocessConfig { resize, crop, backend, ..AS_IS }).expect("valid");
        let from = Size { height, width };
        let size = preprocessor.config.resized(from);
        let window = Window { size, rows: 0..224, columns: 0..224 };
        let found = preprocessor.check_bytes(from, &window, Size { height: 224, width: 224 }, false);
        assert_eq!(found.is_ok(), fits, "{to:?} of {width} x {height}: {found:?}");
    };
    let (edge, exact) = (Target::ShortestEdge(256), Target::Exact(Size { height: 256, width: 256 }));
    for backend in [Backend::Pillow, Backend::Fast, Backend::Torchvision] {
        for to in [edge, exact] {
            check(to, backend, (9504, 6336), true);
            check(to, backend, (6336, 9504), true);
            check(to, backend, (65_535, 1_024), true);
            check(to, backend, (1_000, 65_535), true);
        }
        check(exact, backend, (10_000, 10_000), false);
    }
}
