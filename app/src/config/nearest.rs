//! The known word that a misspelt one was probably meant to be.

/// The word of `known` nearest to `word`, when it is near enough to be a likely meaning.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    // A third of the letters wrong still reads as a slip; more is another word.
    let limit = (word.chars().count() / 3).max(1);
    let near = known.iter().map(|&k| (distance(&word, k), k)).filter(|&(d, _)| d <= limit);
    near.min_by_key(|&(d, _)| d).map(|(_, k)| k)
}

/// Letters to insert, remove, replace or swap with their neighbour to get from `a` to `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let above = &rows[i - 1];
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        let known = ["source", "bundle", "labels", "output", "state_dir", "top_k", "fps"];
        let check = |word: &str, expected: Option<&str>| assert_eq!(nearest(word, &known), expected, "{word}");
        check("sorce", Some("source"));
        check("suorce", Some("source"));
        check("label", Some("labels"));
        check("State-Dir", Some("state_dir"));
        check("topk", Some("top_k"));
        check("fsp", Some("fps"));
        check("camera", None);
        check("", None);
        check("é", None);
    }
}
