//! Preprocessing by the image processors' files.

use super::*;

/// Formats the steps as the overrides spell them, then the rescaling and normalisation.
fn shown(json: &str, overrides: &Overrides) -> Result<(String, Vec<Override>), CheckpointError> {
    let object = Object::parse(Path::new("p.json"), json.as_bytes())?;
    shown_of(&File::of(object, Some(4)), overrides)
}

fn shown_of(file: &File, overrides: &Overrides) -> Result<(String, Vec<Override>), CheckpointError> {
    let (config, record) = configuration(file, overrides)?;
    let PreprocessConfig { resize, crop, rescale_factor, normalize, .. } = config;
    let (to, filter) = resize.map(|resize| (resize.to, resize.filter)).unzip();
    let filter = filter.map_or(String::new(), |filter| format!(" {filter:?}"));
    let factor = rescale_factor.map_or("as is".into(), |factor| format!("/ {:.1}", 1.0 / factor));
    let normalize = normalize.map_or("as is".into(), |n| format!("{:.2} {:.2}", n.mean[0], n.std[2]));
    Ok((format!("{}{filter}, {}, {factor}, {normalize}", ResizeTo(to), CropTo(crop)), record))
}

#[test]
fn configurations_of_image_processors() {
    let check = |kind: &str, keys: &str, expected: &str| {
        let json = format!(r#"{{"image_processor_type": "{kind}"{keys}}}"#);
        let found = shown(&json, &Overrides::default()).map_or_else(|e| e.to_string(), |found| found.0);
        assert!(found.starts_with(expected), "{json}:\n{found}\n{expected}");
    };
    check("ViTImageProcessor", "", "224x224 Bilinear, none, / 255.0, 0.50 0.50");
    check("ViTImageProcessorFast", "", "224x224 Bilinear, none, / 255.0, 0.50 0.50");
    check("DeiTImageProcessor", "", "256x256 Bicubic, 224x224, / 255.0, 0.50 0.50");
    check("BeitImageProcessor", r#", "reduce_labels": true"#, "256x256 Bicubic, 224x224, / 255.0, 0.50 0.50");
    check("BeitImageProcessorFast", "", "224x224 Bicubic, none, / 255.0, 0.50 0.50");
    check("CLIPImageProcessorFast", "", "224 Bicubic, 224x224, / 255.0, 0.48 0.28");
    check("BitImageProcessor", "", "224 Bicubic, 224x224, / 255.0, 0.48 0.28");
    check("SiglipImageProcessor", "", "224x224 Bicubic, none, / 255.0, 0.50 0.50");
    check("ConvNextImageProcessor", "", "384x384 Bilinear, none, / 255.0, 0.50 0.50");
    check("ConvNextImageProcessor", r#", "size": 224"#, "256 Bilinear, 224x224");
    check("ConvNextImageProcessor", r#", "size": 224, "crop_pct": 0.9"#, "248 Bilinear, 224x224");
    check("ViTImageProcessor", r#", "size": [3, 4], "resample": 0"#, "3x4 Nearest, none");
    check("ViTImageProcessor", r#", "size": 48, "do_center_crop": true"#, "48x48 Bilinear, none");
    check(
        "ViTImageProcessor",
        r#", "do_resize": null, "do_rescale": false, "do_normalize": null"#,
        "none, none, as is, as is",
    );
    check("ViTImageProcessorFast", r#", "do_resize": null, "do_normalize": null"#, "none, none, / 255.0, as is");
    check(
        "ViTImageProcessorFast",
        r#", "size": {"shortest_edge": 9}, "do_center_crop": true, "crop_size": 8"#,
        "9 Bilinear, 8x8",
    );
    check("ViTImageProcessorFast", r#", "size": 9, "default_to_square": false"#, "9 Bilinear");
    check("CLIPImageProcessor", r#", "size": 48, "crop_size": {"height": 3, "width": 4}"#, "48 Bicubic, 3x4");
    check("CLIPImageProcessor", r#", "size": {"shortest_edge": 9, "longest_edge": 12}"#, "9 Bicubic");
    check("CLIPImageProcessorFast", r#", "size": {"shortest_edge": 9, "longest_edge": 12}"#, "9..12 Bicubic");
    check(
        "CLIPImageProcessor",
        r#", "image_mean": 0.25, "image_std": [1, 1, 2]"#,
        "224 Bicubic, 224x224, / 255.0, 0.25 2.00",
    );
}

#[test]
fn files_that_the_image_processor_refuses() {
    let check = |json: &str, expected: &str| {
        let found = shown(json, &Overrides::default()).map_or_else(|e| e.to_string(), |found| found.0);
        assert_eq!(found, format!("p.json: {expected}"), "{json}");
    };
    check(
        r#"{"resample": "bilinear"}"#,
        "resample: expected one of Pillow's filter numbers, 0 to 5, found \"bilinear\"",
    );
    check(
        r#"{"image_std": [1, 0, 1]}"#,
        "image_std: expected a number, or three of them, standard deviations above 0, found [1,0,1]",
    );
    check(
        r#"{"size": {"shortest_edge": 9}}"#,
        "size: expected a whole number, or height and width, found {\"shortest_edge\":9}",
    );
    check(r#"{"image_processor_type": "SiglipImageProcessor", "size": 9}"#, "size: expected height and width, found 9");
    check(
        r#"{"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": {"shortest_edge": 9}}"#,
        "crop_size: expected a whole number, or height and width, found {\"shortest_edge\":9}",
    );
    check(
        r#"{"image_processor_type": "ViTImageProcessorFast", "do_center_crop": true}"#,
        "crop_size: expected a whole number, or height and width, found nothing",
    );
    check(
        r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 9}, "crop_pct": 0}"#,
        "crop_pct: expected a number above 0, found 0",
    );
    check(
        r#"{"image_processor_type": "SamImageProcessor"}"#,
        &format!("image_processor_type \"SamImageProcessor\" is not supported: {}", class::KNOWN),
    );
}

#[test]
fn versions_and_implementations() {
    let check = |kind: &str, keys: &str, major: Option<u64>, choice: Option<ImageProcessor>, expected: &str| {
        let json = format!(r#"{{"image_processor_type": "{kind}"{keys}}}"#);
        let object = Object::parse(Path::new("p.json"), json.as_bytes()).expect("an object");
        let overrides = Overrides { image_processor: choice, ..Overrides::default() };
        let found = configuration(&File::of(object, major), &overrides).map_or_else(
            |error| error.to_string(),
            |(config, record)| {
                let PreprocessConfig { resize, crop, pad, backend, transparent_on_white, .. } = config;
                let (to, crop, pad) = (ResizeTo(resize.map(|resize| resize.to)), CropTo(crop), CropTo(pad));
                let record: String = record.iter().map(|o| format!("; {} > {}", o.from, o.to)).collect();
                format!("{to}, {crop}, {pad}, {backend:?}, {transparent_on_white}{record}")
            },
        );
        assert!(found.starts_with(expected), "{json} {major:?} {choice:?}:\n{found}\n{expected}");
    };
    use ImageProcessor::{Fast, Pil, Slow, Torchvision};
    let crop = r#", "size": {"height": 32, "width": 30}, "do_center_crop": true, "crop_size": 24"#;
    let edges = r#", "size": {"shortest_edge": 24, "longest_edge": 30}, "crop_size": 24"#;
    check("ViTImageProcessor", crop, Some(4), None, "32x30, none, none, Pillow, false");
    check("ViTImageProcessor", crop, Some(5), None, "32x30, 24x24, none, Pillow, false");
    check("ViTImageProcessor", crop, Some(6), None, "32x30, 24x24, none, Pillow, false");
    check("ViTImageProcessor", crop, Some(5), Some(Torchvision), "32x30, 24x24, none, Torchvision, false; pil > tor");
    check("ViTImageProcessor", crop, Some(5), Some(Slow), "32x30, none, none, Pillow, false; pil > slow");
    check("ViTImageProcessorFast", crop, Some(5), None, "32x30, 24x24, none, Fast, false");
    check("ViTImageProcessorFast", crop, None, Some(Pil), "32x30, 24x24, none, Pillow, false; fast > pil");
    check("ViTImageProcessorPil", crop, None, None, "32x30, 24x24, none, Pillow, false");
    check("SiglipImageProcessor", crop, Some(5), None, "32x30, 24x24, none, Pillow, true");
    check("CLIPImageProcessor", edges, Some(4), None, "24, 24x24, none, Pillow, false");
    check("CLIPImageProcessor", edges, Some(5), None, "24..30, 24x24, none, Pillow, true");
    check("CLIPImageProcessor", edges, None, Some(Fast), "24..30, 24x24, none, Fast, false; slow or pil > fast");
    // Unknown version.
    check("ViTImageProcessor", r#", "size": 24"#, None, None, "24x24, none, none, Pillow, false");
    check("ViTImageProcessor", crop, None, None, "p.json: image_processor_type \"ViTImageProcessor\" is not supp");
    check("CLIPImageProcessor", edges, None, None, "p.json: image_processor_type \"CLIPImageProcessor\" is not sup");
    let null = format!(r#"{crop}, "do_convert_rgb": null"#);
    check("ViTImageProcessor", &null, None, None, "32x30, none, none, Pillow, false");
    // Transparency.
    check("ViTImageProcessor", r#", "do_convert_rgb": true"#, Some(4), None, "224x224, none, none, Pillow, false");
    check("ViTImageProcessor", r#", "do_convert_rgb": true"#, Some(5), None, "224x224, none, none, Pillow, true");
    check("CLIPImageProcessor", r#", "do_convert_rgb": false"#, Some(5), None, "224, 224x224, none, Pillow, false");
    check("BitImageProcessor", r#", "do_convert_rgb": null"#, Some(5), None, "224, 224x224, none, Pillow, false");
    // Padding.
    let pad = r#", "size": 24, "do_pad": true, "pad_size": {"height": 30, "width": 32}"#;
    check("ViTImageProcessor", pad, Some(5), None, "24x24, none, 30x32, Pillow, false");
    check("ViTImageProcessor", pad, Some(4), None, "24x24, none, none, Pillow, false");
    check("BeitImageProcessor", pad, Some(5), None, "24x24, none, none, Pillow, false");
    check("ViTImageProcessor", r#", "do_pad": true"#, Some(5), None, "p.json: pad_size: expected a whole number, or");
    let small = r#", "do_pad": true, "pad_size": 20"#;
    check(
        "CLIPImageProcessor",
        small,
        Some(5),
        None,
        "p.json: pad_size: expected at least the 224 x 224 pixels of crop_size",
    );
    // Not supported.
    let boxed = r#", "resample": 4"#;
    check("ViTImageProcessorFast", boxed, Some(4), None, "p.json: resample 4 is not supported: torchvision has no");
    check("ViTImageProcessorFast", boxed, Some(4), Some(Pil), "224x224, none, none, Pillow, false; fast > pil");
    let square = r#", "use_square_size": true"#;
    check("CLIPImageProcessor", square, Some(4), None, "p.json: use_square_size true is not supported: it means");
}

#[test]
fn overrides_take_the_place_of_what_the_file_says() {
    let check = |json: &str, resize: Option<&str>, crop: Option<&str>, expected: &str, made: &str| {
        let (resize, crop) = (resize.map(|v| v.parse().expect("a size")), crop.map(|v| v.parse().expect("a size")));
        let overrides = Overrides { resize, crop, reason: Some("why".into()), ..Overrides::default() };
        let (found, record) = shown(json, &overrides).expect("a configuration");
        assert!(found.starts_with(expected), "{json}: {found}");
        let record: Vec<_> = record.iter().map(|o| format!("{} {} > {} {}", o.key, o.from, o.to, o.reason)).collect();
        assert_eq!(record.join("; "), made, "{json}");
    };
    let clip = r#"{"image_processor_type": "CLIPImageProcessor"}"#;
    check(clip, None, None, "224 Bicubic, 224x224", "");
    check(clip, Some("256"), None, "256 Bicubic, 224x224", "resize 224 > 256 why");
    check(clip, Some("30x40"), Some("none"), "30x40 Bicubic, none", "resize 224 > 30x40 why; crop 224x224 > none why");
    check("{}", Some("256"), Some("224"), "256 Bilinear, 224x224", "resize 224x224 > 256 why; crop none > 224x224 why");
    check(r#"{"do_resize": false}"#, Some("8"), None, "8 Bilinear, none", "resize none > 8 why");
    check(
        r#"{"size": {"shortest_edge": 9}}"#,
        Some("8x8"),
        None,
        "8x8 Bilinear, none",
        "resize {\"shortest_edge\":9} > 8x8 why",
    );
}
