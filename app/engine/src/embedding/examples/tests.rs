use ndarray::{arr2, array};

use super::*;

/// Factor of a CLIP model.
const FACTOR: f32 = 100.0;

/// Factor of a small model that is less sure of itself.
const FACTOR_SMALL: f32 = 7.4;

/// A picture: a common direction (axis 0), a share of the thing (axis 1), and something of its own.
fn picture(thing: f32, own: usize) -> Vec<f32> {
    let mut values = vec![0.8, thing, 0.0, 0.0, 0.0, 0.0];
    values[2 + own % 3] += 0.4;
    normalize(&mut values);
    values
}

fn pictures(things: &[f32]) -> Vec<Vec<f32>> {
    things.iter().enumerate().map(|(own, thing)| picture(*thing, own)).collect()
}

/// Sentences: a cosine of about 0.2 with every picture.
fn text(thing: f32) -> Vec<f32> {
    let mut values = vec![0.2, thing, 0.0, 0.0, 0.0, 1.0];
    normalize(&mut values);
    values
}

#[test]
fn pictures_that_differ_from_the_contrast_help_and_others_are_ignored() {
    struct Case {
        what: &'static str,
        text: f32,
        examples: Vec<Vec<f32>>,
        contrast: Vec<Vec<f32>>,
        strength: std::ops::RangeInclusive<f32>,
    }
    let things = [0.5, 0.6, 0.4, 0.5, 0.6, 0.4];
    let nothing = [0.0, 0.1, -0.1, 0.0, 0.1, -0.1];
    let cases = [
        Case {
            what: "sentences that know nothing",
            text: 0.0,
            examples: pictures(&things),
            contrast: pictures(&nothing),
            strength: 0.25..=2.0,
        },
        Case {
            what: "sentences that are wrong",
            text: -0.1,
            examples: pictures(&things),
            contrast: pictures(&nothing),
            strength: 0.25..=2.0,
        },
        Case {
            what: "sentences that tell them apart by themselves",
            text: 1.0,
            examples: pictures(&things),
            contrast: pictures(&nothing),
            strength: 0.0..=0.0,
        },
        Case {
            what: "the same pictures on both sides",
            text: 0.0,
            examples: pictures(&nothing),
            contrast: pictures(&nothing),
            strength: 0.0..=0.0,
        },
        Case {
            what: "nothing to tell them from",
            text: 0.0,
            examples: pictures(&things),
            contrast: Vec::new(),
            strength: 0.0..=0.0,
        },
        Case {
            what: "no examples",
            text: 0.0,
            examples: Vec::new(),
            contrast: pictures(&nothing),
            strength: 0.0..=0.0,
        },
        Case {
            what: "one example",
            text: 0.0,
            examples: pictures(&things[..1]),
            contrast: pictures(&nothing),
            strength: STRENGTH_FEW..=STRENGTH_FEW,
        },
    ];
    for Case { what, text: thing, examples, contrast, strength } in cases {
        let text = text(thing);
        let found = blend(&text, &examples, &contrast, FACTOR);
        assert!(strength.contains(&found.strength), "{what}: {found:?}");
        assert_eq!(found.agreement.is_some(), examples.len() > 1 && contrast.len() > 1, "{what}");
        assert_eq!(found.embedding.len(), text.len(), "{what}");
        if found.strength == 0.0 {
            assert_eq!(found.embedding, text, "{what}");
            continue;
        }
        let mean_cosine = |pictures: &[Vec<f32>], with: &[f32]| {
            pictures.iter().map(|p| dot(p, with)).sum::<f32>() / pictures.len() as f32
        };
        let gain = |pictures: &[Vec<f32>]| mean_cosine(pictures, &found.embedding) - mean_cosine(pictures, &text);
        let (up, down) = (gain(&examples), gain(&contrast));
        assert!(up > 0.01 && down < -0.01, "{what}: {up} {down}");
        assert!((up + down).abs() < 0.2 * (up - down), "{what}: what is half-way keeps its cosine: {up} {down}");
    }
}

#[test]
fn agreement_says_what_the_sentences_and_the_pictures_know() {
    let (examples, contrast) = (pictures(&[0.5, 0.6, 0.4]), pictures(&[0.0, 0.02, -0.02]));
    let agreement = |thing| blend(&text(thing), &examples, &contrast, FACTOR).agreement.expect("enough pictures");
    let wrong = agreement(-0.2);
    assert!(wrong.sentences < 0.1 && wrong.blend > 0.9, "{wrong:?}");
    let right = agreement(0.5);
    assert!(right.sentences > 0.9 && right.blend > 0.9, "{right:?}");
}

#[test]
fn a_picture_left_out_is_no_part_of_its_mean() {
    // Pictures that have nothing in common: with themselves in the mean each would look like an example.
    let axis = |at: usize| (0..8).map(|i| if i == at { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let (examples, contrast) = ([axis(0), axis(1)], [axis(2), axis(3)]);
    let side = Side::new(&axis(7), &examples, &contrast);
    assert_eq!(side.0, [(0.0, 0.0), (0.0, 0.0)]);
    assert_eq!(blend(&axis(7), &examples, &contrast, FACTOR).strength, 0.0);
}

#[test]
fn labels_of_a_set_move_towards_their_images_and_away_from_those_of_others() {
    struct Case<'a> {
        what: &'a str,
        examples: [Vec<&'a [f32]>; 3],
        expected: [[f32; 3]; 3],
    }
    let texts = array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]];
    let (one, two) = ([0.6, 0.0, 0.8], [0.0, 0.6, 0.8]);
    // Both means have the same norm, so that no common direction is left in their difference.
    let (there, back, nothing) = ([0.6, -0.6, 0.0], [-0.6, 0.6, 0.0], [0.0; 3]);
    for Case { what, examples, expected } in [
        Case {
            what: "one label has more examples",
            examples: [vec![&one[..]], vec![&two[..], &two[..]], Vec::new()],
            expected: [there, back, nothing],
        },
        Case {
            what: "all labels have the same",
            examples: [vec![&one[..]], vec![&one[..]], vec![&one[..]]],
            expected: [nothing; 3],
        },
        Case {
            what: "nothing to be told apart from",
            examples: [Vec::new(), vec![&one[..], &two[..]], Vec::new()],
            expected: [nothing; 3],
        },
        Case { what: "no examples", examples: [Vec::new(), Vec::new(), Vec::new()], expected: [nothing; 3] },
    ] {
        let found = directions(&examples, 3);
        for (row, expected) in found.outer_iter().zip(expected) {
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{what}: {row} for {expected:?}");
        }
    }
    let examples = [vec![one.to_vec(); 2], vec![two.to_vec(); 2], Vec::new()];
    let found = blend_set(texts.view(), &examples, FACTOR_SMALL);
    let expected = &texts + &(arr2(&[there, back, nothing]) * found.strength);
    assert!(found.strength > 0.0, "{found:?}");
    assert!(found.matrix.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} for {expected}");
}

/// A direction near `of`, by a little arithmetic that is as good as chance.
fn near(of: &[f32], seed: u64, spread: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    let mut values: Vec<f32> = of.iter().map(|value| value + spread * draw()).collect();
    normalize(&mut values);
    values
}

/// Texts that say little about the images, and examples that say much.
#[test]
fn good_examples_of_a_set_help_with_images_that_were_not_seen() {
    let centers = Array2::<f32>::eye(8);
    let texts = Array2::from_shape_vec(
        (8, 8),
        (0..8).flat_map(|label| near(&centers.row(label).to_vec(), label as u64 + 1, 3.0)).collect(),
    )
    .expect("eight rows");
    let examples: Vec<Vec<Vec<f32>>> = (0..8)
        .map(|label| (0..5).map(|n| near(&centers.row(label).to_vec(), 100 + label as u64 * 10 + n, 1.0)).collect())
        .collect();
    let found = blend_set(texts.view(), &examples, FACTOR_SMALL);
    assert!(found.strength > 0.0 && found.after > found.before, "{found:?}");
    let unseen = |matrix: &Array2<f32>| {
        let right = (0..8).flat_map(|label| (0..50).map(move |n| (label, n))).filter(|(label, n)| {
            let image = near(&centers.row(*label).to_vec(), 10_000 + *label as u64 * 100 + n, 1.0);
            let scores = matrix.dot(&ArrayView1::from(&image));
            let best = (0..8).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            best == Some(*label)
        });
        right.count()
    };
    assert!(unseen(&found.matrix) > unseen(&texts) + 50, "{} and {}", unseen(&found.matrix), unseen(&texts));
}

#[test]
fn examples_of_a_set_that_do_not_help_change_nothing() {
    let texts = Array2::<f32>::eye(6);
    let right: Vec<Vec<f32>> = (0..6).map(|label| texts.row(label).to_vec()).collect();
    let check = |what: &str, examples: &[Vec<Vec<f32>>]| {
        let found = blend_set(texts.view(), examples, FACTOR_SMALL);
        assert_eq!((found.strength, &found.matrix), (0.0, &texts), "{what}");
        assert_eq!(found.before, found.after, "{what}");
    };
    check("no examples", &<[Vec<Vec<f32>>; 6]>::default());
    check("one each", &right.iter().map(|row| vec![row.clone()]).collect::<Vec<_>>());
    let mut only = <[Vec<Vec<f32>>; 6]>::default();
    only[2] = vec![right[2].clone(); 5];
    check("one label", &only);
    // Half of each label's images are those of the next one.
    let wrong: Vec<Vec<Vec<f32>>> =
        (0..6).map(|label| vec![right[label].clone(), right[(label + 1) % 6].clone()]).collect();
    check("wrong images", &wrong);
}
