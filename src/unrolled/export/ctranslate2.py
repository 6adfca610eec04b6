"""Encoder-decoder models of attention for CTranslate2, which runs them in C++.

It takes tokens and gives tokens: the tokenizers stand beside the model, with a page on their use.

Shapes: V tokens, W width, P positions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import UserError
from unrolled.export.parity import Difference, Ids, Scores, Texts, compare
from unrolled.export.plain import refuse_changed
from unrolled.models import Unaligned
from unrolled.nn import Attention, TokenEmbedding
from unrolled.nn.attention import CrossAttention, SelfAttention
from unrolled.nn.positions import sinusoid
from unrolled.nn.transformer import Block, FeedForward
from unrolled.text.tokenizers import BOS, EOS, SPECIALS, UNK, Tokenizer

POSITIONS = 4096  # P of sinusoids, where nothing limits the length
SOURCE = "tokenizer.json"
TARGET = "target.json"
ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "swiglu": "SWISH"}

README = """\
# A model for CTranslate2

It takes and gives tokens. In this folder, after `pip install ctranslate2 tokenizers`:

```python
import ctranslate2, tokenizers

source = tokenizers.Tokenizer.from_file("{source}")
target = tokenizers.Tokenizer.from_file("{target}")
translator = ctranslate2.Translator(".", compute_type="float32")  # int8 is smaller and faster
found = translator.translate_batch([source.encode("a text").tokens], beam_size=5, disable_unk=True)
print(target.decode([target.token_to_id(token) for token in found[0].hypotheses[0]]))
```

By itself CTranslate2 cuts texts after 1,024 tokens and answers after 256 (`max_input_length`,
`max_decoding_length`).{reach} Its `length_penalty` is a power of the length alone.
"""


def write(
    model: Unaligned, source: Tokenizer, target: Tokenizer, folder: Path
) -> Difference:
    """Write model and vocabularies into a folder, run the model, and compare it with ours.

    Args:
        model: in evaluation mode, on the CPU.
        source, target: its vocabularies.
        folder: an empty one.

    Raises:
        UserError: CTranslate2 is missing or has no such model; the message says what to do.
    """
    try:
        import ctranslate2
    except ImportError:
        raise UserError(
            "this needs CTranslate2: pip install 'unrolled[export]'"
        ) from None
    source_tokens = _tokens(source)
    target_tokens = _tokens(target)
    spec = _spec(model)
    spec.register_source_vocabulary(source_tokens)
    spec.register_target_vocabulary(target_tokens)
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
    source.save(folder / SOURCE)
    if target is not source:
        target.save(folder / TARGET)
    (folder / "README.md").write_text(_page(model, target is source), "utf-8")
    threads = torch.get_num_threads()
    translator = ctranslate2.Translator(
        str(folder), compute_type="float32", intra_threads=threads
    )
    running = _Running(translator, source_tokens, target_tokens)
    return compare(model, running, source.size, target.size)


def refuse(model: Unaligned) -> None:
    """Raise UserError for a model that CTranslate2 has no counterpart of."""
    encoder = model.encoder
    decoder = model.decoder
    if not isinstance(encoder, Attention) or not isinstance(decoder, Attention):
        raise UserError(
            "CTranslate2 has attention alone; export a run of layer=attention without model.decoder"
        )
    if encoder.causal:
        raise UserError(
            "CTranslate2's encoder reads both ways; export a run of model.bidirectional=true"
        )
    for layer in (encoder, decoder):
        changed = layer.variant.changed()
        if cast(Block, layer.blocks[0]).feedforward.kind not in ACTIVATIONS:
            changed = ["feedforward", *changed]
        if changed:
            names = ", ".join(f"model.{name}" for name in changed)
            raise UserError(f"no model of {names} is exported; unset them")
    if not isinstance(model.source, TokenEmbedding):
        raise UserError("CTranslate2 reads tokens, and this model reads something else")
    if model.target.size != model.head.out_features:
        raise UserError(
            "CTranslate2 writes each token that it reads, and this model some alone"
        )
    refuse_changed(model, "ctranslate2")


def _tokens(tokenizer: Tokenizer) -> list[str]:
    """Return the tokens as the library ``tokenizers`` spells them, in the order of their ids."""
    import tokenizers

    library = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.document))
    return [str(library.id_to_token(id)) for id in range(tokenizer.size)]


def _page(model: Unaligned, joint: bool) -> str:
    reach = ""
    if model.limit:
        reach = f" This one reads and writes {model.limit:,} at most."
    target = SOURCE if joint else TARGET
    return README.format(source=SOURCE, target=target, reach=reach)


# ---------------------------------------------------------------------- weights


def _spec(model: Unaligned) -> Any:
    """Return the model as CTranslate2 describes it."""
    from ctranslate2.specs import transformer_spec

    encoder = cast(Attention, model.encoder)
    decoder = cast(Attention, model.decoder)
    decoder_settings = _settings(decoder)
    encoder_spec = transformer_spec.TransformerEncoderSpec(**_settings(encoder))
    decoder_spec = transformer_spec.TransformerDecoderSpec(
        **decoder_settings,
        # what ``Attention.chosen`` takes: the last block but one, all of its heads
        alignment_layer=max(0, decoder_settings["num_layers"] - 2),
        alignment_heads=0,
    )
    source = cast(TokenEmbedding, model.source)
    _set_stack(encoder_spec, encoder_spec.embeddings[0], encoder, source)
    _set_stack(decoder_spec, decoder_spec.embeddings, decoder, model.target)
    _set_linear(decoder_spec.projection, model.head)
    spec = transformer_spec.TransformerSpec(encoder_spec, decoder_spec)
    config = spec.config
    config.layer_norm_epsilon = cast(Any, decoder.blocks[0]).attention_norm.eps
    config.unk_token = SPECIALS[UNK]
    config.bos_token = SPECIALS[BOS]
    config.eos_token = SPECIALS[EOS]
    config.decoder_start_token = SPECIALS[BOS]
    config.add_source_eos = True
    return spec


def _settings(layer: Attention) -> dict[str, Any]:
    from ctranslate2.specs import common_spec

    block = cast(Block, layer.blocks[0])
    heads = block.attention.heads
    kind = block.feedforward.kind
    return {
        "num_layers": len(layer.blocks),
        "num_heads": heads,
        "num_heads_kv": layer.kv_heads if layer.kv_heads != heads else None,
        "pre_norm": block.norm_first,
        "rms_norm": isinstance(block.attention_norm, nn.RMSNorm),
        "activation": common_spec.Activation[ACTIVATIONS[kind]],
        "ffn_glu": block.feedforward.gated,
        "rotary_dim": layer.head_size if layer.positions == "rotary" else None,
        "rotary_interleave": False,  # feature e is turned with feature e + E/2
    }


def _set_stack(
    spec: Any, table: Any, layer: Attention, embedding: TokenEmbedding
) -> None:
    """Fill in one side: vectors of tokens and positions, blocks, and the norm after them."""
    table.weight = embedding.weight.detach()
    spec.scale_embeddings = float(embedding.scale)
    if isinstance(layer.project, nn.Linear):
        # has no counterpart, but a table can hold it
        table.weight = layer.project(table.weight * embedding.scale).detach()
        spec.scale_embeddings = 1.0
    if layer.positions != "rotary":
        spec.position_encodings.encodings = _positions(layer)
    if hasattr(spec, "layer_norm"):
        _set_norm(spec.layer_norm, layer.norm)
    for part, module in zip(spec.layer, layer.blocks, strict=True):
        block = cast(Block, module)
        _set_attention(part.self_attention, block.attention, block.attention_norm)
        if block.cross is not None:
            _set_attention(part.attention, block.cross, block.cross_norm)
        _set_feedforward(part.ffn, block.feedforward)
        _set_norm(part.ffn.layer_norm, block.feedforward_norm)


def _positions(layer: Attention) -> Tensor:
    """Return the vectors of all positions (P, W)."""
    if layer.position_table is not None:
        return layer.position_table.weight.detach()
    positions = torch.arange(layer.context or POSITIONS)
    return sinusoid(positions[None], layer.output_size)[0]


def _set_attention(
    spec: Any, attention: SelfAttention | CrossAttention, norm: Any
) -> None:
    query = attention.query
    rest = (attention.key, attention.value)
    if isinstance(attention, SelfAttention):
        _set_linear(spec.linear[0], query, *rest)
    else:
        _set_linear(spec.linear[0], query)
        _set_linear(spec.linear[1], *rest)
        if hasattr(spec, "num_heads_kv"):  # few there are of the sequence itself alone
            spec.num_heads_kv = np.int32(attention.heads)
    _set_linear(spec.linear[-1], attention.out)
    _set_norm(spec.layer_norm, norm)


def _set_feedforward(spec: Any, part: FeedForward) -> None:
    _set_linear(spec.linear_0, part.up)
    if part.gated:
        spec.linear_0.weight, spec.linear_0_noact.weight = spec.linear_0.weight.chunk(2)
        if part.up.bias is not None:
            spec.linear_0.bias, spec.linear_0_noact.bias = spec.linear_0.bias.chunk(2)
    _set_linear(spec.linear_1, part.out)


def _set_linear(spec: Any, *linears: nn.Linear) -> None:
    """Set products of one input side by side; all of them have a bias, or none has."""
    spec.weight = torch.cat([linear.weight.detach() for linear in linears])
    if linears[0].bias is not None:
        spec.bias = torch.cat([linear.bias.detach() for linear in linears])


def _set_norm(spec: Any, norm: Any) -> None:
    spec.gamma = norm.weight.detach()
    if isinstance(norm, nn.LayerNorm):
        spec.beta = norm.bias.detach()


# ---------------------------------------------------------------------- at work


class _Running:
    """The exported model at work; see ``parity.Exported``."""

    def __init__(self, translator: Any, source: list[str], target: list[str]) -> None:
        self.translator = translator
        self.source = source
        self.target = target
        self.ids = {token: id for id, token in enumerate(target)}

    def score(self, sources: Ids, targets: Ids) -> Scores:
        scores = self.translator.score_batch(
            _spelt(sources, self.source),
            _spelt(targets, self.target),
            max_input_length=0,
        )
        return [score.log_probs for score in scores]

    def write(self, sources: Ids, most: int) -> Texts:
        translations = self.translator.translate_batch(
            _spelt(sources, self.source),
            beam_size=1,
            length_penalty=0,
            min_decoding_length=0,  # with 1 the other tokens become likelier at the first step
            max_decoding_length=most,
            max_input_length=0,
            return_scores=True,
            return_end_token=True,
        )
        texts: Texts = []
        for translation in translations:
            ids = [self.ids[token] for token in translation.hypotheses[0]]
            texts.append((ids, translation.scores[0]))
        return texts


def _spelt(texts: Ids, tokens: list[str]) -> list[list[str]]:
    return [[tokens[id] for id in text] for text in texts]
