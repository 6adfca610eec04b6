"""The patterns: how inputs and outputs are tied to the steps of a layer."""

from unrolled.models.aligned import Aligned
from unrolled.models.answering import Answering, QuestionReader
from unrolled.models.asking import Asking
from unrolled.models.encoder_decoder import EncoderDecoder
from unrolled.models.language import LanguageModel
from unrolled.models.many_to_one import ManyToOne
from unrolled.models.one_to_many import OneToMany
from unrolled.models.one_to_one import OneToOne
from unrolled.models.unaligned import Unaligned

__all__ = [
    "Aligned",
    "Answering",
    "Asking",
    "EncoderDecoder",
    "LanguageModel",
    "ManyToOne",
    "OneToMany",
    "OneToOne",
    "QuestionReader",
    "Unaligned",
]
