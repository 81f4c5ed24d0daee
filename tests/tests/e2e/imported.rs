//! Towers written by other exporters, against transformers 4.56.2 (`tests/reference/make_onnx_towers.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};

use model_prep::import::{Options, Projection, TowerInput, tower};
use model_prep::plan::{Plan, Target};
use model_prep::towers::TowerFile;
use ndarray::{Array2, Array4};
use prost::Message as _;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use spotter_engine::bundle::{Bundle, Manifest, Override, Padding, Weights};
use spotter_engine::score::ScoringKind;
use spotter_engine::tokenize::Encoding;
use spotter_engine::tower::{ImageTower, TextTower, Threads};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

use crate::quantization::{drawn, drawn_number};
use crate::text_towers::json_of;
use crate::towers::{Weight, save};

fn golden(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/onnx").join(file)
}

struct Goldens(Vec<u8>);

impl Goldens {
    fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn matrix(&self, name: &str) -> Array2<f32> {
        let (shape, values) = self.floats(name);
        Array2::from_shape_vec((shape[0], shape[1]), values).unwrap()
    }

    fn integers(&self, name: &str) -> Vec<Vec<i64>> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values: Vec<i64> = tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        values.chunks(tensor.shape()[1]).map(<[i64]>::to_vec).collect()
    }
}

/// The demo bundle's manifest with the towers of `exporter`.
fn manifest(vision: &TowerFile, text: &TowerFile) -> Manifest {
    let mut manifest = Bundle::open(&e2e::root().join("config/demo")).unwrap().manifest().clone();
    manifest.projection_dim = 12;
    for (tower, built) in [(&mut manifest.vision, vision), (&mut manifest.text, text)] {
        tower.inputs = built.inputs.clone();
        tower.output = built.output.clone();
        tower.features = Some(built.features.clone());
    }
    manifest.tokenizer.max_length = 16;
    manifest
}

#[test]
fn towers_of_both_exporters_give_the_reference_features() {
    let goldens = Goldens(std::fs::read(golden("goldens.safetensors")).unwrap());
    let (shape, pixels) = goldens.floats("pixel_values");
    let pixels = Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), pixels).unwrap();
    let (ids, mask) = (goldens.integers("input_ids"), goldens.integers("attention_mask"));
    let types = goldens.integers("token_type_ids");
    let encodings: Vec<_> = (0..ids.len())
        .map(|i| Encoding {
            ids: ids[i].clone(),
            mask: mask[i].clone(),
            type_ids: types[i].clone(),
            position_ids: (0..).take(ids[i].len()).collect(),
        })
        .collect();
    let (_, weight) = goldens.floats("visual_projection");
    let tokenizer = std::fs::read(golden("tokenizer/tokenizer.json")).unwrap();
    for exporter in ["script", "dynamo"] {
        for (weights, tolerance) in [(Weights::F32, 1e-4), (Weights::Int8, 0.05)] {
            // The newer exporter was given the tower without its projection.
            let projection = (exporter == "dynamo").then(|| Projection { weight: weight.clone(), from: 16 });
            let input = TowerInput::Image([20, 20]);
            let options = Options { input, output: None, projection };
            let plan = weights.into();
            let target = Target { plan: &plan, scratch: &std::env::temp_dir() };
            let vision = tower(&golden(&format!("{exporter}/vision.onnx")), &options, target).unwrap();
            let options = Options { input: TowerInput::Text, output: None, projection: None };
            let text = tower(&golden(&format!("{exporter}/text.onnx")), &options, target).unwrap();
            let manifest = manifest(&vision, &text);
            let image = ImageTower::from_reader(vision.onnx.reader(), &manifest, &Threads::default()).unwrap();
            let mut words =
                TextTower::from_reader(text.onnx.reader(), &tokenizer, &manifest, &Threads::default()).unwrap();
            let first = pixels.index_axis(ndarray::Axis(0), 0);
            let unfused = image.profile(first.as_slice().unwrap(), &|| 0).unwrap().unfused;
            println!("{exporter}: left to tract: {unfused:?}");
            assert!(exporter == "script" || unfused.is_none(), "{exporter}: {unfused:?}");
            for (what, found, expected) in [
                ("image", image.features_batch(pixels.view()).unwrap(), goldens.matrix("image_features")),
                ("text", words.features_batch(&encodings).unwrap(), goldens.matrix("text_features")),
            ] {
                let worst = (&found - &expected).iter().fold(0.0_f32, |worst, v| worst.max(v.abs()));
                println!("{exporter}, {weights:?}, {what}: worst difference {worst:.2e}");
                assert!(worst <= tolerance, "{exporter}, {weights:?}, {what}: {worst}, at most {tolerance} wanted");
            }
        }
    }
}

/// Runs `model-prep` with `arguments`: exit code, standard output, standard error.
fn model_prep(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(e2e::program("model-prep")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A folder with the tokenizer and an image processor for 20 x 20 pixels.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("tokenizer").join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("preprocessor_config.json"), r#"{"size": 20}"#).unwrap();
    folder
}

#[test]
fn onnx_towers_become_a_bundle() {
    let folder = folder();
    let out = folder.path().join("bundle");
    let file = |name: &str| golden(name).display().to_string();
    let projection = format!("{}:visual_projection", file("goldens.safetensors"));
    let (folder, out) = (folder.path().display().to_string(), out.display().to_string());
    let (vision, text) = (file("dynamo/vision.onnx"), file("script/text.onnx"));
    let towers = ["--vision-onnx", &vision, "--text-onnx", &text, "--vision-projection", &projection];
    let arguments = [&["export", &folder, "--out", &out], &towers[..], &["--logit-scale", "x100"]].concat();
    let (code, stdout, stderr) = model_prep(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    println!("{stdout}");
    let bundle = Bundle::open(Path::new(&out)).unwrap();
    let manifest = bundle.manifest();
    assert!((manifest.logit_scale - 100_f32.ln()).abs() < 1e-6 && manifest.projection_dim == 12, "{manifest:?}");
    let mut tower = TextTower::open(&bundle, &Threads::default()).unwrap();
    let goldens = Goldens(std::fs::read(golden("goldens.safetensors")).unwrap());
    let found = tower.embed("a photo of a red circle").unwrap();
    let expected = goldens.matrix("text_features").row(1).to_vec();
    let cosine = found.iter().zip(&expected).map(|(a, b)| a * b).sum::<f32>()
        / expected.iter().map(|v| v * v).sum::<f32>().sqrt();
    assert!(cosine > 0.995, "{cosine}");

    // Mistakes are named.
    let check = |change: &dyn Fn(&mut Vec<String>), parts: &[&str]| {
        let mut arguments: Vec<String> = arguments.iter().map(|part| (*part).to_owned()).collect();
        change(&mut arguments);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, _, stderr) = model_prep(&arguments);
        assert_ne!(code, Some(0), "{arguments:?}");
        println!("{}", stderr.trim());
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        }
    };
    let replace = |from: &'static str, to: String| {
        move |arguments: &mut Vec<String>| {
            let at = arguments.iter().position(|argument| argument == from).unwrap() + 1;
            arguments[at] = to.clone();
        }
    };
    check(&|arguments| arguments.truncate(arguments.len() - 2), &["--logit-scale"]);
    check(&replace("--vision-onnx", text.clone()), &["text.onnx", "inputs", "one, of pixels"]);
    check(&replace("--text-onnx", vision.clone()), &["input image", "input_ids"]);
    check(&replace("--text-onnx", file("goldens.safetensors")), &["goldens.safetensors", "not an ONNX file"]);
    check(&replace("--text-onnx", file("none.onnx")), &["none.onnx", "No such file"]);
    check(&replace("--vision-projection", "x".into()), &["FILE:TENSOR"]);
    let wrong = format!("{}:text_features", file("goldens.safetensors"));
    check(&replace("--vision-projection", wrong), &["output pooled", "expected 12 values", "found 16"]);
    check(&replace("--logit-scale", "x-1".into()), &["logarithm"]);
    let more = |options: &'static [&str]| {
        move |arguments: &mut Vec<String>| arguments.extend(options.iter().map(|option| (*option).to_owned()))
    };
    check(&more(&["--weights", "int4"]), &["vision.onnx", "int4 needs operator set 21", "--weights int8 or f32"]);
    check(&more(&["--image-size", "24"]), &["vision.onnx", "--image-size", "is fixed", "--resize"]);
    check(&more(&["--vision-output", "none"]), &["vision.onnx", "output", "expected none", "pooled"]);
    check(&more(&["--text-padding", "left"]), &["--text-padding", "longest", "max-length"]);
    let recipe = Path::new(&folder).join("preprocessor_config.json");
    std::fs::write(recipe, r#"{"size": 24}"#).unwrap();
    check(&|_| (), &["input image", "[batch, 3, 24, 24]", "[1, 3, 20, 20]"]);
}

/// Arguments of an export with the older exporter's towers, whose outputs have 12 values.
fn arguments(folder: &Path, out: &Path) -> Vec<String> {
    let [vision, text] = ["vision", "text"].map(|tower| golden(&format!("script/{tower}.onnx")).display().to_string());
    let (folder, out) = (folder.display().to_string(), out.display().to_string());
    let arguments = ["export", &folder, "--out", &out, "--vision-onnx", &vision, "--text-onnx", &text];
    arguments.map(str::to_owned).to_vec()
}

/// The manifest written by an export with `options`.
fn exported(folder: &Path, options: &[&str]) -> Manifest {
    let out = folder.join("bundle");
    let all = arguments(folder, &out);
    let all: Vec<&str> = all.iter().map(String::as_str).chain(options.iter().copied()).collect();
    let (code, _, stderr) = model_prep(&all);
    assert_eq!(code, Some(0), "{options:?}: {stderr}");
    Bundle::open(&out).unwrap().manifest().clone()
}

#[test]
fn overrides_of_onnx_towers_are_recorded() {
    let folder = folder();
    let folder = folder.path();
    let entry = |key: &str, from: &str, to: &str, reason: &str| Override {
        key: key.into(),
        from: from.into(),
        to: to.into(),
        reason: reason.into(),
    };
    let manifest = exported(folder, &["--logit-scale", "2", "--reason", "the card says so"]);
    assert_eq!(manifest.overrides, [entry("logit-scale", "none", "2", "the card says so")]);
    assert_eq!((manifest.scoring, manifest.logit_bias), (ScoringKind::Softmax, None));
    let manifest = exported(folder, &["--logit-scale", "2", "--logit-bias", "-1.5", "--template", "a {}"]);
    assert_eq!((manifest.scoring, manifest.logit_bias), (ScoringKind::Sigmoid, Some(-1.5)));
    let by_hand = "given on the command line";
    let expected = [entry("logit-scale", "none", "2", by_hand), entry("template", "a photo of a {}.", "a {}", by_hand)];
    assert_eq!(manifest.overrides, expected);
}

#[test]
fn prompts_are_padded_as_the_tokenizer_or_the_command_line_says() {
    let folder = folder();
    let folder = folder.path();
    let spec = |options: &[&str]| {
        let manifest = exported(folder, &[&["--logit-scale", "2"], options].concat());
        let record: Vec<String> = manifest.overrides.iter().skip(1).map(|made| made.to.clone()).collect();
        (manifest.tokenizer.padding, manifest.tokenizer.max_length, record.join(" "))
    };
    let edit = |file: &str, change: &dyn Fn(&mut Value)| {
        let path = folder.join(file);
        let mut json = json_of(&path);
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
    };
    assert_eq!(spec(&[]), (Padding::Longest, 16, String::new()));
    assert_eq!(spec(&["--text-padding", "max-length"]), (Padding::MaxLength, 16, "max-length".into()));
    assert_eq!(spec(&["--text-padding", "longest"]), (Padding::Longest, 16, String::new()));
    edit("tokenizer.json", &|json| {
        let token = json!({"direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0});
        json["padding"] = token;
        json["padding"]["pad_token"] = json!("[PAD]");
        json["padding"]["strategy"] = json!({"Fixed": 12});
    });
    assert_eq!(spec(&[]), (Padding::MaxLength, 16, String::new()));
    assert_eq!(spec(&["--text-padding", "longest"]), (Padding::Longest, 16, "longest".into()));
    edit("tokenizer_config.json", &|json| json["model_max_length"] = json!(1e30));
    assert_eq!(spec(&[]), (Padding::MaxLength, 12, String::new()));
    // The board gets what the tower was trained with.
    let bundle = Bundle::open(&folder.join("bundle")).unwrap();
    let text = TextTower::open(&bundle, &Threads::default()).unwrap();
    assert_eq!(text.tokenizer().encode("a cat").unwrap().ids.len(), 12);
}

#[test]
fn outputs_and_projections_are_chosen_by_name() {
    let folder = folder();
    let folder = folder.path();
    let weight = |rows: usize, width: usize| {
        let values = (0..rows * width).map(|i| (i * 37 % 11) as f32 / 11.0 - 0.4);
        (Dtype::F32, vec![rows, width], values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
    };
    let all: std::collections::BTreeMap<String, Weight> =
        [("vision".to_owned(), weight(5, 12)), ("text".to_owned(), weight(5, 12))].into();
    save(&folder.join("projections.safetensors"), &all);
    let file = folder.join("projections.safetensors").display().to_string();
    let [vision, text] = ["vision", "text"].map(|name| format!("{file}:{name}"));
    let outputs = ["vision", "text"].map(|name| {
        let onnx = pb::ModelProto::decode(&*std::fs::read(golden(&format!("script/{name}.onnx"))).unwrap()).unwrap();
        onnx.graph.unwrap().output[0].name.clone()
    });
    let options = [
        &["--logit-scale", "2", "--weights", "f32", "--vision-projection", &vision, "--text-projection", &text][..],
        &["--vision-output", &outputs[0], "--text-output", &outputs[1]],
    ];
    let manifest = exported(folder, &options.concat());
    assert_eq!(manifest.projection_dim, 5);
    let bundle = Bundle::open(&folder.join("bundle")).unwrap();
    let goldens = Goldens(std::fs::read(golden("goldens.safetensors")).unwrap());
    let projection = Goldens(std::fs::read(folder.join("projections.safetensors")).unwrap()).matrix("text");
    let expected = goldens.matrix("text_features").dot(&projection.t());
    let ids = goldens.integers("input_ids");
    let mut tower = TextTower::open(&bundle, &Threads::default()).unwrap();
    let row = |values: &[Vec<i64>], i: usize| values[i].clone();
    let encodings: Vec<_> = (0..ids.len())
        .map(|i| Encoding {
            ids: row(&ids, i),
            mask: row(&goldens.integers("attention_mask"), i),
            type_ids: row(&goldens.integers("token_type_ids"), i),
            position_ids: (0..).take(ids[i].len()).collect(),
        })
        .collect();
    let found = tower.features_batch(&encodings).unwrap();
    let worst = (&found - &expected).iter().fold(0.0_f32, |worst, v| worst.max(v.abs()));
    assert!(worst <= 1e-4, "{worst}");
}

#[test]
fn onnx_towers_are_calibrated() {
    let folder = folder();
    let pictures = drawn(folder.path()).display().to_string();
    let prompts = folder.path().join("prompts.txt");
    std::fs::write(&prompts, "a cat\ntwo dogs\na red circle\ngreen\n").unwrap();
    let options = ["--logit-scale", "2", "--max-drop", "0", "--calibrate", &pictures, "--prompts"];
    let manifest = exported(folder.path(), &[&options[..], &[&prompts.display().to_string()]].concat());
    let found = manifest.quantization.calibration.unwrap();
    assert_eq!((found.pictures, found.prompts, found.drop), (drawn_number(), 4, 0.0));
    let lossy = manifest.quantization.layers.iter().filter(|layer| layer.cosine_loss > 0.0).count();
    assert!(lossy > 8, "{:?}", manifest.quantization.layers);
    assert!(folder.path().join("bundle.quantization.md").exists());
}

/// An exporter's file, changed.
fn changed(file: &str, folder: &Path, change: impl FnOnce(&mut pb::ModelProto)) -> PathBuf {
    let path = golden(file);
    let mut model = pb::ModelProto::decode(&*std::fs::read(&path).unwrap()).unwrap();
    change(&mut model);
    let out = folder.join(path.file_name().unwrap());
    std::fs::write(&out, model.encode_to_vec()).unwrap();
    out
}

fn taken(path: &Path, input: TowerInput, plan: &Plan) -> Result<TowerFile, String> {
    let options = Options { input, output: None, projection: None };
    tower(path, &options, Target { plan, scratch: &std::env::temp_dir() }).map_err(|error| error.to_string())
}

#[test]
fn unusable_graphs_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let data = golden("dynamo/vision.onnx.data");
    std::fs::copy(&data, folder.path().join("vision.onnx.data")).unwrap();
    std::fs::copy(golden("dynamo/text.onnx.data"), folder.path().join("text.onnx.data")).unwrap();
    let check = |file: &str, change: &dyn Fn(&mut pb::ModelProto), parts: &[&str]| {
        let path = changed(file, folder.path(), change);
        let input = if file.contains("vision") { TowerInput::Image([20, 20]) } else { TowerInput::Text };
        let error = taken(&path, input, &Weights::Int8.into()).unwrap_err();
        println!("{error}");
        for part in parts.iter().chain(&[path.file_name().unwrap().to_str().unwrap()]) {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    };
    let (vision, text) = ("dynamo/vision.onnx", "script/text.onnx");
    fn graph(model: &mut pb::ModelProto) -> &mut pb::GraphProto {
        model.graph.as_mut().unwrap()
    }
    let typed = |kind: DataType| {
        move |model: &mut pb::ModelProto| {
            let input = graph(model).input[0].r#type.as_mut().unwrap();
            let Some(pb::type_proto::Value::TensorType(tensor)) = &mut input.value else { panic!("a tensor") };
            tensor.elem_type = kind as i32;
        }
    };
    check(vision, &typed(DataType::Float16), &["input", "expected FLOAT", "found FLOAT16"]);
    check(text, &typed(DataType::Int32), &["input input_ids", "expected INT64", "found INT32"]);
    check(vision, &|model| model.opset_import[0].version = 12, &["opset_import", "13 or newer", "found 12"]);
    let op = |kind: &'static str, domain: &'static str| {
        move |model: &mut pb::ModelProto| {
            let node = graph(model).node.iter_mut().find(|node| node.op_type == "MatMul").unwrap();
            (node.op_type, node.domain) = (kind.into(), domain.into());
        }
    };
    check(vision, &op("MatMulInteger", ""), &["node", "the float model", "found MatMulInteger"]);
    check(text, &op("QLinearMatMul", ""), &["the float model", "found QLinearMatMul"]);
    check(vision, &op("FusedMatMul", "com.microsoft"), &["ONNX's own operators", "found com.microsoft.FusedMatMul"]);
    let external = |key: &'static str, value: &'static str| {
        move |model: &mut pb::ModelProto| {
            let outside = |tensor: &&mut pb::TensorProto| tensor.data_location == Some(DataLocation::External as i32);
            let tensor = graph(model).initializer.iter_mut().find(outside).unwrap();
            match tensor.external_data.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => entry.value = value.into(),
                None => tensor.external_data.push(pb::StringStringEntryProto { key: key.into(), value: value.into() }),
            }
        }
    };
    for location in ["../vision.onnx.data", "/etc/passwd", "folder/vision.onnx.data", "..", ""] {
        check(vision, &external("location", location), &["constant", "a file next to the ONNX file", location]);
    }
    check(vision, &external("offset", "99999999999"), &["bytes at 99999999999 of vision.onnx.data"]);
    check(vision, &external("offset", "18446744073709551615"), &["bytes at 18446744073709551615"]);
    check(vision, &external("offset", "-1"), &["a whole number", "offset \"-1\""]);
    check(vision, &external("length", "8"), &["as shape and type say", "length 8"]);
    let huge = |model: &mut pb::ModelProto| {
        external("length", "18446744073709551615")(model);
        graph(model).initializer.iter_mut().for_each(|tensor| tensor.dims = vec![1 << 40, 1 << 40]);
    };
    check(vision, &huge, &["constant", "a valid shape and a numeric type"]);
}

/// The weight of the graph's only `Gemm`, the pooler's: transposed, as exporters write it, or not.
fn gemm(graph: &mut pb::GraphProto, transposed: bool) -> String {
    let nodes: Vec<&mut pb::NodeProto> = graph.node.iter_mut().filter(|node| node.op_type == "Gemm").collect();
    let Ok([node]) = <[&mut pb::NodeProto; 1]>::try_from(nodes) else { panic!("one Gemm") };
    let flag = node.attribute.iter_mut().find(|attribute| attribute.name == "transB").unwrap();
    assert_eq!(flag.i, 1);
    let name = node.input[1].clone();
    if !transposed {
        flag.i = 0;
        let weight = graph.initializer.iter_mut().find(|tensor| tensor.name == name).unwrap();
        assert_eq!(weight.dims, [16, 16]);
        let old: Vec<[u8; 4]> = weight.raw_data.as_chunks().0.to_vec();
        weight.raw_data = (0..16 * 16).flat_map(|i| old[i % 16 * 16 + i / 16]).collect();
    }
    name
}

#[test]
fn gemm_is_a_linear_layer_too() {
    let folder = tempfile::tempdir().unwrap();
    let goldens = Goldens(std::fs::read(golden("goldens.safetensors")).unwrap());
    let (shape, pixels) = goldens.floats("pixel_values");
    let pixels = Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), pixels).unwrap();
    let plain = taken(&golden("script/text.onnx"), TowerInput::Text, &Weights::F32.into()).unwrap();
    for transposed in [false, true] {
        let mut name = String::new();
        let path = changed("script/vision.onnx", folder.path(), |model| {
            name = gemm(model.graph.as_mut().unwrap(), transposed);
        });
        for (weights, tolerance) in [(Weights::F32, 1e-4), (Weights::Int8, 0.05)] {
            let vision = taken(&path, TowerInput::Image([20, 20]), &weights.into()).unwrap();
            let layer = vision.layers.iter().filter(|layer| layer.name == name && layer.width == 16);
            assert_eq!(layer.map(|layer| layer.stored).collect::<Vec<_>>(), [weights], "transposed: {transposed}");
            let manifest = manifest(&vision, &plain);
            let image = ImageTower::from_reader(vision.onnx.reader(), &manifest, &Threads::default()).unwrap();
            let found = image.features_batch(pixels.view()).unwrap();
            let expected = goldens.matrix("image_features");
            let worst = (&found - &expected).iter().fold(0.0_f32, |worst, v| worst.max(v.abs()));
            assert!(worst <= tolerance, "transposed: {transposed}, {weights:?}: {worst}");
        }
    }
}
