"""Fast paths of layers: Triton kernels behind ops that every transform goes through.

Layers choose through :mod:`funcrec.kernels.registry`; nothing here imports Triton before a kernel first runs.
"""

from funcrec.kernels.explain import Explanation, explain

__all__ = ["Explanation", "explain"]
