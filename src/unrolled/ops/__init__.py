"""Functions on tensors: the plain equations (``reference``) and the fast paths that equal them."""

from unrolled.ops.recurrent import mode, use

__all__ = ["mode", "use"]
