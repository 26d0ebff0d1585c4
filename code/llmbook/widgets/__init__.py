"""Interactive figures: in a notebook, in the built page, and in print."""

from llmbook.widgets.attention import AttentionExplorer
from llmbook.widgets.rotary import RotaryDial
from llmbook.widgets.sampling import SamplingExplorer
from llmbook.widgets.time_machine import TimeMachine
from llmbook.widgets.token_explorer import TokenExplorer
from llmbook.widgets.tokens import visible

__all__ = [
    "AttentionExplorer",
    "RotaryDial",
    "SamplingExplorer",
    "TimeMachine",
    "TokenExplorer",
    "visible",
]
