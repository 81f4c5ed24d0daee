"""The two towers, and the initialisation of the image tower."""

import math
import shutil

import torch
import torch.nn.functional as F
import transformers

import training

EMBEDDING = 256

# Sizes of the image tower. Early training steps use smaller images, and so fewer patches.
IMAGE = {
    # For two CPU cores.
    "small": dict(image_size=64, patch_size=8, hidden_size=192, num_hidden_layers=8, num_attention_heads=6),
    # For a GPU: the largest that the bundle has room for.
    "large": dict(image_size=96, patch_size=8, hidden_size=192, num_hidden_layers=12, num_attention_heads=6),
}
TEXT = dict(vocab_size=8192, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
            max_position_embeddings=64, attention_probs_dropout_prob=0.0)
# PyTorch's fused attention takes six times as long on a CPU, forward and backward, for so few tokens.
ATTENTION = "sdpa" if torch.cuda.is_available() else "eager"


def encoded(encoder, x):
    return encoder(x).last_hidden_state


# On a CPU, the operations between the matrix products cost as much as the products; compiled with a C++ compiler, images of
# 40 px take a third less time.
fused = torch.compile(encoded, dynamic=False) if not torch.cuda.is_available() and shutil.which("g++") else encoded


def order(found, wanted, others, sharpness=20.0):
    """KL divergence between the similarities of `found` and of `wanted` [n, EMBEDDING] to `others` [m, EMBEDDING]. It teaches the
    position of an embedding relative to many others, not only that it is closest to its own target."""
    return F.kl_div(F.log_softmax(found @ others.T * sharpness, 1), F.softmax(wanted @ others.T * sharpness, 1),
                    reduction="batchmean")


def turn(found, wanted):
    """The rotation [EMBEDDING, EMBEDDING] that brings the columns of `found` [EMBEDDING, n] closest to those of `wanted`
    (Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966)."""
    left, _, right = torch.linalg.svd(wanted @ found.T)
    return left @ right


class Tower(torch.nn.Module):
    """A transformer with pooler and projection; its embeddings are normalised."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.projection = torch.nn.Linear(model.config.hidden_size, EMBEDDING, bias=False)

    def project(self, pooled):
        return F.normalize(self.projection(pooled.float()), dim=-1)


class ImageTower(Tower):
    """A ViT that is trained on images up to its image size."""

    def __init__(self, size):
        config = transformers.ViTConfig(intermediate_size=4 * IMAGE[size]["hidden_size"], hidden_dropout_prob=0.0,
                                        attention_probs_dropout_prob=0.0, attn_implementation=ATTENTION, **IMAGE[size])
        super().__init__(transformers.ViTModel(config))
        begin_local(self.model)

    def forward(self, pixels, corner=(0, 0)):
        """Embeds `pixels` [n, 3, side, side]; `corner` is the position of a smaller image in the grid of positions."""
        model = self.model
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=training.HALF):
            x = model.embeddings.patch_embeddings.projection(pixels)
            rows, columns = x.shape[-2:]
            grid = model.config.image_size // model.config.patch_size
            places = model.embeddings.position_embeddings[0, 1:].view(grid, grid, -1)
            places = places[corner[0]:corner[0] + rows, corner[1]:corner[1] + columns].flatten(0, 1)
            first = model.embeddings.cls_token + model.embeddings.position_embeddings[:, :1]
            x = torch.cat([first.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2) + places], 1)
            # Without gradients, sizes vary too much for compilation.
            x = model.layernorm((fused if torch.is_grad_enabled() else encoded)(model.encoder, x))
            pooled = model.pooler(x)
        return self.project(pooled)


class TextTower(Tower):
    def __init__(self):
        config = transformers.BertConfig(hidden_dropout_prob=0.05, attn_implementation=ATTENTION, **TEXT)
        super().__init__(transformers.BertModel(config))

    def pooled(self, ids, mask):
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=training.HALF):
            return self.model(input_ids=ids, attention_mask=mask).pooler_output

    def forward(self, ids, mask):
        return self.project(self.pooled(ids, mask))


@torch.no_grad()
def begin_local(vit):
    """Initialises the weights so that each head attends to one neighbour of each patch, like one tap of a convolution.

    There are too few photographs for a transformer to learn locality from them. The last channels of a token hold Fourier
    features of its position, and no layer writes to them at first; queries are keys shifted by the head's offset. All weights
    remain ordinary trainable parameters of a ViT. The idea is from Trockman and Kolter,
    "Mimetic initialization of self-attention layers", 2023; Cordonnier et al., "On the relationship between
    self-attention and convolutional layers", 2020.
    """
    config = vit.config
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    grid = config.image_size // config.patch_size
    # Wavelengths that distinguish all positions of the grid; the shortest is two patches.
    number = size // 4
    waves = math.pi * torch.arange(1, number + 1) / max(number, grid)

    def features(row, column):
        return torch.cat([torch.cos(waves * row), torch.sin(waves * row), torch.cos(waves * column), torch.sin(waves * column)])

    def moved(row, column):
        """The matrix that maps the features of a position to those of the position shifted by `row` and `column`."""
        matrix = torch.zeros(size, size)
        for axis, shift in enumerate((row, column)):
            at = 2 * axis * number
            cos, sin = torch.diag(torch.cos(waves * shift)), torch.diag(torch.sin(waves * shift))
            matrix[at:at + 2 * number, at:at + 2 * number] = torch.cat(
                [torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)], 0)
        return matrix

    place = slice(hidden - size, hidden)
    embeddings = vit.embeddings
    embeddings.position_embeddings.normal_(0, 0.02)
    positions = embeddings.position_embeddings[0, 1:].view(grid, grid, hidden)
    for row in range(grid):
        for column in range(grid):
            positions[row, column, place] = features(row, column)
    embeddings.position_embeddings[0, 0, place] = 0
    embeddings.cls_token.normal_(0, 0.5)
    embeddings.cls_token[..., place] = 0
    patches = embeddings.patch_embeddings.projection
    # Orthogonal filters preserve the patch; pixels have a standard deviation of about 0.5.
    torch.nn.init.orthogonal_(patches.weight.view(hidden, -1), gain=1.5)
    patches.weight[place] = 0
    patches.bias.zero_()

    offsets = [(0, 1), (0, -1), (1, 0), (-1, 0), (0, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)]
    # Sharp enough that the intended position gets about 90 % of the attention.
    sharpness = math.sqrt(4 * math.sqrt(size) / number)
    for index, layer in enumerate(vit.encoder.layer):
        attention = layer.attention.attention
        for linear in (attention.query, attention.key):
            linear.weight.normal_(0, 0.02)
            linear.bias.zero_()
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            offset = offsets[(index * heads + head) % len(offsets)]
            attention.query.weight[rows, place] += sharpness * moved(*offset)
            attention.key.weight[rows, place] += sharpness * torch.eye(size)
        torch.nn.init.orthogonal_(attention.value.weight)
        attention.value.bias.zero_()
        # Keeps the residual stream at its initial magnitude.
        gain = 1 / math.sqrt(2 * config.num_hidden_layers)
        for linear, gain in ((layer.attention.output.dense, gain), (layer.intermediate.dense, 1.0), (layer.output.dense, 2 * gain)):
            torch.nn.init.orthogonal_(linear.weight, gain=gain)
            linear.bias.zero_()
        for linear in (layer.attention.output.dense, layer.output.dense):
            linear.weight[place] = 0
    torch.nn.init.orthogonal_(vit.pooler.dense.weight)
