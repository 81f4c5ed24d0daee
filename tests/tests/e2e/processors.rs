//! Image processor files and the tensors they produce, against transformers; `tests/reference/make_processors.py` made
//! the goldens.

use std::collections::BTreeMap;
use std::path::Path;

use model_prep::checkpoint::preprocess_config_of;
use model_prep::overrides::Overrides;
use safetensors::SafeTensors;
use serde::Deserialize;
use spotter_engine::hash::{Hasher, hex};
use spotter_engine::picture::{Picture, decode};
use spotter_engine::preprocess::{PreprocessConfig, Preprocessor};

/// Difference between C libraries, in grey levels of 255, where a sine in the resampling filter decides a rounding.
const SINE_TOLERANCE: u8 = 1;

#[derive(Deserialize)]
struct Case {
    name: String,
    /// `preprocessor_config.json`.
    file: String,
    /// `transformers_version` of the `config.json` beside it.
    version: String,
    /// `model_type` there.
    tower: String,
    /// The value of `--image-processor`.
    choice: Option<String>,
    results: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Tensor {
        size: [usize; 2],
        /// The first half of the SHA-256 of the tensor's bytes.
        sha256: String,
    },
    Refused {
        #[serde(rename = "error")]
        _error: String,
    },
}

fn golden(path: &str) -> Vec<u8> {
    let path = e2e::root().join("tests/golden").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Like `drawn` in `make_processors.py`.
fn drawn(height: usize, width: usize) -> Picture {
    let byte = |at: usize| {
        let noise = (at * 2_654_435_761 % (1 << 32)) >> 24;
        let (y, x) = (at / (width * 3), at / 3 % width);
        ((noise / 2 + 64 * x / width + 64 * y / height) % 256) as u8
    };
    Picture { width, height, rgb: (0..height * width * 3).map(byte).collect(), transparent: None }
}

/// Drawn if the name is a size, else decoded by Pillow.
fn picture(name: &str, decoded: &SafeTensors<'_>) -> Picture {
    if let Some(size) = name.strip_prefix("contrast ") {
        let mut picture = picture(size, decoded);
        picture.rgb.iter_mut().for_each(|byte| *byte = if *byte > 127 { 255 } else { 0 });
        return picture;
    }
    let size = name.split_once('x').and_then(|(height, width)| Some((height.parse().ok()?, width.parse().ok()?)));
    if let Some((height, width)) = size {
        return drawn(height, width);
    }
    let tensor = decoded.tensor(name).expect("a decoded picture");
    let [height, width, 3] = *tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
    Picture { width, height, rgb: tensor.data().to_vec(), transparent: None }
}

/// The preprocessing that an export reads.
fn recipe(case: &Case, folder: &Path) -> PreprocessConfig {
    let folder = folder.join(&case.name);
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("preprocessor_config.json"), &case.file).expect("writes");
    let config = serde_json::json!({
        "transformers_version": case.version, "vision_config": { "model_type": case.tower }
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("writes");
    let image_processor = case.choice.as_ref().map(|name| name.parse().expect("an implementation"));
    let overrides = Overrides { image_processor, ..Overrides::default() };
    preprocess_config_of(&folder, &overrides).unwrap_or_else(|error| panic!("{}: {error}", case.name)).0
}

fn checksum(values: &[f32]) -> String {
    let mut hasher = Hasher::new();
    values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
    hex(&hasher.finish()[..8])
}

#[test]
fn pictures_of_odd_sizes_become_the_tensors_of_every_image_processor() {
    let decoded = golden("pictures/decoded.safetensors");
    let decoded = SafeTensors::deserialize(&decoded).expect("goldens");
    let pixels = golden("processors/pixels.safetensors");
    let pixels = SafeTensors::deserialize(&pixels).expect("goldens");
    let cases: Vec<Case> = serde_json::from_slice(&golden("processors/cases.json")).expect("cases");
    let folder = tempfile::tempdir().expect("a folder");
    let mut pictures = BTreeMap::new();
    let (mut exact, mut refused, mut off) = (0, 0, 0);
    for case in &cases {
        let recipe = recipe(case, folder.path());
        let mut preprocessor = Preprocessor::new(&recipe).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let mut out = Vec::new();
        for (name, expected) in &case.results {
            let what = format!("{}, {name}", case.name);
            let picture = pictures.entry(name.clone()).or_insert_with(|| picture(name, &decoded));
            let (size, sha256) = match (preprocessor.run(picture, &mut out), expected) {
                (Ok(found), Expected::Tensor { size, sha256 }) => {
                    assert_eq!([found.height, found.width], *size, "{what}");
                    (found, sha256)
                }
                (Err(_), Expected::Refused { .. }) => {
                    refused += 1;
                    continue;
                }
                (Ok(found), Expected::Refused { .. }) => panic!("{what}: {found:?}, where the reference has none"),
                (Err(error), Expected::Tensor { .. }) => panic!("{what}: {error}"),
            };
            let Ok(expected) = pixels.tensor(&what.replace(", ", "/")) else {
                assert_eq!(checksum(&out), *sha256, "{what}: other values");
                exact += 1;
                continue;
            };
            let bytes = PreprocessConfig { rescale_factor: None, normalize: None, ..recipe.clone() };
            Preprocessor::new(&bytes).and_then(|mut bytes| bytes.run(picture, &mut out)).expect("ran already");
            assert_eq!(expected.shape(), [3, size.height, size.width], "{what}");
            let differences = out.iter().zip(expected.data()).map(|(found, &byte)| (*found as u8).abs_diff(byte));
            let worst = differences.clone().max().unwrap_or(0);
            assert!(worst <= SINE_TOLERANCE, "{what}: a pixel is off by {worst}");
            off += differences.filter(|&difference| difference > 0).count();
        }
    }
    println!(
        "{} files: {exact} tensors equal to the last bit, {refused} pictures refused, {off} bytes off",
        cases.len()
    );
    assert!(exact > 2000 && off <= 8, "{exact} tensors compared, {off} bytes off by a grey step");
}

#[derive(Deserialize)]
struct Marked {
    name: String,
    /// The file in hexadecimal.
    bytes: String,
    size: [usize; 2],
    dropped: String,
    on_white: String,
}

fn unhex(text: &str) -> Vec<u8> {
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex")).collect()
}

#[test]
fn transparent_colours_are_dropped_or_white() {
    let cases: Vec<Marked> = serde_json::from_slice(&golden("processors/transparent.json")).expect("cases");
    let mut marked = 0;
    for case in &cases {
        let picture = decode(&unhex(&case.bytes)).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for (transparent_on_white, expected) in [(false, &case.dropped), (true, &case.on_white)] {
            let recipe = PreprocessConfig { transparent_on_white, ..PreprocessConfig::NONE };
            let mut planes = Vec::new();
            let size = Preprocessor::new(&recipe).and_then(|mut run| run.run(&picture, &mut planes)).expect("runs");
            assert_eq!([size.height, size.width], case.size, "{}", case.name);
            let plane = size.height * size.width;
            let found: Vec<u8> =
                (0..plane).flat_map(|at| [0, 1, 2].map(|channel| planes[channel * plane + at] as u8)).collect();
            assert_eq!(found, unhex(expected), "{}: on white {transparent_on_white}", case.name);
        }
        marked += usize::from(case.dropped != case.on_white);
    }
    assert!(marked > 10, "{marked} of {} pictures change on white", cases.len());
}
