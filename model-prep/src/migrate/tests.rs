//! Trained towers have channels that are far larger than others, and weights that make up for it. The demo model, given
//! such channels, must lose no more as integers than it does without them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use spotter_engine::bundle::Weights;

use crate::checkpoint::Checkpoint;
use crate::export::export;
use crate::verify::verify;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/checkpoint")
}

/// Multiplies `count` channels of `writers` by `factor`, and divides the columns of `readers` that read them.
fn scale(tensors: &mut Tensors, writers: [String; 2], readers: &[String], factor: f32, first: usize) {
    let width = tensors[&writers[0]].0[0];
    let channels: Vec<usize> = (0..width / 32).map(|index| (first + index * 37) % width).collect();
    for name in writers {
        let (shape, values) = tensors.get_mut(&name).unwrap();
        let row = values.len() / shape[0];
        for channel in &channels {
            values[channel * row..][..row].iter_mut().for_each(|value| *value *= factor);
        }
    }
    for name in readers {
        let (_, values) = tensors.get_mut(name).unwrap();
        for row in values.chunks_exact_mut(width) {
            channels.iter().for_each(|channel| row[*channel] /= factor);
        }
    }
}

/// A copy of the demo checkpoint with channels `factor` times the others before every linear layer for which a writer can
/// be scaled.
fn with_outliers(folder: &Path, factor: f32) -> PathBuf {
    let copy = folder.join(format!("outliers-{factor}"));
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(demo()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let bytes = std::fs::read(demo().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let read = |(name, view): (String, TensorView<'_>)| (name, (view.shape().to_vec(), floats(view.data())));
    let mut tensors: Tensors = file.tensors().into_iter().map(read).collect();
    let both = |name: &str| ["weight", "bias"].map(|part| format!("{name}.{part}"));
    let names: Vec<String> = tensors.keys().cloned().collect();
    for (seed, name) in names.iter().enumerate() {
        if let Some(layer) = name.strip_suffix(".layernorm_before.weight") {
            let readers = ["query", "key", "value"].map(|part| format!("{layer}.attention.attention.{part}.weight"));
            scale(&mut tensors, both(&format!("{layer}.layernorm_before")), &readers, factor, seed);
            let reader = [format!("{layer}.intermediate.dense.weight")];
            scale(&mut tensors, both(&format!("{layer}.layernorm_after")), &reader, factor, 3 * seed);
            let reader = [format!("{layer}.attention.output.dense.weight")];
            scale(&mut tensors, both(&format!("{layer}.attention.attention.value")), &reader, factor, 5 * seed);
        }
        if let Some(attention) = name.strip_suffix(".self.value.weight") {
            let reader = [format!("{attention}.output.dense.weight")];
            scale(&mut tensors, both(&format!("{attention}.self.value")), &reader, factor, 7 * seed);
        }
    }
    let bytes: Vec<Vec<u8>> = tensors.values().map(|(_, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for ((name, (shape, _)), bytes) in tensors.iter().zip(&bytes) {
        views.push((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    }
    std::fs::write(copy.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    copy
}

#[test]
fn outlier_channels_cost_next_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let worst = |factor: f32| {
        let checkpoint = Checkpoint::open(&with_outliers(folder.path(), factor)).unwrap();
        let bundle = folder.path().join(format!("bundle-{factor}"));
        export(&checkpoint, &bundle, "test", Weights::Int8, &|| ()).unwrap();
        let report = verify(&bundle, &checkpoint, None, None, &|| ()).unwrap();
        let top1 = report.top1;
        assert!(top1.images == 40 && top1.labels == 24 && top1.same >= 38, "{factor} times: {top1:?}");
        assert!(report.to_string().contains(&format!("the same for {} of 40 images", top1.same)), "{report}");
        let [row] = &report.rows[..] else { panic!("{} rows", report.rows.len()) };
        [row.image.cosine_min, row.text.cosine_min]
    };
    let plain = worst(1.0);
    for factor in [20.0, 100.0] {
        let found = worst(factor);
        println!("{factor} times: {found:?}, without: {plain:?}");
        for (found, plain) in found.into_iter().zip(plain) {
            assert!(found >= plain - 0.001, "{factor} times: {found}, without {plain}");
        }
    }
}
