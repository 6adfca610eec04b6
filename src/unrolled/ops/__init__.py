"""Functions on tensors: the plain equations (``reference``) and the fast paths that equal them."""

from unrolled.ops.modes import mode, precision, use

__all__ = ["mode", "precision", "use"]
