"""Composes checkpoints of common tower sizes, with weights that behave like trained ones.

Used by compare_onnxruntime.py. Timings need the sizes of real models, and the cost of int8 shows only if weights
and activations are as uneven as after training. So the random weights here have heavy tails and one
scale per output channel; layer norms have outlier channels; a few channels of the feed-forward blocks answer to few
tokens and strongly. Then each layer is fitted to pictures or captions: its attention is neither uniform nor on one
token, its blocks add a fixed share to the residual stream (which grows with depth in the image tower), and its output
depends on the input rather than being one constant direction. `composed` prints the result.
"""

import io
import json
import math
import pathlib
import zipfile

import numpy as np
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    ViTConfig,
    ViTImageProcessor,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

SEED = 20261
# How much stronger a layer answers to the main directions of its input than a random one. Without this a deep random
# tower amplifies every rounding error, which a trained one does not.
ALIGNED = 4.0
TOKENS = 32
# Width, layers, heads, patch side; the feed-forward blocks are four times as wide, pictures 224 pixels.
IMAGE_TOWERS = {
    "vit-b16": (768, 12, 12, 16),
    "vit-b32": (768, 12, 12, 32),
    "deit-tiny": (192, 12, 3, 16),
}
# Width, layers, heads. vit-b32 takes the weights of all-MiniLM-L6-v2 where they are given.
TEXT_TOWERS = {"vit-b16": (768, 12, 12), "vit-b32": (384, 6, 12), "deit-tiny": (256, 4, 4)}
PROJECTION = {"vit-b16": 512, "vit-b32": 512, "deit-tiny": 256}
VOCABULARY = 30522


def read_pictures(source, count):
    """`count` pictures, evenly spaced over the sorted names in a folder or a zip file."""
    source = pathlib.Path(source)
    suffixes = (".webp", ".jpg", ".jpeg", ".png", ".bmp")
    if source.is_dir():
        names = sorted(str(p) for p in source.rglob("*") if p.suffix.lower() in suffixes)
        read = lambda name: pathlib.Path(name).read_bytes()
    else:
        archive = zipfile.ZipFile(source)
        names = sorted(name for name in archive.namelist() if name.lower().endswith(suffixes))
        read = archive.read
    assert len(names) >= count, f"{source}: {len(names)} pictures, {count} wanted"
    chosen = [names[index * len(names) // count] for index in range(count)]
    return [Image.open(io.BytesIO(read(name))).convert("RGB") for name in chosen]


def read_captions():
    """The captions that model-prep measures bundles with."""
    path = pathlib.Path(__file__).parents[2] / "model-prep/src/probes/captions.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def long_captions(captions, count):
    """Texts of at least TOKENS tokens, for captions of five or more."""
    return [" ".join(captions[(3 * index + k) % len(captions)] for k in range(5)) for index in range(count)]


def to_pixels(pictures, side):
    planes = [np.asarray(p.resize((side, side), Image.Resampling.BILINEAR), np.float32) for p in pictures]
    return torch.from_numpy(np.stack(planes).transpose(0, 3, 1, 2) / 127.5 - 1).contiguous()


def heavy_tailed(*shape):
    """Nine parts normal to one part of Student's t with 5 degrees of freedom."""
    normal = torch.randn(shape)
    student = torch.randn(shape) / (torch.randn((5, *shape)).square().mean(0)).sqrt()
    return torch.where(torch.rand(shape) < 0.1, student, normal)


def main_directions(states):
    """An orthonormal basis [width, count] of the directions in which `states` [tokens, width] differ most."""
    count = min(len(states) // 2, states.shape[1] // 8, 96)
    return torch.svd_lowrank(states - states.mean(0), q=count, niter=1)[2]


def fill_linear(linear, directions=None):
    """Random weights; they answer to `directions` more than to the others."""
    rows, columns = linear.weight.shape
    scales = (torch.randn(rows, 1) * 0.35).exp()
    weight = heavy_tailed(rows, columns)
    if directions is not None:
        weight = weight + ALIGNED * (weight @ directions) @ directions.T
    linear.weight.copy_(weight * scales / math.sqrt(columns))
    if linear.bias is not None:
        linear.bias.copy_(torch.randn(rows) * 0.1 * scales[:, 0])


def fill_layer_norm(norm, outliers, least=5.0):
    """The weights at `outliers` become `least` to twice as much times the others."""
    norm.weight.copy_((torch.randn_like(norm.weight) * 0.25).exp())
    norm.weight[outliers] *= least * (1 + torch.rand(len(outliers)))
    norm.bias.copy_(torch.randn_like(norm.bias) * 0.1)


def scale_rows(linear, factors):
    linear.weight.mul_(factors[:, None])
    linear.bias.mul_(factors)


def rms(values):
    return values.square().mean().sqrt()


def settle(linear, values, keep, wanted):
    """Takes most of the mean from the outputs of `linear` and gives them the size `wanted`; returns them.

    `keep` says which tokens are none of padding.
    """
    mean = 0.4 * values[keep].mean(0)
    linear.bias.sub_(mean)
    factor = wanted / rms(values[keep] - mean)
    scale_rows(linear, factor.expand(len(mean)))
    return (values - mean) * factor


class Fitting:
    """Fits the layers of one tower, one after the other, to the hidden states that reach them."""

    def __init__(self, config, keep, massive_weight):
        self.keep = keep
        self.massive_weight = massive_weight
        self.heads = config.num_attention_heads
        self.layers = config.num_hidden_layers
        self.outliers = torch.randperm(config.hidden_size)[:3]
        self.entropies = []
        self.peaks = []

    def attention(self, names, states, share, index):
        """`names`: query, key, value, output. The output's size becomes `share`; returns it."""
        query, key, value, output = names
        directions = main_directions(states[self.keep])
        for linear in names[:3]:
            fill_linear(linear, directions)
        split = lambda values: values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(query(states)), split(key(states)), split(value(states))
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        whole = self.keep.all(1)
        spread = logits[whole].var(-1).mean((0, 2)).sqrt()
        sharpness = 1.0 + 0.8 * index / self.layers
        wanted = sharpness * (torch.randn(self.heads) * 0.25).exp()
        factors = (wanted / spread).sqrt().repeat_interleave(q.shape[-1])
        scale_rows(query, factors)
        scale_rows(key, factors)
        logits = logits * (wanted / spread)[:, None, None]
        weights = logits.masked_fill(~self.keep[:, None, None], -1e9).softmax(-1)
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)[whole].mean()
        self.entropies.append(entropy.item() / math.log(weights.shape[-1]))
        context = (weights @ v).transpose(1, 2).flatten(2)
        fill_linear(output, main_directions(context[self.keep]))
        return settle(output, output(context), self.keep, share)

    def feed_forward(self, first, second, states, share):
        """The output's size becomes `share`; returns it."""
        fill_linear(first, main_directions(states[self.keep]))
        before = first(states)[self.keep]
        wanted = (torch.randn(len(first.bias)) * 0.4).exp()
        scale_rows(first, wanted / before.std(0))
        first.bias.sub_(before.mean(0) * wanted / before.std(0) + 0.6 * wanted)
        # Massive channels: silent for all but a few tokens, and then far above the others.
        massive = torch.randperm(len(first.bias))[:4]
        first.weight[massive] *= 5
        first.bias[massive] *= 5
        strong = first(states)[self.keep][:, massive]
        first.bias[massive] -= strong.quantile(0.97, dim=0)
        middle = torch.nn.functional.gelu(first(states))
        self.peaks.append((middle[self.keep].abs().max() / rms(middle[self.keep])).item())
        fill_linear(second, main_directions(middle[self.keep]))
        second.weight[:, massive] *= 0.2
        second.weight[self.outliers[:2, None], massive] *= self.massive_weight
        return settle(second, second(middle), self.keep, share)


def patch_filters(count, colours, height, width):
    """Sums of waves, the slow ones stronger, with a little noise; most filters hardly see the mean over a patch."""
    waves = []
    for side in [height, width]:
        places = (torch.arange(side) + 0.5) * math.pi / side
        waves.append(torch.cos(torch.arange(8)[:, None] * places))
    falling = 1 / (1 + torch.arange(8)[:, None] + torch.arange(8))
    strength = heavy_tailed(count, colours, 8, 8) * falling
    strength[:, :, 0, 0] *= torch.where(torch.rand(count, 1) < 0.85, 0.2, 1.0)
    filters = torch.einsum("ocab,ay,bx->ocyx", strength, *waves)
    return filters + 0.1 * filters.std() * heavy_tailed(*filters.shape)


def fit_vit(model, pixels):
    """Fills and fits a ViTModel; returns the fitting."""
    fitting = Fitting(model.config, torch.ones(len(pixels), model.embeddings.patch_embeddings.num_patches + 1) > 0, 5)
    embeddings = model.embeddings
    projection = embeddings.patch_embeddings.projection
    projection.weight.copy_(patch_filters(*projection.weight.shape))
    patches = torch.nn.functional.conv2d(pixels, projection.weight, stride=projection.stride).transpose(0, 1).flatten(1)
    scales = (torch.randn(len(patches)) * 0.35).exp() / patches.std(1)
    projection.weight.mul_(scales[:, None, None, None])
    projection.bias.copy_(-0.9 * patches.mean(1) * scales)
    embeddings.cls_token.copy_(torch.randn_like(embeddings.cls_token) * 0.4)
    embeddings.position_embeddings.copy_(torch.randn_like(embeddings.position_embeddings) * 0.4)
    x = embeddings(pixels)
    sizes = [rms(x).item()]
    for index, layer in enumerate(model.encoder.layer):
        inner = layer.attention.attention
        names = (inner.query, inner.key, inner.value, layer.attention.output.dense)
        fill_layer_norm(layer.layernorm_before, fitting.outliers)
        fill_layer_norm(layer.layernorm_after, fitting.outliers)
        x = x + fitting.attention(names, layer.layernorm_before(x), 0.35 * rms(x), index)
        states = layer.layernorm_after(x)
        x = x + fitting.feed_forward(layer.intermediate.dense, layer.output.dense, states, 0.35 * rms(x))
        sizes.append(rms(x).item())
    fill_layer_norm(model.layernorm, fitting.outliers)
    fit_pooler(model.pooler.dense, model.layernorm(x)[:, 0])
    print(f"  residual stream: {sizes[0]:.1f} at the first layer, {sizes[-1]:.1f} after the last")
    return fitting


def fit_bert(model, tokens):
    """Fills and fits a BertModel; returns the fitting."""
    fitting = Fitting(model.config, tokens["attention_mask"] > 0, 4)
    embeddings = model.embeddings
    words = embeddings.word_embeddings.weight
    words.copy_(heavy_tailed(*words.shape) * (torch.randn(len(words), 1) * 0.25).exp())
    embeddings.position_embeddings.weight.copy_(torch.randn_like(embeddings.position_embeddings.weight) * 0.3)
    embeddings.token_type_embeddings.weight.copy_(torch.randn_like(embeddings.token_type_embeddings.weight) * 0.1)
    fill_layer_norm(embeddings.LayerNorm, fitting.outliers[:1])
    x = embeddings(tokens["input_ids"], tokens["token_type_ids"])
    for index, layer in enumerate(model.encoder.layer):
        inner = layer.attention.self
        attention = layer.attention.output
        names = (inner.query, inner.key, inner.value, attention.dense)
        fill_layer_norm(attention.LayerNorm, fitting.outliers)
        # What one norm raises the next lowers, or the residual stream would end up in these channels alone.
        fill_layer_norm(layer.output.LayerNorm, fitting.outliers, least=0.15)
        x = attention.LayerNorm(x + fitting.attention(names, x, 0.5 * rms(x), index))
        states = fitting.feed_forward(layer.intermediate.dense, layer.output.dense, x, 0.5 * rms(x))
        x = layer.output.LayerNorm(x + states)
    fit_pooler(model.pooler.dense, x[:, 0])
    return fitting


def fit_pooler(dense, states):
    fill_linear(dense, main_directions(states))
    scale_rows(dense, (0.8 / rms(dense(states))).expand(len(dense.bias)))


def mean_cosine(rows):
    """Mean cosine between different rows."""
    rows = torch.nn.functional.normalize(torch.as_tensor(rows), dim=-1)
    count = len(rows)
    return ((rows @ rows.T).sum() - count).item() / (count * (count - 1))


def write_vocabulary(folder, minilm):
    """BERT's own vocabulary where there is one; else letters and the words of the captions."""
    if minilm:
        words = (minilm / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    else:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-"
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
        known = {word.strip(".,:;!?'\"") for caption in read_captions() for word in caption.lower().split()}
        words += sorted(word for word in known if word.isalpha() and word.isascii() and len(word) > 1)
        words += [f"[unused{index}]" for index in range(VOCABULARY - len(words))]
    assert len(words) == VOCABULARY, len(words)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def report(what, fitting):
    if fitting:
        middle = fitting.entropies[len(fitting.entropies) // 3 : -len(fitting.entropies) // 3]
        print(f"  {what}: entropy of attention in the middle layers, as a share of uniform: "
              + " ".join(f"{entropy:.2f}" for entropy in middle))
        print(f"  {what}: greatest value in the feed-forward blocks / their rms: "
              + " ".join(f"{peak:.0f}" for peak in fitting.peaks))


@torch.no_grad()
def composed(name, folder, pictures, minilm):
    """Writes the checkpoint `name` into `folder`, fitted to `pictures`; `minilm`: all-MiniLM-L6-v2's folder or None."""
    folder.mkdir(parents=True)
    width, layers, heads, patch = IMAGE_TOWERS[name]
    vision = ViTConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                       intermediate_size=4 * width, image_size=224, patch_size=patch)
    width, layers, heads = TEXT_TOWERS[name]
    text = BertConfig(vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                      intermediate_size=4 * width)
    real = BertModel.from_pretrained(minilm) if minilm and name == "vit-b32" else None
    torch.manual_seed(SEED + list(IMAGE_TOWERS).index(name))
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, real.config if real else text, projection_dim=PROJECTION[name])
    model = VisionTextDualEncoderModel(config).eval()
    write_vocabulary(folder, minilm)
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=77)
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)

    print(name)
    report("image tower", fit_vit(model.vision_model, to_pixels(pictures[::2], 224)))
    captions = read_captions()
    texts = [*captions[::2], *long_captions(captions[::2], 12)]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    if real:
        model.text_model.load_state_dict(real.state_dict())
        print("  text tower: the weights of all-MiniLM-L6-v2")
    else:
        report("text tower", fit_bert(model.text_model, tokens))
    for projection in [model.visual_projection, model.text_projection]:
        fill_linear(projection)
    model.logit_scale.fill_(3.0)
    # Pictures and captions that nothing was fitted to.
    images = model.get_image_features(pixel_values=to_pixels(pictures[1::2], 224))
    states = model.vision_model(pixel_values=to_pixels(pictures[1::2], 224)).last_hidden_state[:, 0]
    print(f"  mean cosine between pictures: {mean_cosine(images):.2f} (hidden states: {mean_cosine(states):.2f})")
    tokens = tokenizer(captions[1::2], padding=True, return_tensors="pt")
    print(f"  mean cosine between captions: {mean_cosine(model.get_text_features(**tokens)):.2f}", flush=True)
    model.save_pretrained(folder)
    (folder / "composed.json").write_text(json.dumps({"seed": SEED, "real_text_tower": bool(real)}) + "\n")
