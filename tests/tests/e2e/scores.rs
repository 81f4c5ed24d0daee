//! Logits, probabilities and losses of batches, against transformers 4.56.2 (`tests/reference/make_scores.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use ndarray::{Array2, ArrayView2};
use safetensors::SafeTensors;
use spotter_engine::score::{LossError, Scoring, ScoringKind};

/// A tensor as a matrix, with one row if it has one axis; `None` if it is missing.
fn tensor(file: &SafeTensors<'_>, name: &str) -> Option<Array2<f32>> {
    let tensor = file.tensor(name).ok()?;
    let columns = *tensor.shape().last().unwrap();
    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Some(Array2::from_shape_vec((values.len() / columns, columns), values).unwrap())
}

fn check(what: &str, found: ArrayView2<'_, f32>, expected: &Array2<f32>, tolerance: f32) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: worst difference {worst:e}, at most {tolerance:e} wanted");
}

#[test]
fn batches_score_as_in_the_reference() {
    let bytes = std::fs::read(e2e::root().join("tests/golden/scores.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases: Vec<_> = file.names().iter().filter_map(|n| n.strip_suffix(".image_embeds")).collect();
    cases.sort_unstable();
    assert_eq!(cases.len(), 2 * 4 * 3, "{cases:?}");
    for case in cases {
        let get = |name: &str| tensor(&file, &format!("{case}.{name}"));
        let kind = if case.starts_with("siglip") { ScoringKind::Sigmoid } else { ScoringKind::Softmax };
        let logit_scale = get("logit_scale").unwrap()[[0, 0]];
        let scoring = Scoring { logit_scale, logit_bias: get("logit_bias").map(|bias| bias[[0, 0]]), kind };
        assert_eq!(scoring.logit_bias.is_some(), kind == ScoringKind::Sigmoid, "{case}");

        let (images, texts) = (get("image_embeds").unwrap(), get("text_embeds").unwrap());
        let (per_image, per_text) = (get("logits_per_image").unwrap(), get("logits_per_text").unwrap());
        // Cosines are summed in another order, and differ by a few units in the last place.
        let tolerance = 5e-7 * logit_scale.exp() + 1e-6;
        let found = scoring.logits_per_image(images.view(), texts.view());
        check(&format!("{case}: logits_per_image"), found.view(), &per_image, tolerance);
        let found = scoring.logits_per_text(texts.view(), images.view());
        check(&format!("{case}: logits_per_text"), found.view(), &per_text, tolerance);

        let found = scoring.probabilities(per_image.view());
        check(&format!("{case}: probabilities"), found.view(), &get("probabilities").unwrap(), 1e-6);
        let found = scoring.loss(per_text.view());
        match get("loss") {
            Some(expected) => {
                let (found, expected) = (found.unwrap(), f64::from(expected[[0, 0]]));
                println!("{case}: loss {found}, reference {expected}");
                assert!((found - expected).abs() <= 1e-6 * expected.max(1.0), "{case}: loss {found}, not {expected}");
            }
            None => assert_eq!(found, Err(LossError { texts: texts.nrows(), images: images.nrows() }), "{case}"),
        }
    }
}
