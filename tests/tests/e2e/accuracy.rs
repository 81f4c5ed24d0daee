//! What int8 weights cost, measured on photographs that are not part of the repository.
//!
//! `SPOTTER_DATA` names a folder with `tiny-imagenet-val.zip` (`WNID/FILE`), `cifar10-val.zip` (`CLASS/FILE`), and
//! `tiny-imagenet-classes.tsv` (WNID, tab, synonyms separated by commas).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};

use model_prep::checkpoint::Checkpoint;
use model_prep::evaluate::{ImageSet, Options, Outcome, Places, evaluate};
use model_prep::export::export;
use spotter_engine::bundle::Weights;

/// The least cosine between the embeddings of one photograph.
const COSINE_MIN: f64 = 0.995;
/// Percentage points of zero-shot top-1 that int8 may cost.
const DROP_MAX: f64 = 0.5;
/// Too few photographs to say anything.
const PHOTOS_MIN: usize = 200;

fn check(photographs: &Path, labels: Option<PathBuf>, classes: usize, float: &Path) {
    let what = photographs.file_stem().unwrap().to_str().unwrap();
    let set = ImageSet::open(photographs, &Places { labels, captions: None }).unwrap();
    let options = Options { against: Some(float.to_owned()), ..Options::default() };
    let report = evaluate(&e2e::root().join("config/demo"), &set, &options, &|_| ()).unwrap();
    assert!(report.unreadable.is_empty(), "{what}: {:?}", report.unreadable);
    let top_1 = |index: usize| match &report.bundles[index].outcome {
        Outcome::Classification(found) => {
            assert_eq!(found.classes.len(), classes, "{what}");
            100.0 * found.top_1
        }
        Outcome::Retrieval(_) => panic!("{what}: {report:?}"),
    };
    let (int8, float) = (top_1(0), top_1(1));
    let cosines = report.comparison.as_ref().unwrap().pictures.as_ref().unwrap();
    println!(
        "{what}: {} photos, {classes} classes: zero-shot top-1 int8 {int8:.2} %, f32 {float:.2} %; \
         least cosine between them {:.6} ({}); {:.0} photos/s by both on {} threads",
        report.pictures, cosines.min, cosines.worst, report.pictures_per_second, report.threads
    );
    assert!(report.pictures >= PHOTOS_MIN, "{what}: {} photos, at least {PHOTOS_MIN} wanted", report.pictures);
    assert!(cosines.min >= COSINE_MIN, "{what}: {cosines:?}, at least {COSINE_MIN} wanted");
    assert!(float - int8 <= DROP_MAX, "{what}: int8 {int8:.2} %, f32 {float:.2} %: {DROP_MAX} points less at most");
    // Random answers would pass all of the above.
    let chance = 100.0 / classes as f64;
    assert!(int8 > 2.0 * chance, "{what}: {int8:.2} % is hardly more than the {chance:.2} % of guessing");
}

#[test]
fn int8_costs_next_to_nothing_on_photographs() {
    let Some(data) = std::env::var_os("SPOTTER_DATA").map(PathBuf::from) else {
        println!("SKIPPED: SPOTTER_DATA names no folder with tiny-imagenet-val.zip and cifar10-val.zip");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let float = folder.path().join("float");
    let checkpoint = Checkpoint::open(&e2e::root().join("model-prep/demo/checkpoint")).unwrap();
    export(&checkpoint, &float, "demo", Weights::F32, &|| ()).unwrap();
    check(&data.join("tiny-imagenet-val.zip"), Some(data.join("tiny-imagenet-classes.tsv")), 200, &float);
    check(&data.join("cifar10-val.zip"), None, 10, &float);
}
