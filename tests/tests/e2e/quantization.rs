//! What is stored as int8 or int4, what that costs, and what stays in float for it.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use model_prep::calibrate::Settings;
use model_prep::checkpoint::Checkpoint;
use model_prep::export::{export, export_calibrated};
use model_prep::plan::{Plan, Plans};
use model_prep::probes;
use prost::Message as _;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use spotter_engine::bundle::{Bundle, Manifest, Weights};
use spotter_engine::picture::decode;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::tower::{ImageTower, TextTower, Threads};
use tract_onnx::pb;

use crate::text_towers::json_of;
use crate::towers::{Weight, copy_files, rewrite};

pub(crate) const PROMPTS: [&str; 8] = [
    "red circle",
    "green square",
    "blue triangle",
    "yellow star",
    "black cross",
    "red heart",
    "grey noise",
    "a gradient",
];

/// The layer that is spoiled for int8, and the norm before it.
const SPOILED: &str = "vision_model.encoder.layer.1.intermediate.dense";
const NORM: &str = "vision_model.encoder.layer.1.layernorm_after";
const LAYERS_EMULATED: usize = 2;

fn demo() -> PathBuf {
    e2e::root().join("model-prep/demo/checkpoint")
}

pub(crate) fn towers(bundle: &Path) -> (Manifest, ImageTower, TextTower) {
    let bundle = Bundle::open(bundle).unwrap();
    let threads = Threads::default();
    let towers = (ImageTower::open(&bundle, &threads).unwrap(), TextTower::open(&bundle, &threads).unwrap());
    (bundle.manifest().clone(), towers.0, towers.1)
}

/// Number of images from [`drawn`]: every layer is tried on each, which takes an emulated program long.
pub(crate) fn drawn_number() -> usize {
    if e2e::emulated() { 4 } else { 16 }
}

/// The drawn probes as files, in folders by kind.
pub(crate) fn drawn(folder: &Path) -> PathBuf {
    let pictures = folder.join("pictures");
    for (index, picture) in probes::images([64, 64]).into_iter().take(drawn_number()).enumerate() {
        let class = pictures.join(["gradient", "checks", "shape", "noise"][index % 4]);
        std::fs::create_dir_all(&class).unwrap();
        let image = image::RgbImage::from_raw(64, 64, picture.rgb).unwrap();
        image.save(class.join(format!("{index}.png"))).unwrap();
    }
    pictures
}

/// The demo checkpoint for tests that export it again and again; if emulated, a copy with fewer layers.
pub(crate) fn demo_to_export(folder: &Path) -> PathBuf {
    if e2e::emulated() { copied(folder, |_| ()) } else { demo() }
}

/// The demo checkpoint with one layer that int8 cannot represent: the norm before it adds a number to one channel that is
/// far larger than all values, and the layer's bias takes it away, which changes next to nothing in floats. No factor
/// helps: the number is large in the activations, or its column is in the weights.
fn spoiled(folder: &Path, shift: f32) -> PathBuf {
    copied(folder, |weights| {
        let floats = |(dtype, _, data): &Weight| -> Vec<f32> {
            assert_eq!(*dtype, Dtype::F32);
            data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        let matrix = floats(&weights[&format!("{SPOILED}.weight")]);
        let [mut norm, mut bias] = [NORM, SPOILED].map(|layer| floats(&weights[&format!("{layer}.bias")]));
        let first_column = matrix.chunks_exact(norm.len()).map(|row| row[0]);
        bias.iter_mut().zip(first_column).for_each(|(b, w)| *b -= shift * w);
        norm[0] += shift;
        for (layer, values) in [(NORM, norm), (SPOILED, bias)] {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            weights.get_mut(&format!("{layer}.bias")).unwrap().2 = bytes;
        }
    })
}

/// A copy of the demo checkpoint with changed weights; if emulated, with only the first [`LAYERS_EMULATED`] layers of
/// its towers.
fn copied(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, Weight>)) -> PathBuf {
    let copy = folder.join("checkpoint");
    copy_files(&demo(), &copy);
    if e2e::emulated() {
        let path = copy.join("config.json");
        let mut config = json_of(&path);
        for tower in ["vision_config", "text_config"] {
            config[tower]["num_hidden_layers"] = LAYERS_EMULATED.into();
        }
        std::fs::write(path, config.to_string()).unwrap();
    }
    rewrite(&copy, |weights| {
        if e2e::emulated() {
            let layer = |name: &str| name.split_once(".encoder.layer.")?.1.split('.').next()?.parse::<usize>().ok();
            weights.retain(|name, _| layer(name).is_none_or(|layer| layer < LAYERS_EMULATED));
        }
        change(weights);
    });
    copy
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The prompt with the largest cosine for each picture in the folders of `pictures`.
pub(crate) fn winners(bundle: &Path, pictures: &Path, prompts: &[&str]) -> BTreeMap<PathBuf, usize> {
    let (manifest, image, mut text) = towers(bundle);
    let texts: Vec<_> = prompts.iter().map(|prompt| text.embed(prompt).unwrap()).collect();
    let mut preprocessor = Preprocessor::new(&manifest.preprocess).unwrap();
    let mut winners = BTreeMap::new();
    for class in std::fs::read_dir(pictures).unwrap() {
        for file in std::fs::read_dir(class.unwrap().path()).unwrap() {
            let (path, mut pixels) = (file.unwrap().path(), Vec::new());
            preprocessor.run(&decode(&std::fs::read(&path).unwrap()).unwrap(), &mut pixels).unwrap();
            let embedding = image.embed(&pixels).unwrap();
            let best =
                (0..texts.len()).max_by(|a, b| dot(&embedding, &texts[*a]).total_cmp(&dot(&embedding, &texts[*b])));
            winners.insert(path, best.unwrap());
        }
    }
    winners
}

#[test]
fn a_spoiled_layer_stays_float_and_the_drop_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, checkpoint) = (drawn(folder.path()), Checkpoint::open(&spoiled(folder.path(), 30_000.0)).unwrap());
    let settings = Settings { folder: pictures.clone(), prompts: PROMPTS.map(str::to_owned).to_vec(), max_drop: 0.5 };
    let exported = |name: &str| {
        let out = folder.path().join(name);
        export_calibrated(&checkpoint, &out, "test", Weights::Int8, Some(&settings), &|| ()).unwrap();
        out
    };
    let bundle = exported("calibrated");
    let manifest = Bundle::open(&bundle).unwrap().manifest().clone();
    let found = manifest.quantization.calibration.as_ref().unwrap();
    let floats: Vec<_> =
        manifest.quantization.layers.iter().filter(|layer| layer.stored == Weights::F32).map(|l| &*l.name).collect();
    println!("{found:?}, in float: {floats:?}");
    assert!(found.drop_without_floats > settings.max_drop, "the layer is not spoiled enough: {found:?}");
    assert!(floats.contains(&SPOILED), "in float: {floats:?}");
    assert!(floats.len() < manifest.quantization.layers.len() / 4, "in float: {floats:?}");
    let worst = manifest.quantization.layers.iter().max_by(|a, b| a.cosine_loss.total_cmp(&b.cosine_loss)).unwrap();
    assert_eq!(worst.name, SPOILED);

    // The bundle as a board runs it, compared with float.
    let float = folder.path().join("float");
    export(&checkpoint, &float, "test", Weights::F32, &|| ()).unwrap();
    let (ours, theirs) = (winners(&bundle, &pictures, &PROMPTS), winners(&float, &pictures, &PROMPTS));
    let changed = ours.iter().filter(|(path, winner)| theirs[*path] != **winner).count();
    let number = drawn_number();
    assert_eq!(
        (ours.len(), found.pictures, found.pictures_per_layer, found.prompts),
        (number, number, number, PROMPTS.len())
    );
    assert_eq!(found.drop, 100.0 * changed as f32 / number as f32);
    assert!(found.drop <= settings.max_drop, "{found:?}");

    let again = exported("again");
    for file in ["bundle.json", "vision.onnx", "text.onnx"] {
        assert!(
            std::fs::read(bundle.join(file)).unwrap() == std::fs::read(again.join(file)).unwrap(),
            "{file} differs"
        );
    }
    let words = model_prep::calibrate::report::words(&manifest).unwrap();
    assert!(words.contains(SPOILED) && words.contains("of the images"), "{words}");
    let svg = model_prep::calibrate::report::svg(&manifest.quantization.layers);
    let bars = svg.matches("fill=\"#c33\"").count();
    assert_eq!(bars, floats.len(), "red bars");
}

#[test]
fn towers_are_stored_separately() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&demo_to_export(folder.path())).unwrap();
    let sizes = |image: Weights, text: Weights| {
        let out = folder.path().join(format!("{image:?}-{text:?}.tar"));
        let manifest =
            export(&checkpoint, &out, "test", Plans { image: image.into(), text: text.into() }, &|| ()).unwrap();
        assert_eq!((manifest.vision.weights, manifest.text.weights), (image, text));
        let (_, image, mut text) = towers(&out);
        for profile in [
            image.profile(&vec![0.1; 3 * manifest.image_size().iter().product::<usize>()], &|| 0).unwrap(),
            text.profile(&text.tokenizer().encode("cat").unwrap(), &|| 0).unwrap(),
        ] {
            assert_eq!(profile.unfused, None);
        }
        text.embed("cat").unwrap();
        [manifest.vision.file.bytes, manifest.text.file.bytes]
    };
    let all = [Weights::F32, Weights::Int8, Weights::Int4];
    let [float, int8, int4] = all.map(|weights| sizes(weights, weights));
    for tower in 0..2 {
        assert!(
            int8[tower] * 10 < float[tower] * 3 && int4[tower] * 10 < int8[tower] * 9,
            "{float:?} {int8:?} {int4:?}"
        );
    }
    assert_eq!(sizes(Weights::Int4, Weights::F32), [int4[0], float[1]]);
    assert_eq!(sizes(Weights::F32, Weights::Int8), [float[0], int8[1]]);
}

/// The graph with every DequantizeLinear replaced by the floats that it means by ONNX's definition.
pub(crate) fn dequantized(onnx: &[u8]) -> Vec<u8> {
    let mut model = pb::ModelProto::decode(onnx).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let (nodes, kept) = std::mem::take(&mut graph.node).into_iter().partition(|n| n.op_type == "DequantizeLinear");
    graph.node = kept;
    let nodes: Vec<pb::NodeProto> = nodes;
    for node in nodes {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i as usize);
        let tensor = |name: &str| graph.initializer.iter().find(|t| t.name == name).unwrap();
        let (values, scales) = (tensor(&node.input[0]), tensor(&node.input[1]));
        let scales: Vec<f32> = scales.raw_data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let dims: Vec<usize> = values.dims.iter().map(|dim| *dim as usize).collect();
        let (axis, group) = (attribute("axis"), attribute("block_size").max(1));
        let inner: usize = dims[axis + 1..].iter().product();
        // INT4 is 22.
        let integers: Vec<i8> = if values.data_type == 22 {
            values.raw_data.iter().flat_map(|b| [(b << 4).cast_signed() >> 4, b.cast_signed() >> 4]).collect()
        } else {
            values.raw_data.iter().map(|b| b.cast_signed()).collect()
        };
        let float = |(index, q): (usize, &i8)| {
            let (along, rest) = (index / inner % dims[axis], index % inner);
            // Scales of int8 have one axis, those of groups as many as the values.
            let scale = if values.data_type == 22 {
                scales[(index / inner / dims[axis] * (dims[axis] / group) + along / group) * inner + rest]
            } else {
                scales[along]
            };
            f32::from(*q) * scale
        };
        let raw_data = integers.iter().enumerate().map(float).flat_map(f32::to_le_bytes).collect();
        let (name, dims) = (node.output[0].clone(), values.dims.clone());
        graph.initializer.push(pb::TensorProto { name, dims, data_type: 1, raw_data, ..Default::default() });
    }
    let used: BTreeSet<_> = graph.node.iter().flat_map(|node| &node.input).collect();
    graph.initializer.retain(|tensor| used.contains(&tensor.name));
    model.encode_to_vec()
}

#[test]
fn int4_means_the_same_to_the_engine_and_to_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("int4");
    let manifest = export(&Checkpoint::open(&demo()).unwrap(), &out, "test", Weights::Int4, &|| ()).unwrap();
    let goldens = std::fs::read(e2e::root().join("tests/golden/demo/goldens.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    let pixels: Vec<f32> = floats(goldens.tensor("pixel_values").unwrap().data());
    let prompts = std::fs::read(e2e::root().join("tests/golden/demo/prompts.json")).unwrap();
    let prompts: Vec<String> = serde_json::from_slice(&prompts).unwrap();

    let (_, image, mut text) = towers(&out);
    let read = |file: &str| std::fs::read(out.join(file)).unwrap();
    let tract = Threads::default().with_kernels("tract").unwrap();
    let float_image = ImageTower::load(&dequantized(&read("vision.onnx")), &manifest, &tract).unwrap();
    let mut float_text =
        TextTower::load(&dequantized(&read("text.onnx")), &read("tokenizer.json"), &manifest, &tract).unwrap();
    let size: usize = 3 * manifest.image_size().iter().product::<usize>();
    let mut expected = [Vec::new(), Vec::new()];
    let mut check = |tower: usize, found: Vec<f32>, float: Vec<f32>| {
        let cosine = dot(&found, &float);
        assert!(cosine > 0.998, "tower {tower}: {cosine} to the floats that the file stands for");
        expected[tower].extend(float);
    };
    for pixels in pixels.chunks(size) {
        check(0, image.embed(pixels).unwrap(), float_image.embed(pixels).unwrap());
    }
    for prompt in &prompts {
        check(1, text.embed(prompt).unwrap(), float_text.embed(prompt).unwrap());
    }
    let quantization = &manifest.quantization;
    assert!(quantization.image_cosine_min > 0.99 && quantization.text_cosine_min > 0.99, "{quantization:?}");
    assert!(quantization.recipe.contains(" bits a weight"), "{}", quantization.recipe);
    // The manifest says of every layer how it is stored.
    let onnx = pb::ModelProto::decode(&*read("vision.onnx")).unwrap();
    let initializers = onnx.graph.unwrap().initializer;
    let names = |suffix: &str| -> BTreeSet<String> {
        initializers.iter().filter_map(|tensor| tensor.name.strip_suffix(suffix)).map(str::to_owned).collect()
    };
    let int8 = manifest.quantization.exceptions.iter().filter(|(_, stored)| **stored == Weights::Int8);
    let int8: BTreeSet<String> = int8.map(|(name, _)| name.clone()).filter(|name| name.contains("vis")).collect();
    assert_eq!(names(".weight.int8"), int8);
    assert!(names(".weight.int4").len() > int8.len(), "{int8:?}");
    compare_with_onnx_runtime(&out, &manifest, &goldens, expected);
}

/// Runs the bundle's towers in ONNX Runtime on the inputs of `goldens` and compares the embeddings.
fn compare_with_onnx_runtime(out: &Path, manifest: &Manifest, goldens: &SafeTensors<'_>, expected: [Vec<f32>; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let Some(python) = e2e::python(&["onnx", "onnxruntime"]) else { return };
    let dim = manifest.projection_dim;
    let embeds = expected.map(|values| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    let mut views: Vec<(String, TensorView<'_>)> = goldens.tensors();
    for (name, bytes) in ["image_embeds", "text_embeds"].into_iter().zip(&embeds) {
        views.retain(|(other, _)| other != name);
        let shape = vec![bytes.len() / 4 / dim, dim];
        views.push((name.to_owned(), TensorView::new(Dtype::F32, shape, bytes).unwrap()));
    }
    let file = folder.path().join("expected.safetensors");
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    let mut command = Command::new(python);
    command.arg(e2e::root().join("tests/reference/check_onnx.py")).arg(format!("{}={}", out.display(), file.display()));
    let output = command.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn a_spoiled_layer_stays_in_16_bit_floats_by_default() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = |checkpoint: &Path, name: &str| {
        let out = folder.path().join(name);
        let manifest = export(&Checkpoint::open(checkpoint).unwrap(), &out, "test", Weights::Int8, &|| ()).unwrap();
        (out, manifest)
    };
    let (_, plain) = sizes(&demo_to_export(&folder.path().join("plain")), "sound");
    assert!(plain.quantization.exceptions.is_empty(), "{:?}", plain.quantization);
    let (out, manifest) = sizes(&spoiled(&folder.path().join("other"), 3_000.0), "raised");
    let found = &manifest.quantization;
    println!("{found:?}");
    assert_eq!(found.exceptions.get(SPOILED), Some(&Weights::F16), "{found:?}");
    assert!(found.image_cosine_min >= 0.99, "{found:?}");
    assert!(found.recipe.contains("16-bit floats"), "{found:?}");
    assert_eq!(manifest.text.file.bytes, plain.text.file.bytes);
    let [grown, before] = [&manifest, &plain].map(|manifest| manifest.vision.file.bytes as f64);
    assert!(before < grown && grown <= 1.1 * before, "{before} {grown}");

    // The engine and ONNX Runtime read the file alike.
    let goldens = std::fs::read(e2e::root().join("tests/golden/demo/goldens.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    let pixels: Vec<f32> = floats(goldens.tensor("pixel_values").unwrap().data());
    let prompts = std::fs::read(e2e::root().join("tests/golden/demo/prompts.json")).unwrap();
    let prompts: Vec<String> = serde_json::from_slice(&prompts).unwrap();
    let read = |file: &str| std::fs::read(out.join(file)).unwrap();
    let tract = Threads::default().with_kernels("tract").unwrap();
    let (_, image, _) = towers(&out);
    let float_image = ImageTower::load(&dequantized(&read("vision.onnx")), &manifest, &tract).unwrap();
    let mut float_text =
        TextTower::load(&dequantized(&read("text.onnx")), &read("tokenizer.json"), &manifest, &tract).unwrap();
    let size: usize = 3 * manifest.image_size().iter().product::<usize>();
    let images = pixels.chunks(size).flat_map(|pixels| {
        let (found, float) = (image.embed(pixels).unwrap(), float_image.embed(pixels).unwrap());
        assert!(dot(&found, &float) > 0.99, "{}", dot(&found, &float));
        float
    });
    let expected = [images.collect(), prompts.iter().flat_map(|prompt| float_text.embed(prompt).unwrap()).collect()];
    compare_with_onnx_runtime(&out, &manifest, &goldens, expected);
}

#[test]
fn exceptions_of_a_plan_stay_floats() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("mixed");
    let layers =
        ["query", "key", "value"].map(|part| format!("vision_model.encoder.layer.0.attention.attention.{part}"));
    let exceptions: BTreeMap<_, _> = layers.iter().map(|name| (name.clone(), Weights::F32)).collect();
    let mut image = Plan::from(Weights::Int8);
    image.exceptions = exceptions.clone();
    let plans = Plans { image, text: Weights::Int8.into() };
    export(&Checkpoint::open(&demo()).unwrap(), &out, "test", plans, &|| ()).unwrap();
    let onnx = pb::ModelProto::decode(&*std::fs::read(out.join("vision.onnx")).unwrap()).unwrap();
    let initializers = onnx.graph.unwrap().initializer;
    let stored = |name: &str| initializers.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.data_type);
    for layer in &layers {
        // FLOAT is 1.
        assert_eq!(stored(&format!("{layer}.weight")), Some(1), "{layer}");
    }
    assert_eq!(stored("vision_model.encoder.layer.0.output.dense.weight.int8"), Some(3));
    let (manifest, image, _) = towers(&out);
    assert_eq!(manifest.quantization.exceptions, exceptions);
    let pixels = vec![0.3; 3 * manifest.image_size().iter().product::<usize>()];
    let profile = image.profile(&pixels, &|| 0).unwrap();
    let attention: Vec<_> = profile.layers.iter().filter(|layer| layer.kind == "attention").map(|l| l.work).collect();
    use spotter_engine::tower::Work;
    assert!(matches!(attention[0], Work::Float(_)), "exact layers, exact attention: {attention:?}");
    assert!(attention[1..].iter().all(|work| matches!(work, Work::Int8(_))), "{attention:?}");
}
