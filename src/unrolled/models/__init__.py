"""The five patterns: how inputs and outputs are tied to the steps of a layer."""

from unrolled.models.aligned import Aligned
from unrolled.models.language import LanguageModel
from unrolled.models.many_to_one import ManyToOne
from unrolled.models.one_to_one import OneToOne
from unrolled.models.unaligned import Unaligned

__all__ = ["Aligned", "LanguageModel", "ManyToOne", "OneToOne", "Unaligned"]
