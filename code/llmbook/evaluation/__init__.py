"""What a model can do: scores, and how far to trust them.

:func:`evaluate` asks a model the questions of any benchmarks,
:func:`load_model` finds the model. What they are made of lies in the
modules, one for each kind of question.
"""

from llmbook.evaluation.harness import evaluate
from llmbook.evaluation.loading import load_model

__all__ = ["evaluate", "load_model"]
