//! Text towers and tokenizers of every architecture, against transformers 4.56.2
//! (`tests/reference/make_text_towers.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use model_prep::checkpoint::Checkpoint;
use model_prep::export::export;
use safetensors::Dtype;
use serde_json::{Value, json};
use spotter_engine::bundle::{Architecture, Bundle, PaddingSide, Weights};
use spotter_engine::tokenize::{Encoding, Tokenizer};
use spotter_engine::tower::{TextTower, Threads};

use crate::towers::{Weight, copy_files, save, tensors};

const TOWERS: [&str; 7] = ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "clip", "siglip"];

/// Groups of prompts, and whether they are padded on the left whatever the tokenizer says.
const GROUPS: [(&str, bool); 4] = [("many", false), ("one", false), ("long", false), ("left", true)];

const WORST_DIFFERENCE: f32 = 1e-4;

type Tensors = BTreeMap<String, Weight>;

pub(crate) fn text(tower: &str) -> PathBuf {
    e2e::root().join("tests/golden/text").join(tower)
}

fn tiny(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/tiny").join(file)
}

pub(crate) fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The dual encoder of a text tower and the image tower of the tiny checkpoint, with possible changes to config.json
/// and weights.
fn checkpoint(tower: &str, change: impl FnOnce(&mut Value, &mut Tensors)) -> (tempfile::TempDir, PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let folder = guard.path().join("checkpoint");
    copy_files(&text(tower), &folder);
    std::fs::remove_file(folder.join("goldens.safetensors")).unwrap();
    std::fs::remove_file(folder.join("weights.safetensors")).unwrap();
    let mut config = json_of(&tiny("checkpoint/config.json"));
    config["text_config"] = json_of(&folder.join("config.json"));
    let mut weights = tensors(&text(tower).join("weights.safetensors"));
    let image = tensors(&tiny("checkpoint/model.safetensors"));
    weights.extend(image.into_iter().filter(|(name, _)| !name.starts_with("text_")));
    change(&mut config, &mut weights);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    save(&folder.join("model.safetensors"), &weights);
    std::fs::copy(tiny("checkpoint/preprocessor_config.json"), folder.join("preprocessor_config.json")).unwrap();
    (guard, folder)
}

fn exported(checkpoint: &Path, weights: Weights) -> (tempfile::TempDir, PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let bundle = guard.path().join("bundle");
    export(&Checkpoint::open(checkpoint).unwrap(), &bundle, "test", weights, &|| ()).unwrap();
    (guard, bundle)
}

/// The reference's results for a group of prompts.
struct Golden {
    prompts: Vec<String>,
    encodings: Vec<Encoding>,
    features: Vec<Vec<f32>>,
}

impl Golden {
    fn read(tower: &str, group: &str) -> Self {
        let all = tensors(&text(tower).join("goldens.safetensors"));
        let rows = |name: &str| {
            let (_, shape, data) = &all[&format!("{group}.{name}")];
            data.chunks(data.len() / shape[0]).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let integers = |name: &str| {
            let row = |row: Vec<u8>| row.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b).into()).collect();
            rows(name).into_iter().map(row).collect::<Vec<Vec<i64>>>()
        };
        let floats = |row: Vec<u8>| row.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (ids, mask) = (integers("input_ids"), integers("attention_mask"));
        let (types, positions) = (integers("token_type_ids"), integers("position_ids"));
        let columns = ids.into_iter().zip(mask).zip(types.into_iter().zip(positions));
        let encodings = columns
            .map(|((ids, mask), (type_ids, position_ids))| Encoding { ids, mask, type_ids, position_ids })
            .collect();
        let prompts = serde_json::from_value(json_of(&text("prompts.json"))[group].clone()).unwrap();
        Self { prompts, encodings, features: rows("text_features").into_iter().map(floats).collect() }
    }

    fn prompts(&self) -> Vec<&str> {
        self.prompts.iter().map(String::as_str).collect()
    }
}

/// The text tower of a bundle, padding on the left if `left` is set.
fn load(bundle: &Bundle, left: bool, threads: &Threads) -> TextTower {
    let mut manifest = bundle.manifest().clone();
    if left {
        manifest.tokenizer.padding_side = PaddingSide::Left;
        if manifest.text.architecture == Architecture::Clip {
            manifest.tokenizer.pad_id = 0;
        }
    }
    let read = |file| bundle.read(file).unwrap();
    let (onnx, tokenizer) = (read(&manifest.text.file), read(&manifest.tokenizer.file));
    TextTower::load(&onnx, &tokenizer, &manifest, threads).unwrap()
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn assert_same_tokens(tokenizer: &Tokenizer, golden: &Golden, what: &str) {
    let found = tokenizer.encode_batch(&golden.prompts()).unwrap();
    for ((found, expected), prompt) in found.iter().zip(&golden.encodings).zip(&golden.prompts) {
        assert_eq!(found.ids, expected.ids, "{what}: ids of {prompt:?}");
        assert_eq!(found.mask, expected.mask, "{what}: mask of {prompt:?}");
        assert_eq!(found.type_ids, expected.type_ids, "{what}: token types of {prompt:?}");
        assert_eq!(found.position_ids, expected.position_ids, "{what}: positions of {prompt:?}");
    }
}

#[test]
fn text_towers_give_the_reference_features() {
    let mut failed = Vec::new();
    for tower in TOWERS {
        let (_guard, checkpoint) = checkpoint(tower, |_, _| ());
        let (_guard, bundle) = exported(&checkpoint, Weights::F32);
        let bundle = Bundle::open(&bundle).unwrap();
        for threads in [Threads::default(), Threads::default().with_kernels("tract").unwrap()] {
            for (group, left) in GROUPS {
                let golden = Golden::read(tower, group);
                let mut text = load(&bundle, left, &threads);
                assert_same_tokens(text.tokenizer(), &golden, &format!("{tower}: {group}"));
                let found = text.features_batch(&golden.encodings).unwrap();
                let rows = found.outer_iter().zip(&golden.features);
                let batch = rows.map(|(row, golden)| worst(&row.to_vec(), golden)).fold(0.0, f32::max);
                println!("{tower}, {}: {group}: worst difference {batch:.2e}", threads.kernels());
                if batch > WORST_DIFFERENCE {
                    failed.push(format!("{tower}, {}: {group}: {batch}", threads.kernels()));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A tower whose configuration differs from that of its checkpoint.
struct Variant {
    name: String,
    tower: String,
    groups: Vec<String>,
    text_config: Value,
    /// Multiplies the weights of the layers before activations, a power of 2.
    factor: f32,
}

/// What `tests/reference/make_text_variants.py` made.
fn variants() -> Vec<Variant> {
    let all = json_of(&text("variants.json"));
    let variant = |(name, value): (&String, &Value)| Variant {
        name: name.clone(),
        tower: value["tower"].as_str().unwrap().to_owned(),
        groups: serde_json::from_value(value["groups"].clone()).unwrap(),
        text_config: value["text_config"].clone(),
        factor: value["factor"].as_f64().unwrap() as f32,
    };
    let variants: Vec<_> = all.as_object().unwrap().iter().map(variant).collect();
    assert!(variants.len() > 20);
    variants
}

impl Variant {
    fn bundle(&self, further: &Tensors, weights: Weights) -> (tempfile::TempDir, PathBuf) {
        let (_guard, checkpoint) = checkpoint(&self.tower, |config, weights| {
            for (key, value) in self.text_config.as_object().unwrap() {
                config["text_config"][key] = value.clone();
            }
            let prefix = format!("{}.weights.", self.name);
            let further = further.iter().filter_map(|(name, weight)| Some((name.strip_prefix(&prefix)?, weight)));
            weights.extend(further.map(|(name, weight)| (name.to_owned(), weight.clone())));
            let is_scaled = |name: &str| name.starts_with("text_model.") && name.ends_with("intermediate.dense.weight");
            for (_, (dtype, _, data)) in weights.iter_mut().filter(|(name, _)| is_scaled(name)) {
                assert_eq!(*dtype, Dtype::BF16);
                for bytes in data.as_chunks_mut::<2>().0 {
                    let value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16) * self.factor;
                    *bytes = ((value.to_bits() >> 16) as u16).to_le_bytes();
                }
            }
        });
        exported(&checkpoint, weights)
    }

    fn features(&self, all: &Tensors, group: &str) -> Vec<f32> {
        let (_, _, data) = &all[&format!("{}.{group}.text_features", self.name)];
        data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// True if the engine leaves the tower to tract.
    fn is_left_to_tract(&self) -> bool {
        self.tower == "mpnet" || self.text_config.get("position_embedding_type").is_some()
    }
}

#[test]
fn other_configurations_of_text_towers_give_the_reference_features() {
    let all = tensors(&text("variants.safetensors"));
    let mut failed = Vec::new();
    for variant in variants() {
        let (_guard, bundle) = variant.bundle(&all, Weights::F32);
        let (_guard, int8) = variant.bundle(&all, Weights::Int8);
        let [bundle, int8] = [bundle, int8].map(|path| Bundle::open(&path).unwrap());
        for (group, threads) in
            variant.groups.iter().flat_map(|group| ["", "tract"].map(|kernels| (group, kernels))).map(
                |(group, kernels)| {
                    let threads = Threads::default();
                    (group, if kernels.is_empty() { threads } else { threads.with_kernels(kernels).unwrap() })
                },
            )
        {
            let (golden, expected) = (Golden::read(&variant.tower, group), variant.features(&all, group));
            let run = |bundle: &Bundle| {
                let mut tower = load(bundle, group == "left", &threads);
                let fused = tower.unfused().is_none();
                assert_eq!(fused, threads.kernels() != "tract" && !variant.is_left_to_tract(), "{}", variant.name);
                tower.features_batch(&golden.encodings).unwrap().into_raw_vec_and_offset().0
            };
            let difference = worst(&run(&bundle), &expected);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let found = run(&int8);
            let cosine = dot(&found, &expected) / (dot(&found, &found) * dot(&expected, &expected)).sqrt();
            println!("{}, {}: {group}: {difference:.2e}, int8 cosine {cosine}", variant.name, threads.kernels());
            if difference > WORST_DIFFERENCE || cosine < 0.99 {
                failed.push(format!("{}, {}: {group}: {difference}, {cosine}", variant.name, threads.kernels()));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// With distances instead of positions, no row of the position table is for padding.
#[test]
fn relative_positions_need_no_position_ids() {
    let all = tensors(&text("variants.safetensors"));
    for (name, tokens) in [("bert_relative_key", 40), ("roberta_relative_key_query", 66)] {
        let variant = variants().into_iter().find(|variant| variant.name == name).unwrap();
        let (_guard, path) = variant.bundle(&all, Weights::F32);
        let bundle = Bundle::open(&path).unwrap();
        let inputs: Vec<_> = bundle.manifest().text.inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(inputs, ["input_ids", "attention_mask", "token_type_ids"][..inputs.len()], "{name}");
        assert_eq!(bundle.manifest().tokenizer.max_length, tokens, "{name}");
        // The longest prompt has the largest distances.
        let mut tower = load(&bundle, false, &Threads::default());
        assert!(tower.embed(&"a photo of a cat ".repeat(tokens)).unwrap().iter().all(|value| value.is_finite()));
    }
}

#[test]
fn prompts_lose_their_first_tokens_where_the_tokenizer_says_so() {
    let all = tensors(&text("variants.safetensors"));
    for tower in TOWERS {
        let (_guard, folder) = checkpoint(tower, |_, _| ());
        let path = folder.join("tokenizer_config.json");
        let mut config = json_of(&path);
        config["truncation_side"] = json!("left");
        std::fs::write(&path, config.to_string()).unwrap();
        let (_guard, bundle) = exported(&folder, Weights::F32);
        let text = load(&Bundle::open(&bundle).unwrap(), false, &Threads::default());
        let golden = Golden::read(tower, "long");
        let (_, _, data) = &all[&format!("{tower}.truncated")];
        let expected: Vec<i64> = data.as_chunks().0.iter().map(|bytes| i16::from_le_bytes(*bytes).into()).collect();
        let found = text.tokenizer().encode(&golden.prompts[0]).unwrap().ids;
        assert_eq!(found, expected, "{tower}");
        assert_ne!(found, golden.encodings[0].ids, "{tower}: the prompt is not truncated");
        // Short prompts stay whole.
        assert_same_tokens(text.tokenizer(), &Golden::read(tower, "one"), tower);
    }
}

#[test]
fn padding_by_the_engine_changes_no_prompt() {
    for tower in TOWERS {
        let (_guard, checkpoint) = checkpoint(tower, |_, _| ());
        let (_guard, bundle) = exported(&checkpoint, Weights::F32);
        let golden = Golden::read(tower, "many");
        for threads in [Threads::default(), Threads::default().with_kernels("tract").unwrap()] {
            let mut text = load(&Bundle::open(&bundle).unwrap(), false, &threads);
            for (prompt, features) in golden.prompts.iter().zip(&golden.features) {
                // Padding on the right changes no pooled token: a prompt alone has the features it has in a batch.
                let encoding = text.tokenizer().encode(prompt).unwrap();
                let found = text.features_batch(&[encoding]).unwrap();
                let worst = worst(found.as_slice().unwrap(), features);
                assert!(worst <= WORST_DIFFERENCE, "{tower}, {}: {prompt:?}: {worst}", threads.kernels());
            }
        }
    }
}

#[test]
fn int8_text_towers_stay_close_to_the_reference() {
    for tower in TOWERS {
        let (_guard, checkpoint) = checkpoint(tower, |_, _| ());
        let (_guard, bundle) = exported(&checkpoint, Weights::Int8);
        let golden = Golden::read(tower, "many");
        let mut text = load(&Bundle::open(&bundle).unwrap(), false, &Threads::default());
        let found = text.features_batch(&golden.encodings).unwrap();
        let cosines = found.outer_iter().zip(&golden.features).map(|(row, golden)| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let row = row.to_vec();
            dot(&row, golden) / (dot(&row, &row) * dot(golden, golden)).sqrt()
        });
        let lowest = cosines.fold(1.0, f32::min);
        println!("{tower}: lowest cosine {lowest}");
        // Tiny towers suffer more from quantisation than those of real size.
        assert!(lowest >= 0.99, "{tower}: lowest cosine {lowest}");
    }
}

/// Checks that the tokenizer of a changed checkpoint gives the reference's tokens.
fn check_tokenizer(tower: &str, what: &str, change: impl FnOnce(&Path)) {
    let (_guard, folder) = checkpoint(tower, |_, _| ());
    change(&folder);
    let (_guard, bundle) = exported(&folder, Weights::F32);
    let text = load(&Bundle::open(&bundle).unwrap(), false, &Threads::default());
    for group in ["many", "one", "long"] {
        assert_same_tokens(text.tokenizer(), &Golden::read(tower, group), &format!("{tower}, {what}: {group}"));
    }
}

#[test]
fn vocabularies_replace_tokenizer_json() {
    let remove = |folder: &Path, files: &[&str]| {
        files.iter().for_each(|file| std::fs::remove_file(folder.join(file)).unwrap());
    };
    for tower in ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "clip"] {
        check_tokenizer(tower, "no tokenizer.json", |folder| remove(folder, &["tokenizer.json"]));
    }
    // Tokenizers whose configuration only repeats the defaults of their class.
    for tower in ["roberta", "xlm-roberta", "mpnet"] {
        let files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
        check_tokenizer(tower, "vocabulary alone", |folder| remove(folder, &files));
    }
}

#[test]
fn tokenizer_files_of_transformers_5_mean_the_same() {
    for tower in ["roberta", "camembert", "clip"] {
        check_tokenizer(tower, "transformers 5", |folder| {
            for file in ["special_tokens_map.json", "tokenizer_config.json"] {
                std::fs::remove_file(folder.join(file)).unwrap();
            }
            let new = text(tower).join("generation_5_tokenizer_config.json");
            std::fs::copy(new, folder.join("tokenizer_config.json")).unwrap();
        });
    }
}

#[test]
fn names_of_transformers_5_give_the_same_bundle() {
    let renamed: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_value(json_of(&text("generation_5.json"))).unwrap();
    assert!(renamed["clip"].len() > 10, "CLIP's names are known to differ");
    for tower in TOWERS {
        let (_guard, old) = checkpoint(tower, |_, _| ());
        let (_guard, new) = checkpoint(tower, |_, weights| {
            for (old, new) in renamed.get(tower).into_iter().flatten() {
                let weight = weights.remove(old).unwrap();
                weights.insert(new.clone(), weight);
            }
        });
        let [(_old, old), (_new, new)] = [old, new].map(|checkpoint| exported(&checkpoint, Weights::F32));
        for file in ["bundle.json", "text.onnx", "tokenizer.json"] {
            let same = std::fs::read(old.join(file)).unwrap() == std::fs::read(new.join(file)).unwrap();
            assert!(same, "{tower}: {file} differs");
        }
    }
}

#[test]
fn the_largest_id_is_pooled_where_clip_says_eos_2() {
    let (_guard, checkpoint) = checkpoint("clip", |config, _| config["text_config"]["eos_token_id"] = json!(2));
    let (_guard, bundle) = exported(&checkpoint, Weights::F32);
    let golden = Golden::read("clip", "many");
    let legacy = tensors(&text("clip").join("goldens.safetensors"))["legacy.text_features"].2.clone();
    let legacy: Vec<f32> = legacy.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert!(worst(&legacy, &golden.features.concat()) > 0.1, "both rules choose the same tokens");
    for threads in [Threads::default(), Threads::default().with_kernels("tract").unwrap()] {
        let mut text = load(&Bundle::open(&bundle).unwrap(), false, &threads);
        let found = text.features_batch(&golden.encodings).unwrap();
        let worst = worst(found.as_slice().unwrap(), &legacy);
        assert!(worst <= WORST_DIFFERENCE, "{}: {worst}", threads.kernels());
    }
}

#[test]
fn a_plain_siglip_has_the_output_of_its_head_as_features() {
    let vision = e2e::root().join("tests/golden/vision");
    let (_guard, folder) = checkpoint("siglip", |config, weights| {
        config["model_type"] = json!("siglip");
        config["vision_config"] = json_of(&vision.join("cases.json"))["siglip"]["vision_config"].clone();
        let text = std::mem::take(weights).into_iter().filter(|(name, _)| name.starts_with("text_model."));
        weights.extend(text.map(|(name, weight)| (name.replacen("text_model.", "", 1), weight)));
        let image = tensors(&vision.join("siglip.safetensors")).into_iter();
        let image = image.filter(|(name, _)| name.starts_with("vision_model."));
        weights.extend(image.map(|(name, weight)| (name.replacen("vision_model.", "", 1), weight)));
        for name in ["logit_scale", "logit_bias"] {
            weights.insert(name.into(), (Dtype::F32, vec![1], 1.5_f32.to_le_bytes().to_vec()));
        }
    });
    let mut preprocessor = json_of(&folder.join("preprocessor_config.json"));
    preprocessor["size"] = json!({"height": 20, "width": 20});
    std::fs::write(folder.join("preprocessor_config.json"), preprocessor.to_string()).unwrap();
    let (_guard, bundle) = exported(&folder, Weights::F32);
    let bundle = Bundle::open(&bundle).unwrap();
    let golden = Golden::read("siglip", "many");
    let pooled = tensors(&text("siglip").join("goldens.safetensors"))["many.pooled"].2.clone();
    let pooled: Vec<f32> = pooled.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for threads in [Threads::default(), Threads::default().with_kernels("tract").unwrap()] {
        let mut text = load(&bundle, false, &threads);
        assert_same_tokens(text.tokenizer(), &golden, "siglip");
        let found = text.features_batch(&golden.encodings).unwrap();
        let worst = worst(found.as_slice().unwrap(), &pooled);
        assert!(worst <= WORST_DIFFERENCE, "{}: {worst}", threads.kernels());
    }
}

#[test]
fn unsupported_text_towers_are_refused_with_the_reason() {
    let check = |tower: &str, change: &dyn Fn(&mut Value, &mut Tensors), expected: &[&str]| {
        let (guard, folder) = checkpoint(tower, |config, weights| change(&mut config["text_config"], weights));
        let refused = Checkpoint::open(&folder).map_err(|e| e.to_string()).and_then(|checkpoint| {
            let out = guard.path().join("bundle");
            export(&checkpoint, &out, "test", Weights::F32, &|| ()).map_err(|e| e.to_string())
        });
        let message = refused.expect_err(tower);
        for part in expected {
            assert!(message.contains(part), "{tower}: {part:?} is not in: {message}");
        }
    };
    for kind in ["distilbert", "electra"] {
        let found = format!("\"{kind}\"");
        check(
            "bert",
            &|config, _| config["model_type"] = json!(kind),
            &["text_config.model_type", &found, "no pooler"],
        );
    }
    check("bert", &|config, _| config["model_type"] = json!("albert"), &["\"albert\"", "\"xlm-roberta\""]);
    for (key, value, expected) in [
        ("hidden_act", json!("prelu"), ["trained parameters in every layer", "train the tower with one of"]),
        ("hidden_act", json!("xielu"), ["trained parameters in every layer", "leaky_relu"]),
        ("hidden_act", json!("gelu_11"), ["\"gelu_11\"", "gelu_pytorch_tanh"]),
        ("position_embedding_type", json!("rotary"), ["\"rotary\"", "\"relative_key_query\""]),
        ("layer_norm_eps", json!(-1e-9), ["from 0 to below 1", "-1e-9"]),
    ] {
        check("bert", &|config, _| config[key] = value.clone(), &[&[key][..], &expected].concat());
    }
    check(
        "roberta",
        &|_, weights| weights.retain(|name, _| !name.starts_with("text_model.pooler")),
        &["missing tensor text_model.pooler.dense.weight", "add_pooling_layer"],
    );
    check("roberta", &|config, _| config["pad_token_id"] = json!(600), &["text_config.pad_token_id", "found 600"]);
    check("roberta", &|config, _| config["pad_token_id"] = json!(0), &["\"<pad>\" has the id 1", "padding id 0"]);
    check("clip", &|config, _| config["eos_token_id"] = json!([1, 2]), &["text_config.eos_token_id", "a token id"]);
    check("siglip", &|config, _| config["projection_size"] = json!(16), &["text_model.head", "[16, 16]", "[40, 16]"]);
    check(
        "mpnet",
        &|config, _| config["relative_attention_num_buckets"] = json!(8),
        &["relative_attention_num_buckets", "at least 32", "found 8"],
    );
}

#[test]
fn unsupported_tokenizers_are_refused_with_the_reason() {
    let check = |tower: &str, files: &[(&str, &[u8])], expected: &[&str]| {
        let (_guard, folder) = checkpoint(tower, |_, _| ());
        std::fs::remove_file(folder.join("tokenizer.json")).ok();
        files.iter().for_each(|(file, content)| std::fs::write(folder.join(file), content).unwrap());
        let message = Checkpoint::open(&folder).map(drop).expect_err(tower).to_string();
        for part in expected {
            assert!(message.contains(part), "{tower}: {part:?} is not in: {message}");
        }
    };
    let model = "sentencepiece.bpe.model";
    check("roberta", &[("merges.txt", b"#version\na b\na b c\n")], &["merges.txt", "line 3", "\"a b c\""]);
    check("roberta", &[("merges.txt", b"#version\n\xff")], &["merges.txt", "not UTF-8"]);
    check("roberta", &[("merges.txt", b"#version\nzz zz\n")], &["vocab.json", "unusable tokenizer"]);
    check("roberta", &[("vocab.json", b"{\"a\": 0}")], &["vocab.json", "\"<s>\" is not in the vocabulary"]);
    check("clip", &[("vocab.json", b"[1]")], &["vocab.json", "not valid JSON"]);
    check("xlm-roberta", &[(model, b"\x0a\xff\xff")], &[model, "not a SentencePiece model"]);
    // trainer_spec.model_type 2 is BPE.
    check("xlm-roberta", &[(model, b"\x12\x02\x18\x02")], &[model, "type 2", "tokenizer.json"]);
    // One piece of type 6, a byte.
    check("camembert", &[(model, b"\x0a\x05\x0a\x01a\x18\x06")], &[model, "\"a\"", "a byte"]);
    // normalizer_spec.precompiled_charsmap says 255 bytes and has none.
    check("xlm-roberta", &[(model, b"\x1a\x06\x12\x04\xff\0\0\0")], &[model, "character map", "cut short"]);
    let middle = b"{\"truncation_side\": \"middle\"}";
    check("mpnet", &[("tokenizer_config.json", middle)], &["truncation_side", "\"left\" or \"right\"", "\"middle\""]);
    let file = std::fs::read(text("bert").join("tokenizer.json")).unwrap();
    for (config, expected) in [
        (json!({"tokenizer_class": "BertJapaneseTokenizer"}), ["runs in Python", "PreTrainedTokenizerFast"]),
        (json!({"tokenizer_class": "MBartTokenizerFast"}), ["the token of a language", "PreTrainedTokenizerFast"]),
        (json!({"tokenizer_class": "LayoutXLMTokenizer"}), ["boxes or nodes", "PreTrainedTokenizerFast"]),
        (json!({"tokenizer_class": "OwnTokenizer", "auto_map": {}}), ["its own code", "remove auto_map"]),
        (json!({"tokenizer_class": "CodeGenTokenizer", "add_bos_token": true}), ["add_bos_token", "does not add it"]),
    ] {
        let files = [("tokenizer_config.json", config.to_string().into_bytes()), ("tokenizer.json", file.clone())];
        let files = files.each_ref().map(|(name, content)| (*name, content.as_slice()));
        check("bert", &files, &expected);
    }
}

#[test]
fn text_towers_are_standard_onnx() {
    let Some(python) = e2e::python(&["onnx", "onnxruntime"]) else { return };
    let mut command = Command::new(python);
    command.arg(e2e::root().join("tests/reference/check_onnx.py"));
    let mut guards = Vec::new();
    let further = tensors(&text("variants.safetensors"));
    let towers = TOWERS.into_iter().map(|tower| {
        let (_guard, checkpoint) = checkpoint(tower, |_, _| ());
        (exported(&checkpoint, Weights::F32), Golden::read(tower, "many"))
    });
    let changed = variants().into_iter().map(|variant| {
        let mut golden = Golden::read(&variant.tower, &variant.groups[0]);
        let features = variant.features(&further, &variant.groups[0]);
        golden.features = features.chunks(golden.features[0].len()).map(<[f32]>::to_vec).collect();
        (variant.bundle(&further, Weights::F32), golden)
    });
    for ((bundle_guard, bundle), golden) in towers.chain(changed) {
        let guard = tempfile::tempdir().unwrap();
        let mut all = tensors(&tiny("goldens.safetensors"));
        let shape = vec![golden.prompts.len(), golden.encodings[0].ids.len()];
        for (name, column) in [
            ("input_ids", (|e| &e.ids) as fn(&Encoding) -> &Vec<i64>),
            ("attention_mask", |e| &e.mask),
            ("token_type_ids", |e| &e.type_ids),
            ("position_ids", |e| &e.position_ids),
        ] {
            let bytes = golden.encodings.iter().flat_map(|e| column(e).iter().flat_map(|v| v.to_le_bytes()));
            all.insert(name.into(), (Dtype::I64, shape.clone(), bytes.collect()));
        }
        let embeds = golden.features.iter().flat_map(|row| {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter().flat_map(move |v| (v / norm).to_le_bytes())
        });
        let embeds = (Dtype::F32, vec![golden.prompts.len(), golden.features[0].len()], embeds.collect());
        all.insert("text_embeds".into(), embeds);
        let expected = guard.path().join("expected.safetensors");
        save(&expected, &all);
        command.arg(format!("{}={}", bundle.display(), expected.display()));
        guards.push((guard, bundle_guard));
    }
    let output = command.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
