//! A tokenizer, and a prompt for it.

use spotter_engine::bundle::{
    FileEntry, Lowercase, Padding, PaddingSide, Positions, SiglipSteps, TokenizerSpec, TruncationSide,
};
use spotter_engine::tokenize::Tokenizer;

/// The first byte of an input.
const BY_SIGLIP: u8 = 1;
const ON_THE_LEFT: u8 = 2;
const TO_ONE_LENGTH: u8 = 4;

/// Tokens of the longest prompt.
const MAX_LENGTH: usize = 16;

/// An arbitrary `tokenizer.json` with an arbitrary prompt: the file is refused, the prompt is, or it has token ids. Two
/// bytes after the first say how long the prompt is, which comes before the file.
pub fn tokenizer(bytes: &[u8]) {
    let Some((&flags, rest)) = bytes.split_first() else { return };
    let Some((length, rest)) = rest.split_first_chunk() else { return };
    let (prompt, json) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let tokenizer = match Tokenizer::from_bytes(json, &spec(flags)) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return drop(error.to_string()),
    };
    match tokenizer.encode(&String::from_utf8_lossy(prompt)) {
        Ok(encoding) => {
            let tokens = encoding.ids.len();
            for other in [&encoding.mask, &encoding.type_ids, &encoding.position_ids] {
                assert_eq!(other.len(), tokens);
            }
            assert!(tokens >= MAX_LENGTH || flags & TO_ONE_LENGTH == 0, "{tokens} tokens");
        }
        Err(error) => drop(error.to_string()),
    }
}

fn spec(flags: u8) -> TokenizerSpec {
    let has = |flag: u8| flags & flag != 0;
    TokenizerSpec {
        file: FileEntry { name: "tokenizer.json".to_owned(), bytes: 0, sha256: "0".repeat(64) },
        max_length: MAX_LENGTH,
        truncation_side: if has(ON_THE_LEFT) { TruncationSide::Left } else { TruncationSide::Right },
        padding: if has(TO_ONE_LENGTH) { Padding::MaxLength } else { Padding::Longest },
        padding_side: if has(ON_THE_LEFT) { PaddingSide::Left } else { PaddingSide::Right },
        pad_token: "[PAD]".to_owned(),
        pad_id: 0,
        pad_type_id: 0,
        positions: if has(ON_THE_LEFT) { Positions::AfterPadding } else { Positions::Sequential },
        siglip: has(BY_SIGLIP).then(|| SiglipSteps {
            lowercase: Lowercase::Text,
            unk_token: "<unk>".to_owned(),
            unk_id: 0,
            eos_id: 1,
            remove_extra_whitespaces: true,
            add_dummy_prefix: true,
            reserved: vec![0, 1],
        }),
    }
}
